"""Requests as bytes on a socket: what is no HTTP, what two servers would read in two ways, what comes too
slowly and what never comes. None of it is a 5xx, nothing behind it is answered, and the next good request
works."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from core.clock import ManualClock
from core.settings import Limits
from gateway.admission import Admission
from gateway.exchange import Request, Response, json_response
from gateway.head import MOST_HEAD_BYTES, MOST_TARGET_BYTES
from gateway.health import Health
from gateway.keyring import Keyring
from gateway.principals import PUBLIC
from gateway.routing import Route, Router
from gateway.server import Application
from gateway.wire.listener import Listener
from tests.gateway.samples import NOW, KeysInMemory

MOST_PARTS = 2_000  # more than the buffers of both sides hold
PATIENCE_S = 60.0  # for an end that comes much sooner
PATIENT = Limits(head_read_s=PATIENCE_S, body_read_s=PATIENCE_S)
IMPATIENT = Limits(head_read_s=0.3, body_read_s=0.3, answer_take_s=0.3)
POST = b"POST /echo HTTP/1.1\r\nHost: a\r\n"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"


class Serving:
    def __init__(self, limits: Limits) -> None:
        self.seen: list[str] = []
        self.parts = 0
        self.closed = asyncio.Event()
        routes = (
            Route("POST", "/echo", PUBLIC, self.echo),
            Route("GET", "/smuggled", PUBLIC, self.echo),
            Route("GET", "/stream", PUBLIC, self.stream),
            *Health().routes(),
        )
        keyring = Keyring(KeysInMemory(), clock=ManualClock(NOW))
        application = Application(Admission(Router(routes), keyring, settings=limits), settings=limits)
        with socket.socket() as held:
            held.bind(("127.0.0.1", 0))
            self.port: int = held.getsockname()[1]
        self.listener = Listener(
            application, "127.0.0.1", self.port, head_read_s=limits.head_read_s, connections=4_096
        )

    async def echo(self, request: Request) -> Response:
        self.seen.append(request.path)
        return json_response(200, {"size": len(await request.body(1_000))})

    async def stream(self, request: Request) -> Response:
        async def parts() -> AsyncIterator[bytes]:
            try:
                while self.parts < MOST_PARTS:
                    self.parts += 1
                    yield b"x" * 65_536
            finally:
                self.closed.set()

        return Response(200, content_type="text/plain", parts=parts())  # type: ignore[arg-type]

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def answers(self, data: bytes) -> bytes:
        """All that comes back on a connection of its own until the server closes it."""
        reader, writer = await self.open()
        writer.write(data)
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await reader.read()
        except ConnectionResetError:
            return b""
        finally:
            writer.close()

    async def works(self) -> bool:
        """A good request is answered; again where this machine was too slow for the limits of the test."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                found = await self.answers(POST + b"Connection: close\r\nContent-Length: 2\r\n\r\nok")
                if found and b" 408 " not in found:
                    return found.startswith(b"HTTP/1.1 200 ") and found.endswith(b'{"size":2}')


@asynccontextmanager
async def running(made: Serving) -> AsyncIterator[Serving]:
    made.listener.start()
    yield made
    await made.listener.stop(5)


@pytest.fixture
async def serving() -> AsyncIterator[Serving]:
    async with running(Serving(PATIENT)) as made:
        yield made


@pytest.fixture
async def impatient() -> AsyncIterator[Serving]:
    async with running(Serving(IMPATIENT)) as made:
        yield made


