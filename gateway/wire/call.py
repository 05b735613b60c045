"""One request on a connection, and its answer."""

import asyncio
from functools import cache
from http.client import responses
from typing import TYPE_CHECKING
from urllib.parse import unquote

import httptools

from core.errors import Malformed, TooLarge
from gateway.problems import SlowBody

if TYPE_CHECKING:
    from gateway.wire.connection import HttpConnection

HELD_BYTES = 64 * 1024
"""So much of a body is taken before anybody asks for it."""
_NO_BODY = frozenset({204, 304})


class Call:
    """`fields` are those of the head in their order, names in lower case. `path` is decoded, `query` not.

    Belongs to the event loop. The connection tells it what comes; the application reads and answers once.
    """

    __slots__ = (
        "_body", "_connection", "_expects", "_gone", "_held", "_waiter", "answered", "chunked", "complete",
        "fields", "keep", "length", "method", "path", "query", "target_bytes", "version",
    )  # fmt: skip

    def __init__(
        self,
        connection: "HttpConnection",
        method: str,
        target: bytes,
        fields: list[tuple[bytes, bytes]],
        *,
        version: str,
        keep: bool,
    ) -> None:
        self._connection = connection
        self.method = method
        self.version = version
        self.fields = fields
        self.target_bytes = len(target)
        self.path, self.query = _parts_of(target)
        self.keep = keep
        self.length = 0
        self.chunked = self._expects = False
        for name, value in fields:
            if name == b"content-length":
                self.length = int(value)
            elif name == b"transfer-encoding":
                self.chunked, self.keep = True, False
            elif name == b"expect":
                self._expects = value.lower() == b"100-continue"
        self.complete = not self.length and not self.chunked
        self.answered = False
        self._body: list[bytes] = []
        self._held = 0
        self._waiter: asyncio.Future[None] | None = None
        self._gone: asyncio.Future[None] | None = None

    @property
    def peer(self) -> str:
        """The address of the connection's other end."""
        return self._connection.peer

    @property
    def secure(self) -> bool:
        """Whether it came over TLS."""
        return self._connection.secure

    async def body(self, limit: int) -> bytes:
        """The whole body. Raises TooLarge for more than `limit` bytes, SlowBody, and Malformed where it ends
        early."""
        if self.length > limit:
            raise TooLarge(f"a body of {self.length} bytes", mend=f"send at most {limit} bytes")
        if not self.complete:
            if self._expects and not self._held:
                self._connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            await self._rest()
        body = self._body
        return body[0] if len(body) == 1 else b"".join(body)

    async def gone(self) -> None:
        """Returns when the client has left."""
        if not self._connection.lost:
            self._gone = asyncio.get_running_loop().create_future()
            await self._gone

    def answer(self, status: int, head: bytes, body: bytes) -> None:
        """The whole answer; nothing is sent to who is gone. `head` are lines with their ends, without those
        that are the connection's own."""
        if status in _NO_BODY:
            body, end = b"", b"\r\n"
        else:
            end = b"content-length: %d\r\n\r\n" % len(body)
            if self.method == "HEAD":
                body = b""
        self.answered = True
        self._connection.write(b"".join((self._head(status, head), end, body)))

    def begin(self, status: int, head: bytes) -> None:
        """The head of an answer that comes part by part."""
        chunked = self.version == "1.1"
        self.keep = self.keep and chunked  # its end is otherwise that of the connection
        end = b"transfer-encoding: chunked\r\n\r\n" if chunked else b"\r\n"
        self._connection.write(self._head(status, head) + end)

    async def part(self, data: bytes) -> None:
        """Send a part; returns when there is room for the next."""
        if data and self.method != "HEAD":
            chunked = self.version == "1.1"
            self._connection.write(b"%x\r\n%b\r\n" % (len(data), data) if chunked else data)
            await self._connection.room()

    def end(self) -> None:
        """The parts are complete."""
        self.answered = True
        if self.version == "1.1" and self.method != "HEAD":
            self._connection.write(b"0\r\n\r\n")

    def feed(self, data: bytes) -> None:
        """More of the body, from the connection. What nobody will read is dropped."""
        if not self.answered:
            self._body.append(data)
            self._held += len(data)
            if self._held > HELD_BYTES and self._waiter is None:
                self._connection.hold()

    def ended(self) -> None:
        """The body is there, from the connection."""
        self.complete = True
        self._settle(None)

    def left(self) -> None:
        """The client is gone, from the connection."""
        self._settle(Malformed("the body ended early"))
        if self._gone is not None and not self._gone.done():
            self._gone.set_result(None)

    async def _rest(self) -> None:
        loop = asyncio.get_running_loop()
        within_s = self._connection.application.body_read_s
        self._waiter = loop.create_future()
        self._connection.release()
        if self._connection.lost:
            self.left()
        late = SlowBody(f"the body was not there within {within_s:g} s")
        timer = loop.call_later(within_s, self._settle, late)
        try:
            await self._waiter
        finally:
            timer.cancel()

    def _settle(self, error: Exception | None) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            if error is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(error)

    def _head(self, status: int, lines: bytes) -> bytes:
        if not self.keep or not self.complete:
            self.keep = False
            stays = b"connection: close\r\n"
        else:
            stays = b"connection: keep-alive\r\n" if self.version == "1.0" else b""
        return b"".join((_first_line(status), lines, self._connection.date(), stays))


def _parts_of(target: bytes) -> tuple[str, str]:
    """Path and query of a request's target."""
    if not target.startswith(b"/") and b"://" in target:  # as to a proxy
        try:
            url = httptools.parse_url(target)
        except httptools.HttpParserInvalidURLError:
            raise Malformed("the target is no URL") from None
        path, query = url.path or b"/", url.query or b""
    else:
        path, _, query = target.partition(b"#")[0].partition(b"?")
    text = path.decode("utf-8", "replace")
    return unquote(text) if "%" in text else text, query.decode("latin-1")


@cache
def _first_line(status: int) -> bytes:
    return f"HTTP/1.1 {status} {responses.get(status, '')}\r\n".encode()
