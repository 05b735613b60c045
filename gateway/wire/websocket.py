"""A WebSocket (RFC 6455), once a connection has been upgraded.

What comes is read by `websockets`' protocol without I/O, which answers pings and closing. What goes is framed
by `framed`, outside of the socket, so that what many sockets are sent is framed once.
"""

import asyncio
import base64
import binascii
from collections import deque
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any, cast

from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, Side
from websockets.protocol import State as Open
from websockets.utils import accept_key

from core.errors import Malformed
from core.telemetry.log import logger
from gateway.wire.flow import Flow

if TYPE_CHECKING:
    from gateway.wire.call import Call
    from gateway.wire.listener import Listener

Message = MutableMapping[str, Any]
MOST_BYTES = 4 * 1024 * 1024
"""Of a message; the stream protocol's own bound is lower and answered by itself."""
HELD_MESSAGES, HELD_BYTES = 16, 1024 * 1024
"""So much waits for its reader before no more is taken from the client."""
CLOSE_S = 1.0
ABNORMAL, NO_UTF8, NO_CODE = 1006, 1007, 1005
_log = logger("gateway.wire")
_REFUSED = b"HTTP/1.1 403 Forbidden\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


def handshake(call: "Call") -> str | None:
    """The key of a request to become a WebSocket; None where it is none. Raises Malformed for a bad one."""
    given = dict(call.fields)
    if given.get(b"upgrade", b"").lower() != b"websocket":
        return None
    if call.method != "GET" or call.version != "1.1" or given.get(b"sec-websocket-version") != b"13":
        raise Malformed("no upgrade to a WebSocket of version 13", code="malformed_request")
    key = given.get(b"sec-websocket-key", b"")
    try:
        known = len(base64.b64decode(key, validate=True)) == 16
    except binascii.Error:
        known = False
    if not known:
        raise Malformed("no key for a WebSocket", code="malformed_request")
    return key.decode("ascii")


