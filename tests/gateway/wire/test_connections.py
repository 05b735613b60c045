"""Requests and WebSockets as bytes on a connection: order, limits, ends."""

import asyncio
import base64
import os
import time
from contextlib import suppress
from types import SimpleNamespace

import pytest
import websockets
from websockets.asyncio.client import connect
from websockets.frames import Frame, Opcode

from gateway.wire import listener
from gateway.wire.connection import MOST_BYTES as HEAD_BYTES
from gateway.wire.websocket import HELD_MESSAGES, MOST_BYTES
from tests.gateway.wire.serving import LARGE, LAST, WITHIN_S, Site, get, serving


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


async def test_a_fault_in_what_should_not_wait_ends_its_connection_alone(site: Site) -> None:
    with suppress(ConnectionResetError):
        assert await site.answers(get("/never")) == b""
    with_body = get("/now", "content-length: 1", LAST, method="POST")
    assert (await site.answers(get("/now") + with_body, b"y")).endswith(b"/now? 1")


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


async def test_a_socket_is_full_until_its_client_takes_more(site: Site) -> None:
    reader, writer = await upgraded(site, Frame(Opcode.TEXT, b"much").serialize(mask=True))
    await site.echo.full.wait()
    data = b""
    while not data.endswith(b"\x81\x07the end"):
        data += await reader.read(1_000_000)
    assert len(data) == site.echo.written * 60_004 + 9
    writer.close()


async def upgraded(site: Site, rest: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await site.open()
    key = base64.b64encode(os.urandom(16)).decode()
    lines = ("upgrade: websocket", "connection: upgrade", "sec-websocket-version: 13")
    writer.write(get("/socket", *lines, f"sec-websocket-key: {key}") + rest)
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
    return reader, writer
