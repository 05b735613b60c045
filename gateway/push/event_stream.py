"""`GET /api/v1/stream`: the channels of the socket as server-sent events, one channel per stream.

    GET /api/v1/stream?channel=results&pipeline=fraud&filter={"status":"blocked"}
    Last-Event-ID: <positions>

`entity`, `filter` (JSON) and `policy` mean what they mean in a `subscribe` frame. The first event is
`subscribed`; those after it have no name and are `event` frames. The id of each is the set of positions up to
it, which a client sends back as `Last-Event-ID` (or as the option `since`) to go on from there. A stream that
is ended by `error` says why first; one that just ends is to be resumed.
"""

from collections.abc import AsyncGenerator

import msgspec

from core.errors import Denied, InvalidInput
from gateway.exchange import Request, Response
from gateway.keyring import Keyring
from gateway.principals import Principal
from gateway.problems import problem_of
from gateway.push import frames
from gateway.push.connection import CLOSED, Connection
from gateway.push.connections import Connections
from gateway.push.hub import Hub
from gateway.push.selection import asked_of, selection_of

CONTENT_TYPE = "text/event-stream"
HEARTBEAT_S = 15.0
_SEPARATOR = "."
_HEADERS = [("x-accel-buffering", "no")]
_subscribed = msgspec.json.Decoder(frames.Subscribed)


class EventStream(Connection):
    """One stream. `parts` is its body."""

    def __init__(self, hub: Hub, keyring: Keyring, principal: Principal, *, limit: int) -> None:
        super().__init__(hub, keyring, limit=limit)
        self.principal: Principal | None = principal
        self._set: dict[str, str] = {}

    async def parts(self, connections: Connections) -> AsyncGenerator[bytes, None]:
        """The first part is empty, and for the caller: once it is taken, closing leaves."""
        try:
            yield b""
            while True:
                while (item := self._pop()) is not None:
                    if not isinstance(item, str):
                        subscription, given = item
                        for event in given.events:
                            self._set[str(event.partition)] = event.position
                            yield self._event(event.text(subscription.label))
                    elif '"type":"subscribed"' in item[:24]:
                        self._set = dict(_subscribed.decode(item).positions)
                        yield self._event(item, name="subscribed")
                    else:
                        yield b"event: " + _kind(item) + b"\ndata: " + item.encode() + b"\n\n"
                if self._closing is not None:
                    if self._closing[0] == frames.UNAUTHENTICATED:
                        problem = problem_of(Denied(self._closing[1]), self.id)
                        yield (
                            b"event: error\ndata: " + frames.encode(frames.Error(problem)).encode() + b"\n\n"
                        )
                    return
                if not await self._rest(HEARTBEAT_S):
                    yield b": still here\n\n"
        finally:
            CLOSED.labels(str((self._closing or (1000, ""))[0])).inc()
            self.leave()
            connections.leave(self)
            self.ended.set()

    def _event(self, data: str, *, name: str | None = None) -> bytes:
        lines = [f"event: {name}"] if name is not None else []
        return "\n".join([*lines, f"id: {_SEPARATOR.join(self._set.values())}", f"data: {data}\n\n"]).encode()


class EventStreamEndpoint:
    """The handler; streams are counted and ended with the sockets."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    async def get(self, request: Request) -> Response:
        """Raises InvalidInput, Forbidden, UnknownName, Unavailable; after that the answer is a stream."""
        frame = _asked(request)
        asked = asked_of(frame)
        hub = self._connections.hub
        stream = EventStream(hub, self._connections.keyring, request.principal, limit=self._connections.queue)
        stream.address = request.address
        stream.may_follow(asked.feed)
        selection = selection_of(asked, frame.filter, hub.channel(asked.feed).feed)
        if request.method == "HEAD":
            return Response(200, content_type=CONTENT_TYPE, headers=list(_HEADERS))
        self._connections.join(stream)
        try:
            stream.watch()
            await stream.follow(asked, selection, policy=frame.policy, since=frame.since)
            parts = stream.parts(self._connections)
            await anext(parts)
        except BaseException:
            stream.leave()
            self._connections.leave(stream)
            stream.ended.set()
            raise
        return Response(200, content_type=CONTENT_TYPE, headers=list(_HEADERS), parts=parts)


def _asked(request: Request) -> frames.Subscribe:
    """The options as a `subscribe` frame. Raises InvalidInput."""
    given: dict[str, object] = {"type": "subscribe"}
    for name in ("channel", "pipeline", "entity", "policy"):
        value = request.option(name)
        if value:
            given[name] = value
    if "channel" not in given:
        raise InvalidInput(
            "no channel is named", code="invalid_option", mend="add ?channel=results&pipeline=..."
        )
    since = request.headers.get("last-event-id") or request.option("since")
    if since:
        positions = since.split(_SEPARATOR, frames.MAX_POSITIONS)
        if len(positions) > frames.MAX_POSITIONS:
            raise InvalidInput(f"more than {frames.MAX_POSITIONS} positions", code="too_many_positions")
        given["since"] = positions
    filter = request.option("filter")
    try:
        if filter:
            given["filter"] = msgspec.json.decode(filter)
        return msgspec.convert(given, frames.Subscribe)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise InvalidInput(f"an option makes no sense: {error}", code="invalid_option") from None


def _kind(frame: str) -> bytes:
    """The type of a frame that we made."""
    return frame.split('"', 4)[3].encode()
