"""The handler of the socket path: which sockets become sessions."""

from collections.abc import Callable, Collection
from urllib.parse import urlsplit

from core.errors import QueueFull
from gateway.problems import Forbidden
from gateway.push import frames
from gateway.push.calls import Calls
from gateway.push.connections import Connections
from gateway.push.session import Session, Socket
from gateway.push.stored import StoredPositions


class Sessions:
    """`origins` are those whose pages may open sockets, beside pages of this gateway's own address."""

    def __init__(
        self,
        connections: Connections,
        *,
        bearer: Callable[[dict[str, str]], str | None],
        stored: StoredPositions,
        calls: Calls,
        origins: Collection[str] = (),
    ) -> None:
        self.connections = connections
        self._bearer = bearer
        self._stored = stored
        self._calls = calls
        self._origins = frozenset(origins)

    async def __call__(self, headers: dict[str, str], socket: Socket) -> None:
        protocols = socket.protocols
        offered = frames.SUBPROTOCOL if frames.SUBPROTOCOL in protocols else None
        socket.accept(offered)
        connections = self.connections
        session = Session(
            connections.hub,
            connections.keyring,
            socket,
            limit=connections.queue,
            stored=self._stored,
            calls=self._calls,
        )
        if connections.draining:
            session.refuse(frames.GOING_AWAY, "going away")
        elif not self._may_open(headers):
            if self._calls.admission.audit is not None:
                self._calls.admission.audit.turned_away(Forbidden("a page of another origin"))
            session.refuse(frames.FORBIDDEN, "pages of this origin may not open sockets")
        elif protocols and offered is None:
            session.refuse(frames.WRONG_PROTOCOL, f"speak {frames.SUBPROTOCOL}")
        else:
            try:
                connections.join(session)
            except QueueFull:
                session.refuse(frames.OVERLOADED, "too many sockets")
                return
            try:
                await session.run(self._bearer(headers))
            finally:
                connections.leave(session)

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
