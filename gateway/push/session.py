"""One WebSocket: connect, subscribe, be pushed, be told why when it ends.

Two tasks: one reads the client's frames, one writes from a bounded queue. A client that does not keep up
is closed (4429) when its queue is full, instead of slowing the others or filling memory; it comes back with
its positions and misses nothing. Silence is broken by our ping each 30 s and ends after 90 s (4408).
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from datetime import UTC, datetime
from typing import Any

from core.errors import Denied, InvalidInput, Malformed, MillstreamError, Unavailable, UnknownName
from core.ids import new_id
from core.telemetry.log import logger
from core.telemetry.metrics import counter, gauge
from gateway.keyring import Keyring, Watch
from gateway.principals import STREAM_READ, Principal
from gateway.problems import Forbidden, problem_of
from gateway.push import frames
from gateway.push.hub import Hub, Subscription

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
MOST_SOCKETS = 2000
MOST_SUBSCRIPTIONS = 32
_CLOSE_S = 1.0
_DRAIN_S = 2.0

_log = logger("gateway.push.session")
_SOCKETS = gauge("gateway_sockets", "Open WebSockets")
_CLOSED = counter("gateway_sockets_closed_total", "Closed WebSockets, by code", ["code"])


class Sessions:
    """Every socket of this gateway; the handler of the stream path."""

    def __init__(
        self, hub: Hub, keyring: Keyring, *, queue: int, bearer: Callable[[dict[str, str]], str | None]
    ) -> None:
        self._hub = hub
        self._keyring = keyring
        self._queue = queue
        self._bearer = bearer
        self._open: set[Session] = set()
        self._draining = False

    async def __call__(
        self, headers: dict[str, str], protocols: list[str], receive: Receive, send: Send
    ) -> None:
        await receive()  # websocket.connect
        offered = frames.SUBPROTOCOL if frames.SUBPROTOCOL in protocols else None
        await send({"type": "websocket.accept", "subprotocol": offered})
        session = Session(self._hub, self._keyring, receive, send, limit=self._queue)
        if self._draining:
            await session.refuse(frames.GOING_AWAY, "going away")
        elif protocols and offered is None:
            await session.refuse(frames.WRONG_PROTOCOL, f"speak {frames.SUBPROTOCOL}")
        elif len(self._open) >= MOST_SOCKETS:
            await session.refuse(frames.OVERLOADED, "too many sockets")
        else:
            self._open.add(session)
            _SOCKETS.set(len(self._open))
            try:
                await session.run(self._bearer(headers))
            finally:
                self._open.discard(session)
                _SOCKETS.set(len(self._open))

    async def drain(self) -> None:
        """Close every socket with 1001, what is queued first; takes at most a few seconds."""
        self._draining = True
        sessions = tuple(self._open)
        for session in sessions:
            session.close(frames.GOING_AWAY, "going away")
        if sessions:
            await asyncio.wait(
                [asyncio.ensure_future(s.ended.wait()) for s in sessions], timeout=_DRAIN_S + 2
            )


class Session:
    """The receiver of its subscriptions (see `gateway.push.hub.Receiver`)."""

    def __init__(self, hub: Hub, keyring: Keyring, receive: Receive, send: Send, *, limit: int) -> None:
        self._hub = hub
        self._keyring = keyring
        self._receive = receive
        self._send = send
        self._limit = limit
        self._queue: deque[str] = deque()
        self._wake = asyncio.Event()
        self._space = asyncio.Event()
        self._space.set()
        self._closing: tuple[int, str] | None = None
        self._gone = False
        self._subscriptions: dict[str, tuple[str, Subscription]] = {}
        self._positions: dict[str, list[str]] = {}
        self._heard = asyncio.get_running_loop().time()
        self.principal: Principal | None = None
        self._watch: Watch | None = None
        self.id = new_id()
        self.ended = asyncio.Event()

    def offer(self, frame: str) -> bool:
        if self._closing is not None or self._gone:
            return False
        if len(self._queue) >= self._limit:
            self._queue.clear()
            self.close(frames.TOO_SLOW, "the client does not keep up; resume from the last position")
            return False
        self._queue.append(frame)
        if len(self._queue) > self._limit // 2:
            self._space.clear()
        self._wake.set()
        return True

    async def room(self) -> bool:
        await self._space.wait()
        return self._closing is None and not self._gone

    def close(self, code: int, reason: str) -> None:
        """End the session; the first reason stays. What is queued is still written where the client reads."""
        if self._closing is None:
            self._closing = (code, reason)
            self._wake.set()
            self._space.set()

    async def refuse(self, code: int, reason: str) -> None:
        """Close a socket that never became a session."""
        _CLOSED.labels(str(code)).inc()
        await self._quietly({"type": "websocket.close", "code": code, "reason": reason})
        self.ended.set()

    async def run(self, header_key: str | None) -> None:
        """Until the socket is closed, by whomever."""
        loop = asyncio.get_running_loop()
        writer = loop.create_task(self._write(), name="socket-writer")
        reader = loop.create_task(self._read(header_key), name="socket-reader")
        try:
            await asyncio.wait({writer, reader}, return_when=asyncio.FIRST_COMPLETED)
            if reader.done() and not writer.done():
                self.close(1000, "bye")
            await asyncio.wait({writer}, timeout=_DRAIN_S)
        finally:
            self._gone = True
            self._space.set()
            if self._watch is not None:
                self._watch.close()
            for name, subscription in self._subscriptions.values():
                self._hub.unsubscribe(name, subscription)
            writer.cancel()
            reader.cancel()
            await asyncio.gather(writer, reader, return_exceptions=True)
            code, reason = self._closing or (1000, "bye")
            _CLOSED.labels(str(code)).inc()
            await self._quietly({"type": "websocket.close", "code": code, "reason": reason})
            self.ended.set()

    async def _read(self, header_key: str | None) -> None:
        try:
            async with asyncio.timeout(frames.CONNECT_WITHIN_S):
                connect = await self._next()
                if not isinstance(connect, frames.Connect):
                    raise Malformed("the first frame is not `connect`", code="connect_first")
                self.principal = await self._keyring.check(connect.key or header_key)
                self._watch = self._keyring.watch(self.principal, self._over)
            if not self.principal.may(STREAM_READ):
                raise Forbidden(f"the key has not the scope {STREAM_READ!r}")
            self._positions = dict(connect.positions)
            self.offer(frames.encode(frames.Connected(self.id, self.principal.tenant, frames.HEARTBEAT_S)))
            while True:
                await self._handle(await self._next())
        except _Gone:
            self._gone = True
        except TimeoutError:
            self.close(frames.TIMED_OUT, "no connect frame in time")
        except Denied as error:
            self._tell(error)
            self.close(frames.UNAUTHENTICATED, error.what)
        except Unavailable as error:
            self._tell(error)
            self.close(frames.OVERLOADED, error.what)
        except InvalidInput as error:
            self._tell(error)
            self.close(frames.BAD_FRAME, error.what[:100])

    async def _next(self) -> frames.Incoming:
        message = await self._receive()
        self._heard = asyncio.get_running_loop().time()
        if message["type"] == "websocket.disconnect":
            raise _Gone
        text = message.get("text")
        if text is None:
            raise Malformed("binary frames are not spoken here", code="malformed_frame")
        return frames.decode(text)

    async def _handle(self, frame: frames.Incoming) -> None:
        if isinstance(frame, frames.Ping):
            self.offer(frames.encode(frames.Pong(frame.id)))
        elif isinstance(frame, frames.Subscribe):
            try:
                await self._subscribe(frame)
            except (UnknownName, Unavailable, Forbidden) as error:
                self._tell(error, _asked(frame))
        elif isinstance(frame, frames.Unsubscribe):
            held = self._subscriptions.pop(_asked(frame), None)
            if held is not None:
                self._hub.unsubscribe(*held)
            self.offer(frames.encode(frames.Unsubscribed(_asked(frame))))
        elif isinstance(frame, frames.Connect):
            raise Malformed("a second `connect`", code="connected_already")

    async def _subscribe(self, frame: frames.Subscribe) -> None:
        if self.principal is None:
            raise Denied("not connected")
        asked = _asked(frame)
        if asked in self._subscriptions:
            raise Malformed(f"subscribed to {asked[:100]!r} already", code="subscribed_already")
        if len(self._subscriptions) >= MOST_SUBSCRIPTIONS:
            raise Malformed(f"more than {MOST_SUBSCRIPTIONS} subscriptions", code="too_many_subscriptions")
        # alerts are one channel, filtered by source; results are one channel per pipeline
        name, group = ("alerts", frame.pipeline) if frame.channel == "alerts" else (asked, None)
        since = frame.since if frame.since is not None else self._positions.get(name)
        if since is not None and len(since) > frames.MAX_POSITIONS:
            raise Malformed(f"more than {frames.MAX_POSITIONS} positions", code="too_many_positions")
        subscription = await self._hub.subscribe(self, self.principal.tenant, name, group=group, since=since)
        self._subscriptions[asked] = (name, subscription)

    async def _write(self) -> None:
        loop = asyncio.get_running_loop()
        pinged = loop.time()
        while True:
            while self._queue:
                await self._send({"type": "websocket.send", "text": self._queue.popleft()})
                if not self._space.is_set() and len(self._queue) <= self._limit // 2:
                    self._space.set()
            if self._closing is not None or self._gone:
                return
            self._wake.clear()
            try:
                async with asyncio.timeout(frames.HEARTBEAT_S):
                    await self._wake.wait()
            except TimeoutError:
                if loop.time() - self._heard > frames.SILENT_S:
                    self.close(frames.TIMED_OUT, "no sign of the client")
                elif self._expired():
                    self.close(frames.UNAUTHENTICATED, "the key has expired")
                elif loop.time() - pinged >= frames.HEARTBEAT_S / 2:
                    pinged = loop.time()
                    self._queue.append(frames.encode(frames.Ping()))

    def _over(self) -> None:
        self.close(frames.UNAUTHENTICATED, "the credential is not valid any more")

    def _expired(self) -> bool:
        expires_at = self.principal.expires_at if self.principal else None
        return expires_at is not None and datetime.now(UTC) >= expires_at

    def _tell(self, error: MillstreamError, channel: str | None = None) -> None:
        self.offer(frames.encode(frames.Error(problem_of(error, self.id), channel)))

    async def _quietly(self, message: Message) -> None:
        try:
            async with asyncio.timeout(_CLOSE_S):
                await self._send(message)
        except Exception:  # the other side is gone, or does not read: there is nobody left to tell
            _log.debug("a close frame was not taken", session=self.id)


class _Gone(Exception):
    """The client is gone."""


def _asked(frame: frames.Subscribe | frames.Unsubscribe) -> str:
    return f"{frame.channel}:{frame.pipeline}" if frame.pipeline else frame.channel
