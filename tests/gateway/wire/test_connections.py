"""Requests and WebSockets as bytes on a connection: order, limits, ends."""

import asyncio
import base64
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from types import SimpleNamespace
from typing import Any

import pytest
import websockets
from websockets.asyncio.client import connect
from websockets.frames import Frame, Opcode

from core.errors import MillstreamError
from gateway.wire import listener
from gateway.wire.call import HELD_BYTES, Call
from gateway.wire.connection import MOST_BYTES as HEAD_BYTES
from gateway.wire.connection import HttpConnection
from gateway.wire.listener import Listener
from gateway.wire.websocket import HELD_MESSAGES, MOST_BYTES, WebSocket
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
        self.reading = asyncio.Event()
        self.reading.set()

    async def http(self, call: Call) -> None:
        self.begun.append(call.path)
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
        await socket.receive()
        offered = socket.protocols
        await socket.send({"type": "websocket.accept", "subprotocol": offered[0] if offered else None})
        while True:
            await self.reading.wait()
            message = await socket.receive()
            self.messages.append(message)
            if message["type"] == "websocket.disconnect":
                return
            said = message.get("text")
            if said == "close":
                await socket.send({"type": "websocket.close", "code": 4429, "reason": "enough"})
                return
            if said == "break":
                raise RuntimeError("a fault of ours")
            await socket.send({"type": "websocket.send", "text": said or "bytes"})

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


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with serving() as made:
        yield made