class WebSocket(Flow):
    """Belongs to the event loop. What comes is received as ASGI's messages; what is written to who is gone is
    dropped. Who writes while it is `full` fills memory."""

    def __init__(self, transport: asyncio.Transport, call: "Call", key: str, listener: "Listener") -> None:
        super().__init__()
        self.call = call
        self._listener = listener
        self._transport = transport
        self._key = key
        self._accepted = False
        self._early = b""
        self._protocol = Protocol(Side.SERVER, state=Open.OPEN, max_size=MOST_BYTES)
        self._parts: list[bytes] = []
        self._text = True
        self._come: deque[Message] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._held = False
        self._held_bytes = 0
        self._task: asyncio.Task[None] | None = None

    @classmethod
    def take_over(
        cls, transport: asyncio.Transport, call: "Call", key: str, rest: bytes, listener: "Listener"
    ) -> None:
        """The connection is a WebSocket from here on; `rest` came already."""
        made = cls(transport, call, key, listener)
        transport.set_protocol(made)
        listener.take(made)
        made._early = rest
        transport.pause_reading()
        made._task = made._loop.create_task(made._serve())

    @property
    def idle(self) -> bool:
        return self._task is None

    def end(self) -> None:
        """Sockets are closed by those who hold them."""

    @property
    def protocols(self) -> list[str]:
        """The subprotocols that the client offers."""
        found: list[str] = []
        for name, value in self.call.fields:
            if name == b"sec-websocket-protocol":
                found += [part.strip() for part in value.decode("latin-1").split(",")]
        return found

    async def receive(self) -> Message:
        while not self._come:
            self._waiter = self._loop.create_future()
            await self._waiter
        message = self._come[0]
        if message["type"] != "websocket.disconnect":  # which stays
            self._come.popleft()
            self._held_bytes -= _size_of(message)
        if self._held and self._room() and not self.over:
            self._held = False
            self._transport.resume_reading()
        return message

    def accept(self, subprotocol: str | None = None) -> None:
        """Answer the handshake; before it nothing is read or written."""
        if self.over:
            return
        self._accepted = True
        lines = [
            "HTTP/1.1 101 Switching Protocols",
            "upgrade: websocket",
            "connection: Upgrade",
            f"sec-websocket-accept: {accept_key(self._key)}",
            "server: millstream",
        ]
        if subprotocol is not None:
            lines.append(f"sec-websocket-protocol: {subprotocol}")
        self._transport.write("\r\n".join((*lines, "", "")).encode("ascii"))
        self._transport.resume_reading()
        if self._early:
            self.data_received(self._early)

    def write(self, frames: bytes) -> None:
        """Frames as `framed` makes them, one after the other."""
        if self._protocol.state is Open.OPEN and not self.over:
            self._transport.write(frames)

    def close(self, code: int, reason: str = "") -> None:
        """Say why, and wait a second for the client to close; without `accept` the handshake is refused."""
        if self.over:
            return
        if not self._accepted:
            self._transport.write(_REFUSED)
            self._transport.close()
            return
        if self._protocol.state is Open.OPEN:
            self._protocol.send_close(code, reason)
            self._flush()
        self._loop.call_later(CLOSE_S, self._transport.abort)

    # What the transport tells

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        self._listener.forget(self)
        self._disconnected(ABNORMAL)

    def data_received(self, data: bytes) -> None:
        self._protocol.receive_data(data)
        for event in self._protocol.events_received():
            self._frame(cast(Frame, event))
        self._flush()
        if not self._room() and not self._held and not self.over:
            self._held = True
            self._transport.pause_reading()

    async def _serve(self) -> None:
        try:
            await self._listener.application.socket(self)
        except Exception:
            _log.exception("a socket failed")
            self.close(1011)
        finally:
            self._task = None
            if self._protocol.state is Open.OPEN and not self.over:
                self._transport.abort()

    def _frame(self, frame: Frame) -> None:
        if frame.opcode is Opcode.CLOSE:
            closed = self._protocol.close_rcvd
            self._disconnected(closed.code if closed is not None else NO_CODE)
            return
        if frame.opcode not in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            return  # a ping, which has been answered, or a pong
        if frame.opcode is not Opcode.CONT:
            self._text = frame.opcode is Opcode.TEXT
        self._parts.append(bytes(frame.data))
        if not frame.fin:
            return
        data, self._parts = b"".join(self._parts), []
        if not self._text:
            self._put({"type": "websocket.receive", "bytes": data})
            return
        try:
            self._put({"type": "websocket.receive", "text": data.decode()})
        except UnicodeDecodeError:
            self._protocol.fail(NO_UTF8, "no UTF-8")

    def _room(self) -> bool:
        return len(self._come) <= HELD_MESSAGES and self._held_bytes <= HELD_BYTES

    def _put(self, message: Message) -> None:
        self._come.append(message)
        self._held_bytes += _size_of(message)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _disconnected(self, code: int) -> None:
        if not self._come or self._come[-1]["type"] != "websocket.disconnect":
            self._put({"type": "websocket.disconnect", "code": code})

    def _flush(self) -> None:
        """Write what the protocol has to say; it ends the connection with an empty one."""
        for data in self._protocol.data_to_send():
            if self.over:
                return
            if data:
                self._transport.write(data)
            else:
                self._disconnected(self._protocol.close_code or ABNORMAL)
                self._transport.close()


def _size_of(message: Message) -> int:
    """Of what it says, about."""
    return len(message.get("text") or message.get("bytes") or b"")


def framed(text: str) -> bytes:
    """A text as a frame."""
    data = text.encode()
    size = len(data)
    if size < 126:
        head = bytes((0x81, size))
    elif size < 1 << 16:
        head = b"\x81\x7e" + size.to_bytes(2)
    else:
        head = b"\x81\x7f" + size.to_bytes(8)
    return head + data
