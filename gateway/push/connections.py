"""Every connection that this gateway pushes to: counted, watched, and closed when draining."""

import asyncio

from core.errors import QueueFull, Unavailable
from core.telemetry.metrics import gauge
from gateway.keyring import Keyring
from gateway.push import frames
from gateway.push.connection import Connection
from gateway.push.hub import Hub

MOST_CONNECTIONS = 2000
_END_S = 4.0
_OPEN = gauge("gateway_sockets", "Open WebSockets and event streams")


class Connections:
    """The register that sockets and event streams share. `queue` bounds what waits for each."""

    def __init__(self, hub: Hub, keyring: Keyring, *, queue: int) -> None:
        self.hub = hub
        self.keyring = keyring
        self.queue = queue
        self.draining = False
        self._open: set[Connection] = set()

    def join(self, connection: Connection) -> None:
        """Raises Unavailable while draining, QueueFull when there are too many."""
        if self.draining:
            raise Unavailable("this gateway is going away")
        if len(self._open) >= MOST_CONNECTIONS:
            raise QueueFull(f"{len(self._open)} connections are open", retry_after_s=5.0)
        self._open.add(connection)
        _OPEN.set(len(self._open))

    def leave(self, connection: Connection) -> None:
        self._open.discard(connection)
        _OPEN.set(len(self._open))

    async def drain(self) -> None:
        """Close everything with 1001, what is queued first; takes at most a few seconds."""
        self.draining = True
        connections = tuple(self._open)
        for connection in connections:
            connection.close(frames.GOING_AWAY, "going away")
        if connections:
            waiting = [asyncio.ensure_future(connection.ended.wait()) for connection in connections]
            await asyncio.wait(waiting, timeout=_END_S)