class WriteOnly(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.paused = False

    def write(self, data: Any) -> None:
        self.written.append(bytes(data))

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


def get(path: str, *lines: str, method: str = "GET", version: str = "1.1") -> bytes:
    return "\r\n".join((f"{method} {path} HTTP/{version}", "host: a", *lines, "", "")).encode()


LAST = "connection: close"


async def test_requests_sent_at_once_are_answered_in_their_order(site: Site) -> None:
    sent = (
        get("/slow")
        + get("/b?c=1")
        + get("/d", "content-length: 3", method="POST")
        + b"xyz"
        + get("/e", LAST)
    )
    reading = asyncio.create_task(site.answers(sent))
    while site.echo.begun != ["/slow"]:
        await asyncio.sleep(0.01)
    site.echo.let.set()
    found = await reading
    places = [found.index(text) for text in (b"/slow? 0", b"/b?c=1 0", b"/d? 3", b"/e? 0")]
    assert places == sorted(places)
    assert found.count(b"HTTP/1.1 200 OK") == 4
    assert site.echo.begun == ["/slow", "/b", "/d", "/e"]


async def test_a_request_that_comes_byte_by_byte(site: Site) -> None:
    sent = get("/a%20b", "content-length: 4", LAST, method="POST") + b"body"
    found = await site.answers(*(bytes((byte,)) for byte in sent))
    assert found.endswith(b"/a b? 4")


@pytest.mark.parametrize(
    ("sent", "ends"),
    [
        (get("/x", version="1.0"), True),
        (get("/x", "connection: keep-alive", version="1.0"), False),
        (get("/x", LAST), True),
        (get("/x"), False),
        (get("/x", "upgrade: h2c", "connection: upgrade"), True),
        (get("/x", method="CONNECT"), True),
    ],
)
async def test_who_may_go_on_is_told(site: Site, sent: bytes, ends: bool) -> None:
    found = await site.answers(sent + get("/y", LAST))
    assert found.count(b"HTTP/1.1 ") == (1 if ends else 2)
    first = found.split(b"\r\n\r\n")[0]
    assert (b"connection: close" in first) is ends


async def test_head_has_no_body_and_204_no_length(site: Site) -> None:
    found = await site.answers(get("/x", method="HEAD") + get("/nothing", LAST))
    first, second, rest = found.split(b"\r\n\r\n")
    assert b"content-length: 5" in first
    assert second.startswith(b"HTTP/1.1 204 No Content")
    assert b"content-length" not in second
    assert rest == b""


async def test_parts_are_chunks_or_until_the_end(site: Site) -> None:
    found = await site.answers(get("/parts") + get("/x", LAST))
    assert b"4\r\none \r\n3\r\ntwo\r\n0\r\n\r\nHTTP/1.1 200" in found
    old = get("/parts", "connection: keep-alive", version="1.0")
    assert (await site.answers(old)).endswith(b"\r\n\r\none two")


async def test_a_body_is_asked_for_where_the_client_waits(site: Site) -> None:
    reader, writer = await site.open()
    writer.write(get("/x", "content-length: 5", "expect: 100-continue", LAST, method="POST"))
    assert await reader.readline() == b"HTTP/1.1 100 Continue\r\n"
    writer.write(b"hello")
    assert (await reader.read()).endswith(b"/x? 5")
    writer.close()


async def test_a_large_body_and_a_large_answer(site: Site) -> None:
    size = 3_000_000
    found = await site.answers(
        get("/x", f"content-length: {size}", method="POST"), b"y" * size, get("/large", LAST)
    )
    assert b"/x? 3000000" in found
    assert found.endswith(LARGE)


async def test_a_fault_of_ours_ends_the_connection_and_nothing_else(site: Site) -> None:
    with suppress(ConnectionResetError):
        assert await site.answers(get("/breaks") + get("/x", LAST)) == b""
    assert (await site.answers(get("/x", LAST))).endswith(b"/x? 0")


@pytest.mark.parametrize(
    ("data", "code"),
    [(b"GET /x HTTP/1.1\r\nhost: a\r\nx: ", b"head_too_large"), (b"GET /", b"target_too_long")],
)
async def test_a_head_without_an_end_is_refused(site: Site, data: bytes, code: bytes) -> None:
    assert (await site.answers(data + b"y" * HEAD_BYTES)).endswith(code)


async def test_who_takes_nothing_of_an_answer_is_left() -> None:
    async with serving() as site:
        while site.listener.count:
            await asyncio.sleep(0.01)
        site.echo.answer_take_s = 0.2
        _, writer = await asyncio.open_connection("127.0.0.1", site.port, limit=1024)
        writer.write(get("/large"))
        while not site.echo.begun or site.listener.count:
            await asyncio.sleep(0.01)
        writer.close()


async def test_no_more_is_read_while_requests_wait(site: Site) -> None:
    reading = WriteOnly()
    connection = HttpConnection(site.listener)
    connection.connection_made(reading)
    connection.data_received(get("/slow"))
    assert not reading.paused
    connection.data_received(get("/x"))
    assert reading.paused
    site.echo.let.set()
    while reading.paused:
        await asyncio.sleep(0.01)
    assert [b"/slow? 0" in part or b"/x? 0" in part for part in reading.written] == [True, True]
    connection.connection_lost(None)


async def test_a_body_is_not_taken_before_it_is_asked_for(site: Site) -> None:
    transport = WriteOnly()
    connection = HttpConnection(site.listener)
    connection.connection_made(transport)
    connection.data_received(get("/x", "content-length: 100000", method="POST") + b"y" * (HELD_BYTES + 1))
    assert transport.paused
    while transport.paused:
        await asyncio.sleep(0)
    connection.data_received(b"y" * (100_000 - HELD_BYTES - 1))
    while not transport.written:
        await asyncio.sleep(0)
    assert transport.written[0].endswith(b"/x? 100000")
    connection.connection_lost(None)


async def test_the_next_part_waits_until_the_one_before_is_taken(site: Site) -> None:
    transport = WriteOnly()
    connection = HttpConnection(site.listener)
    connection.connection_made(transport)
    connection.pause_writing()
    connection.data_received(get("/parts"))
    while len(transport.written) < 2:
        await asyncio.sleep(0)
    for _ in range(10):
        await asyncio.sleep(0)
    assert len(transport.written) == 2
    connection.resume_writing()
    while len(transport.written) < 4:
        await asyncio.sleep(0)
    assert b"".join(transport.written).endswith(b"4\r\none \r\n3\r\ntwo\r\n0\r\n\r\n")
    connection.connection_lost(None)


async def test_an_answer_says_when_it_was_given(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.listener.date()
    monkeypatch.setattr(listener, "date_line", lambda: b"later")
    monkeypatch.setattr(listener, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + 1.1))
    assert site.listener.date() == b"later"


async def test_a_client_that_leaves_is_noticed(site: Site) -> None:
    _, writer = await site.open()
    writer.write(get("/left"))
    while not site.echo.begun:
        await asyncio.sleep(0.01)
    writer.close()
    await site.echo.left.wait()


async def test_more_connections_than_there_may_be_are_closed() -> None:
    async with serving(connections=3) as site:
        while site.listener.count:
            await asyncio.sleep(0.01)
        opened = [await site.open() for _ in range(3)]
        while site.listener.count < 3:
            await asyncio.sleep(0.01)
        with suppress(ConnectionResetError):
            assert await site.answers(get("/x", LAST)) == b""
        for _, writer in opened:
            writer.close()
        while site.listener.count:
            await asyncio.sleep(0.01)
        assert (await site.answers(get("/x", LAST))).endswith(b"/x? 0")


async def test_who_is_being_answered_when_it_stops_has_the_answer() -> None:
    async with serving() as site:
        idle, _ = await site.open()
        reading = asyncio.create_task(site.answers(get("/slow")))
        while not site.echo.begun:
            await asyncio.sleep(0.01)
        stopping = asyncio.create_task(site.listener.stop(WITHIN_S))
        assert await idle.read() == b""
        site.echo.let.set()
        assert (await reading).endswith(b"/slow? 0")
        await stopping


# WebSockets


async def test_texts_of_every_length_and_fragments(site: Site) -> None:
    async with connect(site.url, subprotocols=[websockets.Subprotocol("one")], max_size=None) as socket:
        assert socket.subprotocol == "one"
        for size in (0, 125, 126, 65_535, 65_536, 1_000_000):
            if size:
                await socket.send("ü" * (size // 2) + "a" * (size % 2))
                assert len((await socket.recv()).encode()) == size  # type: ignore[union-attr]
        await socket.send(["in ", "three ", "parts"])
        assert await socket.recv() == "in three parts"
        await socket.send(b"\x00")
        assert await socket.recv() == "bytes"
        await (await socket.ping())


async def test_the_code_and_reason_of_an_end_arrive(site: Site) -> None:
    async with connect(site.url) as socket:
        await socket.send("close")
        with pytest.raises(websockets.ConnectionClosedError) as closed:
            await socket.recv()
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4429, "enough")
    async with connect(site.url) as socket:
        await socket.send("break")
        with pytest.raises(websockets.ConnectionClosedError) as closed:
            await socket.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1011


async def test_the_clients_code_is_told(site: Site) -> None:
    async with connect(site.url) as socket:
        await socket.close(4000)
    while not site.echo.messages:
        await asyncio.sleep(0.01)
    assert site.echo.messages == [{"type": "websocket.disconnect", "code": 4000}]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (Frame(Opcode.TEXT, b"\xff").serialize(mask=True), 1007),
        (Frame(Opcode.TEXT, b"unmasked").serialize(mask=False), 1002),
        (Frame(Opcode.CONT, b"of nothing").serialize(mask=True), 1002),
        (b"\x83\x80\x00\x00\x00\x00", 1002),
        (b"\x81\xff" + (MOST_BYTES + 1).to_bytes(8), 1009),
    ],
    ids=["no UTF-8", "not masked", "the rest of nothing", "a reserved kind", "too long"],
)
async def test_what_is_no_frame_ends_the_socket(site: Site, data: bytes, code: int) -> None:
    reader, writer = await upgraded(site)
    writer.write(data)
    assert (await reader.readexactly(1)) == b"\x88"
    length = (await reader.readexactly(1))[0]
    assert int.from_bytes((await reader.readexactly(length))[:2]) == code
    writer.close()


