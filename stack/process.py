"""Processes: started in a group of their own, recognised by pid *and* start time, stopped as a group.

A pid alone is not enough to kill by: after a crash of the supervisor (or a reboot) the number may belong
to someone else. The recorded start time tells.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec
import psutil

LOG_LIMIT_BYTES = 64 << 20  # then the log moves to `.1`, replacing the one before
SAME_START_S = 1.5  # two readings of one process' start differ by clock ticks


class Identity(msgspec.Struct, frozen=True):
    """A process for good: its pid and when it started (seconds since the epoch)."""

    pid: int
    started: float

    @classmethod
    def of(cls, pid: int) -> "Identity | None":
        try:
            return cls(pid, psutil.Process(pid).create_time())
        except psutil.Error:
            return None

    def process(self) -> psutil.Process | None:
        """The live process, or None when it ended (also as a zombie) or the pid is someone else's."""
        try:
            process = psutil.Process(self.pid)
            if abs(process.create_time() - self.started) > SAME_START_S:
                return None
            return None if process.status() == psutil.STATUS_ZOMBIE else process
        except psutil.Error:
            return None


def spawn(argv: Sequence[str], *, env: Mapping[str, str], cwd: str, log: Path) -> subprocess.Popen[bytes]:
    """Start `argv` as leader of a new session; its output is appended to `log`. Raises `OSError`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        return subprocess.Popen(
            argv,
            env=dict(env),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def signal_process(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def kill_group(pid: int) -> None:
    """SIGKILL to the group that `pid` leads or led; a group without members is no error."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def end(identities: Iterable[tuple[Identity, int]], timeout_s: float) -> list[int]:
    """Stop processes that are not our children: the given signal, then SIGKILL to the group.

    Returns the pids that were alive. Identities whose pid belongs to another process are left alone.
    """
    alive: list[tuple[Identity, psutil.Process]] = []
    for identity, number in identities:
        process = identity.process()
        if process is not None:
            signal_process(identity.pid, number)
            alive.append((identity, process))
    _, stubborn = psutil.wait_procs([process for _, process in alive], timeout=timeout_s)
    for process in stubborn:
        if process.is_running():  # psutil compares the start time
            kill_group(process.pid)
    psutil.wait_procs(stubborn, timeout=5)
    return [identity.pid for identity, _ in alive]


def describe_exit(code: int) -> str:
    """`code 1` or `signal SIGKILL`."""
    if code >= 0:
        return f"code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"


def resident_mb(pid: int) -> float:
    """Resident memory of the process and its descendants in MiB, memory shared among them counted once."""
    try:
        process = psutil.Process(pid)
        total = process.memory_info().rss
        for child in process.children(recursive=True):
            with contextlib.suppress(psutil.Error):
                memory = child.memory_info()
                total += memory.rss - getattr(memory, "shared", 0)
    except psutil.Error:
        return 0.0
    return round(total / (1 << 20), 1)


def trim_log(log: Path, limit: int = LOG_LIMIT_BYTES) -> bool:
    """Keep a log bounded: over the limit its newest half moves to `<log>.1`. Its writer goes on."""
    try:
        if log.stat().st_size <= limit:
            return False
        with log.open("rb") as old, log.with_name(log.name + ".1").open("wb") as kept:
            old.seek(-limit // 2, os.SEEK_END)
            while piece := old.read(1 << 20):
                kept.write(piece)
        os.truncate(log, 0)
    except OSError:
        return False
    return True


def wait_gone(identity: Identity, timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while identity.process() is not None:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