CHUNKS = b"0\r\n\r\n"
SHAPES: dict[str, tuple[bytes, int]] = {
    "length and chunks": (POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKS, 400),
    "chunks and length": (POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n" + CHUNKS, 400),
    "chunks": (POST + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKS, 411),
    "chunks behind a tab": (POST + b"Transfer-Encoding:\tchunked\r\n\r\n" + CHUNKS, 411),
    "chunks in capitals": (POST + b"TRANSFER-ENCODING: CHUNKED\r\n\r\n" + CHUNKS, 411),
    "another coding": (POST + b"Transfer-Encoding: gzip\r\n\r\n" + CHUNKS, 411),
    "a coding that looks like it": (POST + b"Transfer-Encoding: xchunked\r\n\r\n" + CHUNKS, 411),
    "two codings": (
        POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n" + CHUNKS,
        400,
    ),
    "a blank before the colon": (POST + b"Transfer-Encoding : chunked\r\n\r\n" + CHUNKS, 400),
    "chunks in HTTP/1.0": (b"POST /echo HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKS, 400),
    "two lengths": (POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", 400),
    "a list of lengths": (POST + b"Content-Length: 5, 5\r\n\r\nhello", 400),
    "a length with a sign": (POST + b"Content-Length: +5\r\n\r\nhello", 400),
    "a length below zero": (POST + b"Content-Length: -5\r\n\r\nhello", 400),
    "a length in hexadecimal": (POST + b"Content-Length: 0x5\r\n\r\nhello", 400),
    "a length beyond numbers": (POST + b"Content-Length: " + b"9" * 40 + b"\r\n\r\nhello", 400),
    "a folded line": (POST + b"X: a\r\n b\r\nContent-Length: 0\r\n\r\n", 400),
    "a control character": (POST + b"X: a\x00b\r\nContent-Length: 0\r\n\r\n", 400),
    "a field without a name": (POST + b": a\r\nContent-Length: 0\r\n\r\n", 400),
    "another protocol": (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400),
    "another version": (b"GET /livez HTTP/3.0\r\nHost: a\r\n\r\n", 400),
    "a method that HTTP does not know": (b"BREW /livez HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "no version": (b"GET /livez\r\n\r\n", 400),
    "too many fields": (POST + b"".join(b"X-%d: a\r\n" % n for n in range(101)) + b"\r\n", 431),
    "a path without end": (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
}
OURS: dict[str, tuple[bytes, int, bytes]] = {
    "no host": (b"GET /livez HTTP/1.1\r\n", 400, b"no_host"),
    "two hosts": (b"GET /livez HTTP/1.1\r\nHost: a\r\nHost: a\r\n", 400, b"repeated_field"),
    "two credentials": (
        b"GET /livez HTTP/1.1\r\nHost: a\r\nX-API-Key: a\r\nX-API-Key: b\r\n", 400, b"repeated_field"
    ),
    "a long path": (
        b"GET /" + b"a" * MOST_TARGET_BYTES + b" HTTP/1.1\r\nHost: a\r\n", 414, b"target_too_long"
    ),
    "a long query": (
        b"GET /livez?" + b"a" * MOST_TARGET_BYTES + b" HTTP/1.1\r\nHost: a\r\n", 414, b"target_too_long"
    ),
    "a large head": (
        b"GET /livez HTTP/1.1\r\nHost: a\r\nX: " + b"a" * MOST_HEAD_BYTES + b"\r\n", 431, b"head_too_large"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("data", "status"), SHAPES.values(), ids=SHAPES)
async def test_what_could_be_read_in_two_ways_is_read_in_none(
    serving: Serving, data: bytes, status: int
) -> None:
    found = await serving.answers(data + SMUGGLED)
    assert found.startswith(b"HTTP/1.1 %d " % status), found[:200]
    assert found.count(b"HTTP/1.") == 1
    assert serving.seen == []
    assert await serving.works()


@pytest.mark.parametrize(("data", "status", "code"), OURS.values(), ids=OURS)
async def test_a_head_that_is_too_much_or_unclear_is_a_problem_document(
    serving: Serving, data: bytes, status: int, code: bytes
) -> None:
    found = await serving.answers(data + b"Connection: close\r\n\r\n")
    assert found.startswith(b"HTTP/1.1 %d " % status), found[:200]
    assert b'"code":"%b"' % code in found
    assert await serving.works()


@pytest.mark.parametrize(
    "data",
    [b"", b"GET", b"GET /livez HTTP/1.1\r\nHost: a\r\nX-", b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n"],
    ids=["silent", "half a line", "half a head", "idle after an answer"],
)
async def test_a_head_that_does_not_come_ends_the_connection(impatient: Serving, data: bytes) -> None:
    found = await impatient.answers(data)
    assert found.count(b"HTTP/1.1 200") == data.count(b"\r\n\r\n")
    assert await impatient.works()


async def test_a_head_that_comes_drop_by_drop_ends_too(impatient: Serving) -> None:
    reader, writer = await impatient.open()
    writer.write(b"GET /livez HTTP/1.1\r\nHost: a\r\nX: ")
    ended = asyncio.ensure_future(reader.read())
    async with asyncio.timeout(PATIENCE_S):
        while not ended.done():
            if not writer.is_closing():
                writer.write(b"a")
            await asyncio.sleep(0.02)
    assert isinstance(ended.exception(), ConnectionError) or b"200" not in ended.result()
    writer.close()
    assert await impatient.works()


@pytest.mark.parametrize("sent", [b"", b"12345"])
async def test_a_body_that_does_not_come_is_408_and_the_connection_ends(
    impatient: Serving, sent: bytes
) -> None:
    found = await impatient.answers(POST + b"Content-Length: 10\r\n\r\n" + sent)
    assert found.startswith(b"HTTP/1.1 408 ")
    assert b'"code":"slow_body"' in found
    assert await impatient.works()


async def test_who_takes_nothing_of_an_answer_is_left(impatient: Serving) -> None:
    reader, writer = await impatient.open()
    writer.write(b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    async with asyncio.timeout(PATIENCE_S):
        await impatient.closed.wait()
    assert impatient.parts < MOST_PARTS, "nothing held the answer up"
    writer.close()
    assert await impatient.works()


async def test_a_thousand_idle_connections_keep_nobody_out() -> None:
    async with running(Serving(PATIENT)) as serving:
        opened = [await serving.open() for _ in range(1_100)]
        try:
            async with asyncio.timeout(PATIENCE_S / 2):
                assert await serving.works()
        finally:
            for _, writer in opened:
                writer.close()
