"""Reading the log files of services and jobs: their end, and what comes."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

TAIL_LINES = 12
TAIL_BYTES = 64 << 10
POLL_S = 0.2


def tail(log: Path, lines: int = TAIL_LINES) -> str:
    """The last `lines` of a file, of its last 64 KiB at most; says so when it cannot be read."""
    try:
        with log.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - TAIL_BYTES))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
    except OSError as error:
        return f"(no log: {error})"


def follow(
    logs: Sequence[Path], *, lines: int = 100, stop: Callable[[], bool] = lambda: False
) -> Iterator[str]:
    """The last `lines` of each file, then every new line as it comes, until `stop()`."""
    places: dict[Path, int] = {}
    for log in logs:
        yield from tail(log, lines).splitlines()
        places[log] = log.stat().st_size if log.exists() else 0
    while not stop():
        for log in logs:
            size = log.stat().st_size if log.exists() else 0
            if size < places[log]:
                places[log] = 0  # the log was moved on
            if size > places[log]:
                with log.open("rb") as file:
                    file.seek(places[log])
                    new = file.read(1 << 20)
                end_of_line = new.rfind(b"\n") + 1 or len(new)
                places[log] += end_of_line
                yield from new[:end_of_line].decode(errors="replace").splitlines()
        time.sleep(POLL_S)
