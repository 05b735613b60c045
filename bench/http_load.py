"""HTTP load, the same for every server: prepared requests over connections that are kept.

`Load` is used in the event loop of who measures; `apart` does the same in a process of its own, so that what
a generator takes of an event loop is nobody's. It looks at the status and the length of an answer and at
nothing else: 10 us a request.

    python -m bench.http_load REQUESTS SPECIFICATION
"""

import asyncio
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import msgspec
import numpy as np
import uvloop

from core.errors import InternalError
from core.settings import LOOPBACK
from core.structs import ready

MARK = b"@@number-of-20-char@"
"""Is replaced, wherever it stands in a request, by a number that no other request of the run has."""
_STATUS = slice(9, 12)
_BIG = 1 << 20


@dataclass(frozen=True, slots=True)
class Answer:
    """took_s: from when it was due to the last byte. late_s: from when it was due until it was sent."""

    status: int
    took_s: float
    late_s: float
    head: bytes
    body: bytes

    def header(self, name: str) -> str:
        """Of that lower-case name; empty where there is none."""
        for line in self.head.split(b"\r\n")[1:]:
            key, _, value = line.partition(b":")
            if key.strip().lower() == name.encode():
                return value.strip().decode()
        return ""


class Load:
    """Requests to one server, taken in turn. reuse: those of one connection, which is then made anew."""

    def __init__(self, port: int, requests: Sequence[bytes], *, connections: int, reuse: int = _BIG) -> None:
        self._port = port
        self._parts = [request.split(MARK) for request in requests]
        self._most = connections
        self._reuse = reuse
        self._run = random.randrange(10**9) * 10**10
        self._sent = 0
        self.answers: list[Answer] = []

    async def at_once(self, seconds: float) -> list[Answer]:
        """As many requests under way as there are connections; every answer there was within `seconds`."""
        until = time.perf_counter() + seconds
        async with asyncio.TaskGroup() as group:
            for _ in range(self._most):
                group.create_task(self._again(until))
        return self.answers

    async def steadily(self, rate: float, seconds: float) -> list[Answer]:
        """`rate` requests a second, each sent when it is due or, where every connection is waiting for an
        answer, as soon as one is free."""
        free = deque([await self._connected() for _ in range(self._most)])
        waiting: deque[float] = deque()
        left = round(rate * seconds)
        ended = asyncio.get_running_loop().create_future()

        def answered(connection: "_Connection", answer: Answer) -> None:
            nonlocal left
            self.answers.append(answer)
            left -= 1
            if not left:
                ended.set_result(None)
            elif waiting:
                connection.send(self._next(), waiting.popleft(), answered)
            else:
                free.append(connection)

        begun = time.perf_counter()
        for number in range(left):
            due = begun + number / rate
            wait_s = due - time.perf_counter()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            if free:
                free.popleft().send(self._next(), due, answered)
            else:
                waiting.append(due)
        await asyncio.wait_for(ended, 60.0)
        for connection in free:
            connection.close()
        return self.answers

    async def each(self) -> list[Answer]:
        """Every prepared request once, one after the other."""
        connection = await self._connected()
        for _ in self._parts:
            self.answers.append(await connection.ask(self._next()))
        connection.close()
        return self.answers

    async def _again(self, until: float) -> None:
        connection, used = await self._connected(), 0
        while time.perf_counter() < until:
            if used == self._reuse:
                connection.close()
                connection, used = await self._connected(), 0
            used += 1
            answer = await connection.ask(self._next())
            self.answers.append(answer)
        connection.close()

    async def _connected(self) -> "_Connection":
        _, made = await asyncio.get_running_loop().create_connection(_Connection, LOOPBACK, self._port)
        return made

    def _next(self) -> bytes:
        parts = self._parts[self._sent % len(self._parts)]
        self._sent += 1
        return (b"%020d" % (self._run + self._sent)).join(parts)


