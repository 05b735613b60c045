"""A connection of a client: its requests one after another, each with its answer.

`httptools` reads the head (llhttp, as Node.js has it): what is no HTTP, what two servers could read in two
ways, and a head of more than 100 fields or 64 KiB is answered with a problem document, and the connection
ends. Requests that are sent without waiting for the answer before are read when that has been given.
"""

import asyncio
from collections import deque
from collections.abc import Coroutine
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, Protocol, cast

import httptools

from core.errors import Malformed, MillstreamError
from core.telemetry.log import logger
from gateway.problems import HeadTooLarge, TargetTooLong
from gateway.wire.call import Call
from gateway.wire.flow import Flow
from gateway.wire.websocket import WebSocket, handshake

if TYPE_CHECKING:
    from gateway.wire.listener import Listener

MOST_FIELDS = 100
MOST_BYTES = 64 * 1024
"""Of a head. The application's own bounds are lower and answered by itself."""
LINGER_BYTES, LINGER_S = 1 << 20, 1.0
_log = logger("gateway.wire")


class Handler(Protocol):
    """What a listener serves. body_read_s: the time for a body; answer_take_s: to take an answer."""

    body_read_s: float
    answer_take_s: float

    def at_once(self, call: Call) -> bool:
        """Whether `http` waits for nothing, if the request has no body: it is not put behind others then."""
        ...

    async def http(self, call: Call) -> None:
        """Answer a request."""
        ...

    async def socket(self, socket: WebSocket) -> None:
        """From the upgrade of a WebSocket to its end."""
        ...

    def unreadable(self, call: Call, error: MillstreamError) -> None:
        """Answer what is no request."""
        ...


