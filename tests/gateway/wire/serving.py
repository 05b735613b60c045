"""A server of `gateway.wire` on loopback, and what it serves."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from core.errors import MillstreamError
from gateway.wire.call import Call
from gateway.wire.listener import Listener
from gateway.wire.websocket import WebSocket, framed
from tests.stack_fixture import free_ports

WITHIN_S = 60.0
LARGE = b"x" * 4_000_000
HEAD = b"content-type: text/plain\r\n"


class Echo:
    """Answers with the target and the size of the body; `/slow` when it is let; `/large` with much."""

    body_read_s = answer_take_s = WITHIN_S

    def __init__(self) -> None:
        self.let = asyncio.Event()
        self.begun: list[str] = []
        self.left = asyncio.Event()
        self.messages: list[Any] = []
        self.written, self.full = 0, asyncio.Event()
        self.reading = asyncio.Event()
        self.reading.set()

    def at_once(self, call: Call) -> bool:
        return call.path in ("/now", "/never")

    async def http(self, call: Call) -> None:
        self.begun.append(call.path)
        if call.path == "/never":
            await self.let.wait()
        if call.path == "/breaks":
            raise RuntimeError("a fault of ours")
        body = await call.body(10_000_000)
        if call.path == "/slow":
            await self.let.wait()
        if call.path == "/left":
            await call.gone()
            self.left.set()
            return
        if call.path == "/parts":
            call.begin(200, HEAD)
            for part in (b"one ", b"two"):
                await call.part(part)
            call.end()
            return
        answer = LARGE if call.path == "/large" else f"{call.path}?{call.query} {len(body)}".encode()
        call.answer(204 if call.path == "/nothing" else 200, HEAD, answer)

    async def socket(self, socket: WebSocket) -> None:
        offered = socket.protocols
        socket.accept(offered[0] if offered else None)
        while True:
            await self.reading.wait()
            message = await socket.receive()
            self.messages.append(message)
            if message["type"] == "websocket.disconnect":
                return
            said = message.get("text")
            if said == "close":
                socket.close(4429, "enough")
                return
            if said == "much":
                await self.much(socket)
                continue
            if said == "break":
                raise RuntimeError("a fault of ours")
            socket.write(framed(said or "bytes"))
            await socket.room()

    async def much(self, socket: WebSocket) -> None:
        """As much as is taken, and more when there is room."""
        self.written = 0
        while not socket.full:
            socket.write(framed("x" * 60_000))
            self.written += 1
        self.full.set()
        await socket.room()
        assert not socket.full
        socket.write(framed("the end"))

    def unreadable(self, call: Call, error: MillstreamError) -> None:
        call.answer(400, HEAD, error.code.encode())


class Site:
    def __init__(self, **options: Any) -> None:
        self.echo = Echo()
        (self.port,) = free_ports(1)
        self.listener = Listener(self.echo, "127.0.0.1", self.port, **options)

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def answers(self, *data: bytes, pause_s: float = 0.0) -> bytes:
        """All that comes back until the server closes the connection."""
        reader, writer = await self.open()
        for part in data:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(pause_s)
        try:
            return await reader.read()
        finally:
            writer.close()

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/socket"


@asynccontextmanager
async def serving(**options: Any) -> AsyncIterator[Site]:
    made = Site(**options)
    made.listener.start()
    async with asyncio.timeout(WITHIN_S):
        yield made
    await made.listener.stop(5)


def get(path: str, *lines: str, method: str = "GET", version: str = "1.1") -> bytes:
    return "\r\n".join((f"{method} {path} HTTP/{version}", "host: a", *lines, "", "")).encode()


LAST = "connection: close"
