"""The application without a connection: requests of httpx from any address, and sockets."""

from typing import Any, cast

import httpx

from core.errors import TooLarge
from gateway.exchange import never
from gateway.server import Application
from gateway.wire.call import Call
from gateway.wire.websocket import WebSocket


class InMemoryCall:
    """A request that is all there, and its answer; of what `Call` has, what an application uses."""

    def __init__(self, request: httpx.Request, peer: str) -> None:
        target = request.url.raw_path
        self.method, self.version, self.peer = request.method, "1.1", peer
        self.path, self.query = request.url.path, request.url.query.decode()
        self.target_bytes = len(target)
        self.fields = [(name.lower(), value) for name, value in request.headers.raw]
        self.secure, self.keep = False, True
        self._body = request.content
        self.response: httpx.Response | None = None

    async def body(self, limit: int) -> bytes:
        if len(self._body) > limit:
            raise TooLarge(f"a body of {len(self._body)} bytes")
        return self._body

    async def gone(self) -> None:
        await never()

    def answer(self, status: int, head: bytes, body: bytes) -> None:
        fields = [tuple(line.split(b": ", 1)) for line in head.split(b"\r\n")[:-1]]
        self.response = httpx.Response(status, headers=cast(list[tuple[bytes, bytes]], fields), content=body)


class InMemoryTransport(httpx.AsyncBaseTransport):
    """Requests come from `peer`."""

    def __init__(self, application: Application, *, peer: str) -> None:
        self._application = application
        self._peer = peer

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        call = InMemoryCall(request, self._peer)
        await self._application.http(cast(Call, call))
        assert call.response is not None, "no answer"
        return call.response


class InMemorySocket:
    """A socket from `peer`; `sent` is what it was sent."""

    def __init__(self, path: str, peer: str) -> None:
        self.call = InMemoryCall(httpx.Request("GET", f"http://a{path}"), peer)
        self.protocols: list[str] = []
        self.sent: list[dict[str, Any]] = []

    async def receive(self) -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(self, message: Any) -> None:
        self.sent.append(message)


async def opened(application: Application, path: str, peer: str) -> list[dict[str, Any]]:
    """What a socket is sent until the application is done with it."""
    socket = InMemorySocket(path, peer)
    await application.socket(cast(WebSocket, socket))
    return socket.sent
