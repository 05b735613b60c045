"""One WebSocket to a gateway, as a client has it: subscribe, publish, ask, and be suggested to while typing.

    async with client.stream() as stream:
        await stream.subscribe("results", pipeline="fraud", filter={"status": "blocked"})
        accepted = await stream.publish("fraud", event)
        async for event in stream:
            print(event.channel, event.data["id"])

It lasts as long as the socket does: `gateway.client.GatewayClient.listen` is what reconnects and resumes.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import Any, Self

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI
from websockets.typing import Subprotocol

from core.errors import Denied, InvalidInput, MillstreamError, Unavailable
from gateway.push import frames
from gateway.push.frames import Gap, Policy
from gateway.user_session import EXPIRED, Credential, UserSession, text_of

MOST_WAITING = 4096
"""Events that wait for the caller before the socket is read no further."""
WITHIN_S = 30.0
_FATAL = frozenset(
    (frames.BAD_FRAME, frames.UNAUTHENTICATED, frames.FORBIDDEN, frames.WRONG_PROTOCOL, frames.CONFLICT)
)
_encode = msgspec.json.Encoder().encode


class PushedEvent(msgspec.Struct, frozen=True, tag="event"):
    """An event frame. `data` is a record as JSON; `positions` has that of its partition."""

    channel: str
    id: str
    positions: dict[str, str]
    pushed_at: datetime
    data: dict[str, Any]

    @property
    def partition(self) -> int:
        return int(next(iter(self.positions)))


class Suggested(msgspec.Struct, frozen=True, tag="suggestion"):
    """How a prompt could go on. `partial` is all of it that is known; nothing follows a `final` one."""

    of: str = msgspec.field(name="for")
    source: str
    partial: str
    final: bool


class _Connected(msgspec.Struct, frozen=True, tag="connected"):
    session: str


class _Subscribed(msgspec.Struct, frozen=True, tag="subscribed"):
    channel: str
    recovered: bool
    positions: dict[str, str]
    gaps: list[Gap] = []


class _Unsubscribed(msgspec.Struct, frozen=True, tag="unsubscribed"):
    channel: str


class _Dropped(msgspec.Struct, frozen=True, tag="dropped"):
    channel: str
    count: int


class _Published(msgspec.Struct, frozen=True, tag="published"):
    of: str = msgspec.field(name="for")
    status: int
    data: Any


class _Piece(msgspec.Struct, frozen=True, tag="piece"):
    of: str = msgspec.field(name="for")
    restart: bool
    data: Any


class _Answer(msgspec.Struct, frozen=True, tag="answer"):
    of: str = msgspec.field(name="for")
    status: int
    data: Any


class _Error(msgspec.Struct, frozen=True, tag="error"):
    problem: dict[str, Any]
    channel: str | None = None
    of: str | None = msgspec.field(name="for", default=None)


class _Ping(msgspec.Struct, frozen=True, tag="ping"):
    id: str | None = None


class _Pong(msgspec.Struct, frozen=True, tag="pong"):
    id: str | None = None


_Reply = _Published | _Piece | _Answer | Suggested | _Error
_Frame = (
    PushedEvent | _Connected | _Subscribed | _Unsubscribed | _Dropped | _Published | _Piece | _Answer
    | Suggested | _Error | _Ping | _Pong
)  # fmt: skip
_frames = msgspec.json.Decoder(_Frame | list[_Frame])


@dataclass
class Listening:
    """The state of one `listen`, kept across reconnects; its `positions` can be stored and given back."""

    positions: dict[str, str] = field(default_factory=dict)
    gaps: list[Gap] = field(default_factory=list)
    dropped: int = 0
    reconnects: int = 0
    subscribed: asyncio.Event = field(default_factory=asyncio.Event)


class Stream:
    """Use it as an asynchronous context manager, from one event loop. `dropped` counts, by channel, what the
    policy `drop_oldest` left out."""

    def __init__(self, url: str, token: Credential) -> None:
        self._url = url.rstrip("/").replace("http", "ws", 1) + "/api/v1/stream"
        self._token = token
        self._socket: ClientConnection | None = None
        self._reader: asyncio.Task[None] | None = None
        self._events: asyncio.Queue[PushedEvent | None] = asyncio.Queue(MOST_WAITING)
        self._end: MillstreamError | None = None
        self._asked: dict[str, asyncio.Future[_Subscribed]] = {}
        self._calls: dict[str, asyncio.Queue[_Reply | MillstreamError]] = {}
        self._numbers = itertools.count()
        self._connected: asyncio.Future[None] | None = None
        self._told: MillstreamError | None = None
        self.dropped: dict[str, int] = {}

    async def __aenter__(self) -> Self:
        """Raises Denied for a bad key, InvalidInput for no address, Unavailable where nobody answers. With a
        user's session an expired access token is refreshed once."""
        used = text_of(self._token)
        try:
            await self._open(used)
        except Denied as error:
            if error.code != EXPIRED or not isinstance(self._token, UserSession):
                raise
            await self._token.renew(used)
            self._end = self._told = None
            self._events = asyncio.Queue(MOST_WAITING)
            await self._open(text_of(self._token))
        return self

    async def _open(self, token: str) -> None:
        try:
            self._socket = await connect(
                self._url,
                subprotocols=[Subprotocol(frames.SUBPROTOCOL)],
                max_queue=64,
                max_size=4 * 1024 * 1024,
                compression=None,
                ping_interval=None,
                close_timeout=2,
            )
        except InvalidURI as error:
            raise InvalidInput(f"no gateway address: {self._url}") from error
        except (OSError, InvalidHandshake, TimeoutError) as error:
            raise Unavailable(f"the gateway does not answer: {error!r}", where=self._url) from error
        self._connected = asyncio.get_running_loop().create_future()
        self._reader = asyncio.get_running_loop().create_task(self._read(self._socket))
        try:
            await self._say({"type": "connect", "token": token, "batched": True})
            async with asyncio.timeout(WITHIN_S):
                await self._connected
        except TimeoutError:
            await self.__aexit__(None, None, None)
            raise Unavailable("the gateway does not take the connection up", where=self._url) from None
        except BaseException:
            await self.__aexit__(None, None, None)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
        if self._socket is not None:
            await self._socket.close()

    async def subscribe(
        self,
        channel: str,
        *,
        pipeline: str | None = None,
        entity: str | None = None,
        filter: Mapping[str, Any] | None = None,
        since: Sequence[str] | None = None,
        name: str | None = None,
        policy: Policy = "disconnect",
    ) -> _Subscribed:
        """What is given from now on, or from `since`. Raises InvalidInput, Denied, Unavailable."""
        label = ":".join(part for part in (channel, pipeline, entity) if part is not None)
        asked: asyncio.Future[_Subscribed] = asyncio.get_running_loop().create_future()
        self._asked[label] = asked
        frame = {
            "type": "subscribe",
            "channel": channel,
            "pipeline": pipeline,
            "entity": entity,
            "name": name,
        }
        frame = {key: value for key, value in frame.items() if value is not None}
        more: dict[str, Any] = {"policy": policy}
        more |= {"filter": dict(filter)} if filter else {}
        more |= {"since": list(since)} if since else {}
        try:
            await self._say(frame | more)
            return await asked
        finally:
            self._asked.pop(label, None)

    async def acknowledge(self, name: str, position: str) -> None:
        """Everything up to the position, of its partition, has been dealt with."""
        await self._say({"type": "ack", "name": name, "position": position})

    async def publish(self, pipeline: str, data: Any) -> dict[str, Any]:
        """One event, or a list of them; the body of the answer, which for a list has an outcome each. Raises
        InvalidInput, Denied, Unavailable."""
        reply = await self._call({"type": "publish", "pipeline": pipeline, "data": data}, _Published)
        return dict(reply.data)

    async def ask(
        self,
        pipeline: str,
        data: Any,
        *,
        key: str | None = None,
        wait_s: int | None = None,
        conversation: str | None = None,
        piece: Callable[[Any], None] | None = None,
    ) -> dict[str, Any]:
        """The answer; each piece of it goes to `piece` as it comes, and None where it begins anew. Raises as
        `GatewayClient.ask`. Who leaves early cancels the request."""
        frame: dict[str, Any] = {"type": "ask", "pipeline": pipeline, "data": data}
        given = {"key": key, "wait_s": wait_s, "conversation": conversation}
        frame |= {name: value for name, value in given.items() if value is not None}
        async for reply in self._replies(frame):
            if isinstance(reply, _Answer):
                return dict(reply.data)
            if isinstance(reply, _Piece) and piece is not None:
                piece(None if reply.restart else reply.data)
        raise Unavailable("the answer did not come")

    async def suggest(
        self, prompt: str, *, max_tokens: int = 16, model: str | None = None
    ) -> AsyncIterator[Suggested]:
        """How the text goes on, ever more of it, up to the final suggestion. The next prompt supersedes this
        one, which then ends without."""
        frame: dict[str, Any] = {"type": "prompt", "prompt": prompt, "max_tokens": max_tokens}
        async for reply in self._replies(frame | ({"model": model} if model is not None else {})):
            if isinstance(reply, Suggested):
                yield reply
                if reply.final:
                    return

    def __aiter__(self) -> AsyncIterator[PushedEvent]:
        return self._pushed()

    async def _pushed(self) -> AsyncIterator[PushedEvent]:
        while self._end is None or not self._events.empty():
            event = await self._events.get()
            if event is not None:
                yield event
        raise self._end

    async def _call(self, frame: dict[str, Any], kind: type[_Published]) -> _Published:
        async for reply in self._replies(frame):
            if isinstance(reply, kind):
                return reply
        raise Unavailable("the answer did not come")

    async def _replies(self, frame: dict[str, Any]) -> AsyncIterator[_Reply]:
        if self._end is not None:
            raise self._end
        id = str(next(self._numbers))
        replies: asyncio.Queue[_Reply | MillstreamError] = asyncio.Queue()
        if frame["type"] == "prompt":
            for earlier, waiting in self._calls.items():
                if earlier.startswith("prompt-"):
                    waiting.put_nowait(Unavailable("a later prompt came", code="superseded"))
            id = f"prompt-{id}"
        self._calls[id] = replies
        ended = False
        try:
            await self._say(frame | {"id": id})
            while True:
                reply = await replies.get()
                if isinstance(reply, Unavailable) and reply.code == "superseded":
                    ended = True
                    return
                if isinstance(reply, MillstreamError):
                    ended = True
                    raise reply
                if isinstance(reply, _Error):
                    ended = True
                    raise error_of(int(reply.problem.get("status", 400)), reply.problem)
                ended = isinstance(reply, _Published | _Answer) or (
                    isinstance(reply, Suggested) and reply.final
                )
                yield reply
        finally:
            self._calls.pop(id, None)
            if not ended:
                await self._say_quietly({"type": "cancel", "id": id})

    async def _say(self, frame: Mapping[str, Any]) -> None:
        if self._socket is None:
            raise Unavailable("the stream is not open")
        try:
            await self._socket.send(_encode(frame).decode())
        except ConnectionClosed as closed:
            raise _ended(closed) from closed

    async def _say_quietly(self, frame: Mapping[str, Any]) -> None:
        try:
            await self._say(frame)
        except MillstreamError:
            return  # the socket is closed, and with it the request is cancelled

    async def _read(self, socket: ClientConnection) -> None:
        """Until the socket ends; then everybody who waits is told."""
        end: MillstreamError = Unavailable("the stream was closed")
        try:
            async for text in socket:
                said = _frames.decode(text)
                for frame in said if isinstance(said, list) else (said,):
                    await self._take(frame)
            end = Unavailable("the stream has ended", where=self._url)
        except ConnectionClosed as closed:
            end = _ended(closed)
        except msgspec.MsgspecError as error:
            end = InvalidInput(f"a frame that makes no sense: {error}", where=self._url)
        finally:
            self._over(end)

    def _over(self, end: MillstreamError) -> None:
        """Events that came are still given; then, and to all others at once, the end."""
        self._end = self._told or end
        for waiting in (self._connected, *self._asked.values()):
            if waiting is not None and not waiting.done():
                waiting.set_exception(self._end)
        for replies in self._calls.values():
            replies.put_nowait(self._end)
        if self._events.empty():
            self._events.put_nowait(None)

    async def _take(self, frame: _Frame) -> None:
        if isinstance(frame, PushedEvent):
            await self._events.put(frame)
        elif isinstance(frame, _Published | _Piece | _Answer | Suggested | _Error) and frame.of is not None:
            self._reply(frame.of, frame)
        elif isinstance(frame, _Error):
            error = error_of(int(frame.problem.get("status", 400)), frame.problem)
            asked = self._asked.get(frame.channel or "")
            if asked is not None and not asked.done():
                asked.set_exception(error)
            elif self._connected is not None and not self._connected.done():
                self._connected.set_exception(error)
            elif frame.channel is None:
                self._told = error  # the end follows
        elif isinstance(frame, _Connected) and self._connected is not None:
            self._connected.set_result(None)
        elif isinstance(frame, _Subscribed):
            waiting = self._asked.get(frame.channel)
            if waiting is not None and not waiting.done():
                waiting.set_result(frame)
        elif isinstance(frame, _Dropped):
            self.dropped[frame.channel] = self.dropped.get(frame.channel, 0) + frame.count
        elif isinstance(frame, _Ping):
            await self._say_quietly(
                {"type": "pong"} if frame.id is None else {"type": "pong", "id": frame.id}
            )

    def _reply(self, of: str, frame: _Reply) -> None:
        replies = self._calls.get(of)
        if replies is not None:
            replies.put_nowait(frame)


def error_of(status: int, problem: Mapping[str, Any]) -> Denied | InvalidInput | Unavailable:
    """What a problem document tells of."""
    detail, code = str(problem.get("detail", status)), str(problem.get("code", "unknown"))
    if status in (401, 403):
        return Denied(detail, code=code)
    if status >= 500 or status == 429:
        return Unavailable(detail, code=code)
    return InvalidInput(detail, code=code, mend=problem.get("mend"))


def _ended(closed: ConnectionClosed) -> Denied | InvalidInput | Unavailable:
    code = closed.rcvd.code if closed.rcvd else 1006
    reason = (closed.rcvd.reason if closed.rcvd else "") or f"closed with {code}"
    if code in (frames.UNAUTHENTICATED, frames.FORBIDDEN):
        return Denied(reason)
    if code in _FATAL:
        return InvalidInput(reason)
    return Unavailable(reason, code=f"closed_{code}")