class HttpConnection(Flow):
    """Belongs to the event loop."""

    def __init__(self, listener: "Listener") -> None:
        super().__init__()
        self.application = listener.application
        self.peer = ""
        self.secure = False
        self._listener = listener
        self._parser = httptools.HttpRequestParser(self)
        self._reset()
        self._head_bytes = 0
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._calls: deque[Call] = deque()
        self._coming: Call | None = None
        self._task: asyncio.Task[None] | None = None
        self._wanted: asyncio.Future[None] | None = None
        self._held = False
        self._lingering = 0
        self._ending = False

    @property
    def idle(self) -> bool:
        """Whether nothing is being done for it."""
        return not self._calls

    def end(self) -> None:
        """Close it, now or when the answer that is being made has been given."""
        self._ending = True
        if self.idle:
            self._transport.close()

    # What the transport tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        name = transport.get_extra_info("peername")
        self.peer = str(name[0]) if isinstance(name, tuple) else ""
        self.secure = transport.get_extra_info("sslcontext") is not None
        if not self._listener.take(self):
            self._transport.abort()
            return
        self._await_head()

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        self._listener.forget(self)
        if self._timer is not None:
            self._timer.cancel()
        for call in self._calls:
            call.left()
        self._wake()

    def data_received(self, data: bytes) -> None:
        if self._lingering:
            self._lingering -= len(data)
            if self._lingering <= 0:
                self._transport.close()
            return
        if self._coming is None:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._upgrade(data[upgrade.args[0] :])
            return
        except httptools.HttpParserCallbackError as wrapped:
            error = wrapped.__context__
            if not isinstance(error, MillstreamError):
                _log.error("a request could not be read", exc_info=error)
            self._refuse(error if isinstance(error, MillstreamError) else Malformed("no valid request"))
            return
        except httptools.HttpParserError as error:
            self._refuse(Malformed(f"no valid HTTP request: {error}", code="malformed_request"))
            return
        if self._coming is None and self._head_bytes > MOST_BYTES:
            self._refuse(self._too_large())

    # What the parser tells

    def on_message_begin(self) -> None:
        if self._calls and not self._calls[-1].keep:
            raise Malformed("a request behind the last", code="malformed_request")
        self._reset()

    def on_url(self, part: bytes) -> None:
        self._target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(self._fields) >= MOST_FIELDS:
            raise HeadTooLarge(f"more than {MOST_FIELDS} fields", mend=f"at most {MOST_FIELDS}")
        self._fields.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        parser = self._parser
        version = parser.get_http_version()
        if version not in ("1.0", "1.1"):
            raise Malformed("a version of HTTP that is not spoken here", code="malformed_request")
        method = parser.get_method().decode("ascii")
        keep = parser.should_keep_alive()
        call = Call(self, method, self._target, self._fields, version=version, keep=keep)
        if call.chunked and version == "1.0":
            raise Malformed("a transfer coding in a version that has none", code="malformed_request")
        socket = False
        if parser.should_upgrade():
            call.keep = False  # what follows may be another protocol
            socket = handshake(call) is not None
        self._coming = call
        self._calls.append(call)
        if socket:
            return
        if len(self._calls) == 1:
            self._begin()
        else:
            self.hold()

    def on_body(self, part: bytes) -> None:
        if self._coming is not None:
            self._coming.feed(part)

    def on_message_complete(self) -> None:
        if self._coming is not None:
            self._coming.ended()
        self._coming = None
        self._head_bytes = 0

    # What a call asks for

    def write(self, data: bytes) -> None:
        if not self.lost:
            self._transport.write(data)

    def hold(self) -> None:
        """Read no more before `release`."""
        if not self._held and not self.over:
            self._held = True
            self._transport.pause_reading()

    def release(self) -> None:
        if self._held and not self.over:
            self._held = False
            self._transport.resume_reading()

    def date(self) -> bytes:
        return self._listener.date()

    # The order of calls

    def _begin(self) -> None:
        call = self._calls[0]
        if call.keep and call.complete and self.application.at_once(call):
            _run(self._answer(call))
        else:
            self._listener.turns.call(self._go)

    def _go(self) -> None:
        if self._task is None:
            self._task = self._loop.create_task(self._answer_all())
        else:
            self._wake()

    def _wake(self) -> None:
        if self._wanted is not None and not self._wanted.done():
            self._wanted.set_result(None)

    async def _answer_all(self) -> None:
        """One task for all of a connection: to make one for each call takes longer than to wake it."""
        try:
            while self._calls and not self.over:
                await self._answer(self._calls[0])
                if not self._calls and not self.over:
                    self._wanted = self._loop.create_future()
                    await self._wanted
        finally:
            self._task = None

    async def _answer(self, call: Call) -> None:
        take_s = self.application.answer_take_s
        try:
            await self.application.http(call)
            if self._full is not None and not self.lost:
                async with asyncio.timeout(take_s):
                    await self.room()
        except TimeoutError:
            self._transport.abort()  # who takes nothing of the answer is left
        except Exception:
            _log.exception("a request broke off", path=call.path[:200])
        finally:
            self._calls.remove(call)
            self._next(call)

    def _next(self, call: Call) -> None:
        if self.lost:
            return
        if not call.answered:
            self._transport.abort()
        elif not call.complete:
            self._linger()
        elif not call.keep or self._ending:
            self._transport.close()
        elif not self._calls:
            self.release()
            self._await_head()

    def _linger(self) -> None:
        """Take a bounded rest of a body that nobody reads: a client that is still sending when the connection
        is closed would see it break, and no answer."""
        self._lingering = LINGER_BYTES
        self.release()
        self._loop.call_later(LINGER_S, self._transport.close)

    def _await_head(self) -> None:
        """The next head is there in time, or the connection ends."""
        self._due = self._loop.time() + self._listener.head_read_s
        if self._timer is None:
            self._timer = self._loop.call_at(self._due, self._look)

    def _look(self) -> None:
        self._timer = None
        if not self.idle or self.lost:
            return  # it is set again after the answer
        if self._loop.time() + 0.001 >= self._due:
            self._transport.close()
        else:
            self._timer = self._loop.call_at(self._due, self._look)

    def _refuse(self, error: MillstreamError) -> None:
        """Answer what cannot be read, unless it came behind a request that has no answer yet, and read no
        more."""
        if self._calls:
            self._calls[-1].keep = False
            self.hold()
        elif not self.over:
            call = Call(self, "GET", b"/", [], version="1.1", keep=False)
            self.application.unreadable(call, error)
            self._linger()

    def _too_large(self) -> MillstreamError:
        if not self._fields:
            return TargetTooLong(f"a path and query of more than {MOST_BYTES} bytes")
        return HeadTooLarge(f"a head of more than {MOST_BYTES} bytes")

    def _upgrade(self, rest: bytes) -> None:
        call = self._calls[-1]
        if len(self._calls) > 1 or (key := handshake(call)) is None:
            self.hold()  # it is answered as any other request, and is the last
            return
        self._calls.clear()
        self._wake()
        self._listener.forget(self)
        if self._timer is not None:
            self._timer.cancel()
        WebSocket.take_over(self._transport, call, key, rest, self._listener)

    def _reset(self) -> None:
        self._target = b""
        self._fields: list[tuple[bytes, bytes]] = []
        self._coming = None


def _run(work: Coroutine[Any, Any, None]) -> None:
    """To its end, without a turn of the event loop."""
    try:
        work.send(None)
    except StopIteration:
        return
    work.close()
    _log.error("what waits for nothing has waited")


def date_line() -> bytes:
    return f"date: {formatdate(usegmt=True)}\r\n".encode()