class _Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self) -> None:
        self._come = b""
        self._transport: asyncio.Transport | None = None
        self._due = self._sent = 0.0
        self._told: Callable[[_Connection, Answer], None] | None = None
        self._lost: asyncio.Future[Answer] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        if self._lost is not None and not self._lost.done():
            self._lost.set_exception(ConnectionResetError(f"a server hung up: {error!r}"))

    def send(self, request: bytes, due: float, told: Callable[["_Connection", Answer], None]) -> None:
        self._told, self._due, self._sent = told, due, time.perf_counter()
        if self._transport is not None:
            self._transport.write(request)

    async def ask(self, request: bytes) -> Answer:
        self._lost = asyncio.get_running_loop().create_future()
        self.send(request, time.perf_counter(), self._settle)
        return await self._lost

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        come = self._come + data if self._come else data
        end = come.find(b"\r\n\r\n")
        whole = end + 4 + _length(come[:end]) if end >= 0 else _BIG
        if len(come) < whole:
            self._come = come
            return
        self._come = b""
        now = time.perf_counter()
        told, self._told = self._told, None
        if told is not None:
            head = come[:end]
            late = self._sent - self._due
            told(self, Answer(int(head[_STATUS]), now - self._due, late, head, come[end + 4 : whole]))

    def _settle(self, _: "_Connection", answer: Answer) -> None:
        if self._lost is not None and not self._lost.done():
            self._lost.set_result(answer)


def _length(head: bytes) -> int:
    at = head.lower().find(b"content-length:")
    return 0 if at < 0 else int(head[at + 15 :].split(b"\r\n", 1)[0])


@ready
class Summary(msgspec.Struct, frozen=True):
    """Answers of the wanted status, a second, their times in ms from when they were due, how late requests
    were sent, and the times from then on."""

    per_s: float
    count: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    late_p99_ms: float
    sent_p99_ms: float


def summary(answers: Sequence[Answer], seconds: float, *, status: int) -> Summary:
    """Raises InternalError where an answer has another status: figures of refusals say nothing."""
    if not answers:
        raise InternalError("nobody answered")
    for answer in answers:
        if answer.status != status:
            raise InternalError(f"an answer with status {answer.status}", where=answer.body[:300].decode())
    took = np.array([answer.took_s for answer in answers]) * 1e3
    late = np.array([answer.late_s for answer in answers]) * 1e3
    p50, p95, p99 = (float(np.quantile(took, share)) for share in (0.5, 0.95, 0.99))
    return Summary(
        len(answers) / seconds,
        len(answers),
        p50,
        p95,
        p99,
        float(took.max()),
        float(np.quantile(late, 0.99)),
        float(np.quantile(took - late, 0.99)),
    )


@dataclass(frozen=True)
class Specification:
    """Load for `seconds`, after `warm_s` that do not count: at `rate` a second, or with all connections busy
    where there is none. reuse: requests of a connection before it is closed and made again."""

    port: int
    connections: int
    seconds: float
    status: int
    rate: float | None = None
    warm_s: float = 0.5
    reuse: int = _BIG


def apart(requests: Sequence[bytes], given: Specification) -> Summary:
    """The load by a process of its own. Raises InternalError where it failed."""
    with UnderWay(requests, given) as load:
        return load.ended()


class UnderWay:
    """Load by a process of its own that goes on beside the caller; use as a context manager."""

    def __init__(self, requests: Sequence[bytes], given: Specification) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="millstream-bench-")
        file = Path(self._folder.name) / "requests"
        file.write_bytes(msgspec.msgpack.encode(list(requests)))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.http_load", str(file), json.dumps(asdict(given))],
            stdout=subprocess.PIPE,
        )

    def __enter__(self) -> "UnderWay":
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._folder.cleanup()

    def ended(self) -> Summary:
        told, _ = self._process.communicate()
        if self._process.returncode:
            raise InternalError("the load generator failed", where="bench.http_load")
        return msgspec.json.decode(told, type=Summary)


def main(file: str, text: str) -> None:
    requests = msgspec.msgpack.decode(Path(file).read_bytes(), type=list[bytes])
    given = Specification(**json.loads(text))

    async def measured() -> Summary:
        for seconds in (given.warm_s, given.seconds):
            load = Load(given.port, requests, connections=given.connections, reuse=given.reuse)
            before = time.perf_counter()
            if given.rate is None:
                answers = await load.at_once(seconds)
            else:
                answers = await load.steadily(given.rate, seconds)
            took = time.perf_counter() - before
        return summary(answers, took, status=given.status)

    sys.stdout.buffer.write(msgspec.json.encode(uvloop.run(measured())))


if __name__ == "__main__":
    main(*sys.argv[1:])
