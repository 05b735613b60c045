"""One WebSocket: connect, subscribe, be pushed, publish and ask, be told why when it ends.

What the client takes is written at once by whoever pushes it: to wake a task for it at each of 200 sockets
costs as much as the rest of the way. What it does not take waits in a bounded queue, from which a task writes
as there is room. A client that does not keep up is closed (4429) when its queue is full, unless its
subscriptions have another policy, and when a few frames are not taken within 15 s, instead of slowing the
others or filling memory; it comes back with its positions and misses nothing. Silence is broken by our ping
each 30 s and ends after 90 s (4408).
"""

import asyncio
from typing import Protocol

from core.errors import (
    Conflict,
    Denied,
    InvalidInput,
    Malformed,
    MillstreamError,
    RateLimited,
    Unavailable,
    UnknownName,
)
from core.telemetry.log import logger
from gateway.intake import ID_SHAPE
from gateway.keyring import Keyring
from gateway.principals import STREAM_READ
from gateway.problems import Forbidden
from gateway.push import frames
from gateway.push.calls import Calls
from gateway.push.connection import CLOSED, Connection, refusal
from gateway.push.hub import Hub, Subscription
from gateway.push.queue import Burst, Given, Item
from gateway.push.selection import asked_of, selection_of
from gateway.push.stored import StoredPositions
from gateway.push.under_way import UnderWayCalls
from gateway.wire.websocket import Message, framed

MOST_SUBSCRIPTIONS = 32
SEND_WITHIN_S = 15.0
_BURST = 64
_DRAIN_S = 2.0
_log = logger("gateway.push.session")


class Socket(Protocol):
    """What a session needs of its WebSocket (`gateway.wire.websocket`)."""

    @property
    def protocols(self) -> list[str]: ...

    @property
    def full(self) -> bool: ...

    def accept(self, subprotocol: str | None = None) -> None: ...

    async def receive(self) -> Message: ...

    def write(self, frames: bytes) -> None: ...

    async def room(self) -> None: ...

    def close(self, code: int, reason: str = "") -> None: ...