@pytest.mark.parametrize(
    "lines",
    [
        ("sec-websocket-version: 12", "sec-websocket-key: " + base64.b64encode(bytes(16)).decode()),
        ("sec-websocket-version: 13", "sec-websocket-key: short"),
        ("sec-websocket-version: 13",),
    ],
)
async def test_a_bad_handshake_is_refused(site: Site, lines: tuple[str, ...]) -> None:
    found = await site.answers(get("/socket", "upgrade: websocket", "connection: upgrade", *lines))
    assert found.startswith(b"HTTP/1.1 400 ")
    assert found.endswith(b"malformed_request")


async def test_frames_that_came_with_the_handshake_are_read(site: Site) -> None:
    reader, writer = await upgraded(site, Frame(Opcode.TEXT, b"early").serialize(mask=True))
    assert await reader.readexactly(7) == b"\x81\x05early"
    writer.close()


async def test_who_sends_faster_than_is_read_waits(site: Site) -> None:
    _, writer = await upgraded(site)
    site.echo.reading.clear()
    text = Frame(Opcode.TEXT, b"x" * 60_000).serialize(mask=True)
    sent = 0
    try:
        async with asyncio.timeout(1):
            while sent < 2_000:
                writer.write(text)
                await writer.drain()
                sent += 1
    except TimeoutError:
        pass
    assert HELD_MESSAGES < sent < 2_000, "nothing held the client up"
    writer.transport.abort()
    site.echo.reading.set()


async def upgraded(site: Site, rest: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await site.open()
    key = base64.b64encode(os.urandom(16)).decode()
    lines = ("upgrade: websocket", "connection: upgrade", "sec-websocket-version: 13")
    writer.write(get("/socket", *lines, f"sec-websocket-key: {key}") + rest)
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
    return reader, writer
