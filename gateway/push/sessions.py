"""Every connection that this gateway pushes to: let in, counted, closed on revocation and when draining."""

import asyncio
from collections.abc import Callable, Collection
from urllib.parse import urlsplit

from core.errors import QueueFull, Unavailable
from core.telemetry.metrics import gauge
from gateway.keyring import Keyring
from gateway.push import frames
from gateway.push.calls import Calls
from gateway.push.connection import Connection
from gateway.push.hub import Hub
from gateway.push.session import Receive, Send, Session
from gateway.push.stored import StoredPositions

MOST_CONNECTIONS = 2000
_END_S = 4.0
_OPEN = gauge("gateway_sockets", "Open WebSockets and event streams")


class Sessions:
    """The handler of the socket path, and the register that event streams share with it.

    `origins` are those whose pages may open sockets, beside pages of this gateway's own address.
    """

    def __init__(
        self,
        hub: Hub,
        keyring: Keyring,
        *,
        queue: int,
        bearer: Callable[[dict[str, str]], str | None],
        stored: StoredPositions,
        calls: Calls,
        origins: Collection[str] = (),
    ) -> None:
        self.hub = hub
        self.queue = queue
        self._keyring = keyring
        self._bearer = bearer
        self._stored = stored
        self._calls = calls
        self._origins = frozenset(origins)
        self._open: set[Connection] = set()
        self._draining = False

    async def __call__(
        self, headers: dict[str, str], protocols: list[str], receive: Receive, send: Send
    ) -> None:
        await receive()  # websocket.connect
        offered = frames.SUBPROTOCOL if frames.SUBPROTOCOL in protocols else None
        await send({"type": "websocket.accept", "subprotocol": offered})
        session = Session(
            self.hub,
            self._keyring,
            receive,
            send,
            limit=self.queue,
            stored=self._stored,
            calls=self._calls,
        )
        if self._draining:
            await session.refuse(frames.GOING_AWAY, "going away")
        elif not self._may_open(headers):
            await session.refuse(frames.FORBIDDEN, "pages of this origin may not open sockets")
        elif protocols and offered is None:
            await session.refuse(frames.WRONG_PROTOCOL, f"speak {frames.SUBPROTOCOL}")
        elif len(self._open) >= MOST_CONNECTIONS:
            await session.refuse(frames.OVERLOADED, "too many sockets")
        else:
            self.join(session)
            try:
                await session.run(self._bearer(headers))
            finally:
                self.leave(session)

    def join(self, connection: Connection) -> None:
        """Close it when the credential that it came with is over, and when draining. Raises Unavailable while
        draining, QueueFull when there are too many."""
        if self._draining:
            raise Unavailable("this gateway is going away")
        if len(self._open) >= MOST_CONNECTIONS:
            raise QueueFull(f"{len(self._open)} connections are open", retry_after_s=5.0)
        connection.watch(self._keyring)
        self._open.add(connection)
        _OPEN.set(len(self._open))

    def leave(self, connection: Connection) -> None:
        self._open.discard(connection)
        _OPEN.set(len(self._open))

    async def drain(self) -> None:
        """Close everything with 1001, what is queued first; takes at most a few seconds."""
        self._draining = True
        connections = tuple(self._open)
        for connection in connections:
            connection.close(frames.GOING_AWAY, "going away")
        if connections:
            waiting = [asyncio.ensure_future(connection.ended.wait()) for connection in connections]
            await asyncio.wait(waiting, timeout=_END_S)

    def _may_open(self, headers: dict[str, str]) -> bool:
        """A browser names the page's origin; what is no browser sends none."""
        origin = headers.get("origin")
        if origin is None or origin in self._origins:
            return True
        try:
            host = urlsplit(origin).netloc
        except ValueError:
            return False
        return bool(host) and host.lower() == headers.get("host", "").lower()