class Session(Connection):
    """From the accepted socket to its end."""

    def __init__(
        self,
        hub: Hub,
        keyring: Keyring,
        socket: Socket,
        *,
        limit: int,
        stored: StoredPositions,
        calls: Calls,
    ) -> None:
        super().__init__(hub, keyring, limit=limit)
        self._socket = socket
        self._stored = stored
        self._calls = UnderWayCalls(calls, self)
        self._positions: dict[str, list[str]] = {}
        self._names: dict[str, str] = {}
        self._batched = False
        self._loop = asyncio.get_running_loop()
        self._heard = self._written = self._loop.time()

    def refuse(self, code: int, reason: str) -> None:
        """Close a socket that never became a session."""
        CLOSED.labels(str(code)).inc()
        self._socket.close(code, reason)
        self.ended.set()

    def push(self, subscription: Subscription, given: Given) -> bool:
        if isinstance(given, Burst) and not (self._socket.full or len(self._queue) or self.over):
            self._say(given.messages(subscription.label, batched=self._batched))
            return True
        return super().push(subscription, given)

    def flush(self) -> None:
        """Write what is queued as far as the client takes it."""
        while len(self._queue) and not self._socket.full:
            self._say(self._next_messages())
        if self._socket.full:
            self._wake.set()

    async def run(self, header_token: str | None) -> None:
        """Until the socket is closed, by whomever."""
        writer = self._loop.create_task(self._write(), name="socket-writer")
        reader = self._loop.create_task(self._read(header_token), name="socket-reader")
        try:
            await asyncio.wait({writer, reader}, return_when=asyncio.FIRST_COMPLETED)
            if reader.done() and not writer.done():
                self.close(1000, "bye")
            await asyncio.wait({writer}, timeout=_DRAIN_S)
        finally:
            self.leave()
            writer.cancel()
            reader.cancel()
            await asyncio.gather(writer, reader, self._calls.close(), return_exceptions=True)
            code, reason = self._closing or (1000, "bye")
            CLOSED.labels(str(code)).inc()
            self._socket.close(code, reason)
            self.ended.set()

    async def _read(self, header_token: str | None) -> None:
        try:
            async with asyncio.timeout(frames.CONNECT_WITHIN_S):
                await self._connect(header_token)
            while True:
                await self._handle(await self._next(frames.MAX_FRAME))
        except _Gone:
            self._gone = True
        except TimeoutError:
            self.close(frames.TIMED_OUT, "no connect frame in time")
        except MillstreamError as error:
            self._calls.told(error, self.principal)
            self.tell_problem(error)
            self.close(_code_of(error), refusal(error))
        except Exception as error:
            _log.exception("a socket failed", session=self.id)
            self.tell_problem(error)
            self.close(frames.INTERNAL, "something went wrong here")

    async def _connect(self, header_token: str | None) -> None:
        connect = await self._next(frames.MAX_CONNECT)
        if not isinstance(connect, frames.Connect):
            raise Malformed("the first frame is not `connect`", code="connect_first")
        self.principal = await self._keyring.check(connect.token or header_token)
        await self._keyring.authority.permit(self.principal, STREAM_READ, address=self.address)
        self.watch()
        self._positions = connect.positions
        self._batched = connect.batched
        self.tell(frames.encode(frames.Connected(self.id, self.principal.tenant, frames.HEARTBEAT_S)))

    async def _next(self, limit: int) -> frames.Incoming:
        message = await self._socket.receive()
        self._heard = self._loop.time()
        if message["type"] == "websocket.disconnect":
            raise _Gone
        text = message.get("text")
        if text is None:
            raise Malformed("binary frames are not spoken here", code="malformed_frame")
        return frames.decode(text, limit=limit)

    async def _handle(self, frame: frames.Incoming) -> None:
        """Raises what closes the socket; what leaves it open is told."""
        if isinstance(frame, frames.Ping):
            self.tell(frames.encode(frames.Pong(frame.id)))
        elif isinstance(frame, frames.Publish | frames.Ask | frames.Prompt):
            try:
                if self.principal is not None:
                    self._calls.begin(self.principal, frame)
            except MillstreamError as error:
                self.tell_problem(error, of=frame.id)
        elif isinstance(frame, frames.Subscribe):
            await self._subscribe(frame)
        elif isinstance(frame, frames.Unsubscribe):
            label = asked_of(frame).label
            self.unfollow(label)
            self._names = {name: held for name, held in self._names.items() if held != label}
            self.tell(frames.encode(frames.Unsubscribed(label)))
        elif isinstance(frame, frames.Ack):
            await self._acknowledge(frame)
        elif isinstance(frame, frames.Cancel):
            self._calls.cancel(frame.id)
        elif isinstance(frame, frames.Connect):
            raise Malformed("a second `connect`", code="connected_already")

    async def _subscribe(self, frame: frames.Subscribe) -> None:
        try:
            asked = asked_of(frame)
            self.may_follow(asked.feed)
            selection = selection_of(asked, frame.filter, self._hub.channel(asked.feed).feed)
            if frame.name is not None and not ID_SHAPE.fullmatch(frame.name):
                raise InvalidInput("the name of the subscription is none", code="invalid_name")
        except (InvalidInput, Forbidden) as error:
            self._calls.told(error, self.principal)
            self.tell_problem(error, _label(frame))
            return
        if asked.label in self.subscriptions or frame.name in self._names:
            raise Conflict(f"subscribed to {asked.label[:80]!r} already", code="subscribed_already")
        if len(self.subscriptions) >= MOST_SUBSCRIPTIONS:
            raise Malformed(f"more than {MOST_SUBSCRIPTIONS} subscriptions", code="too_many_subscriptions")
        try:
            since = await self._since(frame, asked.label, asked.feed)
            await self.follow(asked, selection, policy=frame.policy, since=since)
        except Unavailable as error:
            self.tell_problem(error, asked.label)
            return
        if frame.name is not None:
            self._names[frame.name] = asked.label
            if self._given(frame, asked.label, asked.feed) is None:
                await self._begin(frame.name, *self.subscriptions[asked.label])

    async def _since(self, frame: frames.Subscribe, label: str, feed: str) -> list[str] | None:
        since = self._given(frame, label, feed)
        if since is None and frame.name is not None and self.principal is not None:
            since = await self._stored.read(self.principal.tenant, frame.name, feed) or None
        if since is not None and len(since) > frames.MAX_POSITIONS:
            raise Malformed(f"more than {frames.MAX_POSITIONS} positions", code="too_many_positions")
        return since

    def _given(self, frame: frames.Subscribe, label: str, feed: str) -> list[str] | None:
        """The positions that the client brought."""
        return (
            frame.since if frame.since is not None else self._positions.get(label, self._positions.get(feed))
        )

    async def _begin(self, name: str, feed: str, subscription: Subscription) -> None:
        """Keep where a name begins: a partition that brings nothing for a while is gone on with from there,
        and not from whenever the name is used next."""
        places = self._hub.places(feed, subscription)
        keeping = [
            self._stored.move(subscription.tenant, name, feed, place, token) for place, token in places
        ]
        for kept in await asyncio.gather(*keeping, return_exceptions=True):
            if isinstance(kept, Exception):
                _log.warning("where a subscription begins is not kept", reason=str(kept))
                return

    async def _acknowledge(self, frame: frames.Ack) -> None:
        try:
            label = self._names.get(frame.name)
            if label is None or self.principal is None:
                raise UnknownName("subscription", frame.name[:100], self._names)
            feed, _ = self.subscriptions[label]
            tenant = self.principal.tenant
            position = self._hub.position(frame.position, tenant, feed)
            await self._stored.move(tenant, frame.name, feed, position, frame.position)
        except (InvalidInput, Unavailable) as error:
            self.tell_problem(error, self._names.get(frame.name))

    async def _write(self) -> None:
        """What the client did not take at once, when it takes more; our pings; until the end."""
        writer = asyncio.current_task()

        def too_slow() -> None:
            self.close(frames.TOO_SLOW, "the client takes nothing; resume from the last position")
            if writer is not None:
                writer.cancel()

        while True:
            while self._socket.full and not self._gone:
                timer = self._loop.call_later(SEND_WITHIN_S, too_slow)
                try:
                    await self._socket.room()
                finally:
                    timer.cancel()
                self.flush()
            if self.over:
                return
            await self._rest(self._written + frames.HEARTBEAT_S - self._loop.time())
            if self.over or self._socket.full or self._loop.time() < self._written + frames.HEARTBEAT_S:
                continue
            if self._loop.time() - self._heard > frames.SILENT_S:
                self.close(frames.TIMED_OUT, "no sign of the client")
            else:
                self.tell(frames.encode(frames.Ping()))

    def _say(self, messages: bytes) -> None:
        self._written = self._loop.time()
        self._socket.write(messages)

    def _next_messages(self) -> bytes:
        """The messages that are written next; no more are added when there are `_BURST` frames."""
        items: list[Item] = []
        count = 0
        while count < _BURST and (item := self._pop()) is not None:
            items.append(item)
            count += 1 if isinstance(item, str) else len(item[1].events)
        if self._batched and len(items) > 1:
            texts = [one if isinstance(one, str) else one[1].text(one[0].label) for one in items]
            return framed(f"[{','.join(texts)}]")
        messages = [
            framed(one) if isinstance(one, str) else one[1].messages(one[0].label, batched=self._batched)
            for one in items
        ]
        return messages[0] if len(messages) == 1 else b"".join(messages)


class _Gone(Exception):
    """The client is gone."""


# The first class in the list that fits decides.
_CODES: tuple[tuple[type[MillstreamError], int], ...] = (
    (Forbidden, frames.FORBIDDEN),
    (Denied, frames.UNAUTHENTICATED),
    (RateLimited, frames.TOO_SLOW),
    (Unavailable, frames.OVERLOADED),
    (Conflict, frames.CONFLICT),
    (InvalidInput, frames.BAD_FRAME),
)


def _code_of(error: MillstreamError) -> int:
    return next((code for kind, code in _CODES if isinstance(error, kind)), frames.INTERNAL)


def _label(frame: frames.Subscribe) -> str:
    return ":".join(part for part in (frame.channel, frame.pipeline, frame.entity) if part is not None)[:200]
