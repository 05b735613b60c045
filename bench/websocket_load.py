"""Many WebSockets in a process of its own, which count the events they are sent and how long those took.

Each event's id is the time at which it was made, in nanoseconds since the epoch, so that its frame says by
itself how long it took. Every event is counted at every socket; the times are those of one socket in eight.
A message is taken apart no further than that: what a client costs should not be what is measured.

    python -m bench.websocket_load SPECIFICATION    prints `ready`, reads how many events there were, tells
"""

import asyncio
import base64
import functools
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from typing import cast

import msgspec
import numpy as np
import uvloop

from core.errors import InternalError
from core.settings import LOOPBACK
from core.structs import ready

TIMED = 8
SETTLE_S, OPEN_S = 5.0, 60.0
_TEXT, _CLOSE, _PING = 0x81, 0x88, 0x89


@dataclass(frozen=True)
class Specification:
    """sockets: so many, each with the headers of the upgrade and then the frames. ready: what a message has
    that says that it goes on from here; empty where the upgrade does. event: what each event has once; id: a
    pattern with the event's id."""

    port: int
    sockets: int
    headers: tuple[str, ...]
    frames: tuple[str, ...]
    ready: str
    event: str
    id: str


@ready
class Came(msgspec.Struct, frozen=True):
    """What the sockets had: the least and most events of one, and the times of the timed ones, in ms."""

    least: int
    most: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    messages: int


class Sockets:
    """The process; use as a context manager. It is ready when it has been entered."""

    def __init__(self, given: Specification) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.websocket_load", json.dumps(asdict(given))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def __enter__(self) -> "Sockets":
        self._line()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def came(self, events: int) -> Came:
        """Of so many events that were made since the last call, when all are there or 5 s have gone by."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"%d\n" % events)
        self._process.stdin.flush()
        return msgspec.json.decode(self._line(), type=Came)

    def _line(self) -> bytes:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise InternalError("the sockets' process has ended", where="bench.websocket_load")
        return line


class Socket(asyncio.Protocol):
    """One socket; see RFC 6455. Its own frames are masked with zeros."""

    def __init__(self, given: Specification, *, timed: bool) -> None:
        self._given = given
        self._timed = timed
        self._event = given.event.encode()
        self._id = re.compile(given.id.encode())
        self._come: list[bytes] = []
        self._missing = 0
        self._transport: asyncio.Transport | None = None
        self._upgraded = False
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.events = 0
        self.messages = 0
        self.took_ns: list[int] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        key = base64.b64encode(os.urandom(16)).decode()
        lines = (
            "GET /api/v1/stream HTTP/1.1", f"Host: {LOOPBACK}:{self._given.port}", "Connection: Upgrade",
            "Upgrade: websocket", "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {key}",
            *self._given.headers, "", "",
        )  # fmt: skip
        self._transport.write("\r\n".join(lines).encode())

    def connection_lost(self, error: Exception | None) -> None:
        if not self.ready.done():
            self.ready.set_exception(ConnectionResetError(f"a server hung up: {error!r}"))

    def data_received(self, data: bytes) -> None:
        self._missing -= len(data)
        if self._missing > 0:  # of a frame whose length is known: put together once, when it is there
            self._come.append(data)
            return
        come = b"".join((*self._come, data)) if self._come else data
        self._come.clear()
        if not self._upgraded:
            end = come.find(b"\r\n\r\n")
            if end < 0:
                self._come.append(come)
                return
            if b" 101 " not in come[:16]:
                self.ready.set_exception(ConnectionError(come[:200].decode("latin-1")))
                return
            self._upgraded = True
            for frame in self._given.frames:
                self._send(_TEXT, frame.encode())
            if not self._given.ready:
                self.ready.set_result(None)
            come = come[end + 4 :]
        at = 0
        while (whole := _whole(come, at)) is not None:
            start, stop = whole
            if stop > len(come):
                break
            self._message(come[at], come, start, stop)
            at = stop
        if at < len(come):
            self._come.append(come[at:])
            self._missing = whole[1] - len(come) if whole else 0

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _message(self, kind: int, come: bytes, start: int, stop: int) -> None:
        if kind == _PING:
            self._send(0x8A, come[start:stop])
        elif kind == _CLOSE:
            self.close()
        elif not self.ready.done():
            if self._given.ready.encode() in come[start:stop]:
                self.ready.set_result(None)
        else:
            self.events += come.count(self._event, start, stop)
            self.messages += 1
            if self._timed:
                now = time.time_ns()
                self.took_ns += [now - int(id) for id in self._id.findall(come, start, stop)]

    def _send(self, kind: int, data: bytes) -> None:
        length = len(data)
        head = bytes((kind, 0x80 | length)) if length < 126 else bytes((kind, 0xFE)) + length.to_bytes(2)
        if self._transport is not None:
            self._transport.write(head + bytes(4) + data)


def _whole(come: bytes, at: int) -> tuple[int, int] | None:
    """Where the data of the frame at this place starts and stops, which may be further than what has come;
    None while its head is not all there."""
    if len(come) < at + 2:
        return None
    length, start = come[at + 1], at + 2
    if length == 126:
        length, start = int.from_bytes(come[at + 2 : at + 4]), at + 4
    elif length == 127:
        length, start = int.from_bytes(come[at + 2 : at + 10]), at + 10
    return (start, start + length) if len(come) >= start else None


async def _measured(given: Specification) -> None:
    loop = asyncio.get_running_loop()
    sockets: list[Socket] = []
    async with asyncio.timeout(OPEN_S):
        for number in range(given.sockets):
            make = functools.partial(Socket, given, timed=number % TIMED == 0)
            _, made = await loop.create_connection(make, LOOPBACK, given.port)
            sockets.append(made)
            await made.ready
    _tell(b"ready")
    while line := await loop.run_in_executor(None, sys.stdin.buffer.readline):
        wanted, until = int(line), loop.time() + SETTLE_S
        while min(socket.events for socket in sockets) < wanted and loop.time() < until:
            await asyncio.sleep(0.02)
        took = np.array([ns for socket in sockets for ns in socket.took_ns] or [0]) / 1e6
        events = [socket.events for socket in sockets]
        p50, p95, p99 = (float(np.quantile(took, share)) for share in (0.5, 0.95, 0.99))
        messages = sum(socket.messages for socket in sockets)
        _tell(msgspec.json.encode(Came(min(events), max(events), p50, p95, p99, messages)))
        for socket in sockets:
            socket.events = socket.messages = 0
            socket.took_ns.clear()


def _tell(line: bytes) -> None:
    sys.stdout.buffer.write(line + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    uvloop.run(_measured(Specification(**json.loads(sys.argv[1]))))
