"""Where connections come in."""

import asyncio
import socket
import ssl
import time
from pathlib import Path
from typing import Protocol

from core.tls import check_pair
from core.turns import Turns
from gateway.wire.connection import Handler, HttpConnection, date_line

BACKLOG = 1024
_LOOK_S = 0.02


class Held(Protocol):
    """A connection, of whichever protocol."""

    @property
    def idle(self) -> bool: ...

    def end(self) -> None: ...

    def abort(self) -> None: ...


class Listener:
    """Serves an application on one address, in the running event loop. A connection that has not sent the
    head of its next request `head_read_s` after its last answer is closed; of more than `connections` at once
    each further one is closed.

    tls: the PEM files of certificate and key; https and wss are served with them, nothing else. Raises
    StackError where they cannot be."""

    def __init__(
        self,
        application: Handler,
        host: str,
        port: int,
        *,
        head_read_s: float = 10.0,
        connections: int = 16_384,
        tls: tuple[Path, Path] | None = None,
    ) -> None:
        self.application = application
        self.head_read_s = head_read_s
        self._tls: ssl.SSLContext | None = None
        if tls is not None:
            check_pair(*tls)
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.minimum_version = ssl.TLSVersion.TLSv1_2
            self._tls.load_cert_chain(*tls)
        self._host, self._port = host, port
        self._most = connections
        self._held: set[Held] = set()
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._date, self._date_until = b"", 0.0
        self.turns = Turns()

    @property
    def count(self) -> int:
        """How many connections there are."""
        return len(self._held)

    def start(self) -> None:
        """Connections are taken from here on, unless `wait` says why not."""
        self._task = asyncio.get_running_loop().create_task(self._serve(self._bound()), name="listener")

    async def wait(self) -> None:
        """Until the server ends; raises what ended it (a port that is taken, for one)."""
        if self._task is not None:
            await asyncio.shield(self._task)

    async def stop(self, timeout_s: float) -> None:
        """Take no more connections, end those that are idle, and the others when they have been answered, at
        most `timeout_s` from now."""
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        self._stopping.set()
        for one in tuple(self._held):
            one.end()
        while any(not one.idle for one in self._held) and loop.time() < until:
            await asyncio.sleep(_LOOK_S)
        for one in tuple(self._held):
            one.abort()
        if self._task is not None:
            await asyncio.wait({self._task})

    def take(self, connection: Held) -> bool:
        """Whether there is room for one more."""
        if len(self._held) >= self._most:
            return False
        self._held.add(connection)
        return True

    def forget(self, connection: Held) -> None:
        self._held.discard(connection)

    def date(self) -> bytes:
        """The line of every answer that says when it was given."""
        now = time.monotonic()
        if now >= self._date_until:
            self._date, self._date_until = date_line(), now + 1.0
        return self._date

    def _bound(self) -> socket.socket | OSError:
        try:
            (family, *_), *_ = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
            return socket.create_server((self._host, self._port), family=family, backlog=BACKLOG)
        except OSError as error:
            return error

    async def _serve(self, bound: socket.socket | OSError) -> None:
        if isinstance(bound, OSError):
            raise bound
        server = await asyncio.get_running_loop().create_server(
            lambda: HttpConnection(self),
            sock=bound,
            backlog=BACKLOG,
            ssl=self._tls,
            ssl_handshake_timeout=self.head_read_s if self._tls else None,
        )
        try:
            await self._stopping.wait()
        finally:
            server.close()
