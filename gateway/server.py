"""The server: Granian in our own event loop, one process, and the few lines between it and our handlers.

Granian is driven through its ASGI interface, not its faster RSGI one (20 to 35 % fewer requests a second
measured on an empty handler): RSGI 1.x can neither name a WebSocket subprotocol nor close with a code, and
the stream protocol needs both. Only this file knows.

Every request gets an id (a sane `X-Request-ID` is kept), is routed, authenticated, authorized and handled;
whatever is raised becomes a problem document.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from typing import Any, Protocol, cast

import msgspec
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.server.embed import Server as Granian

from core.errors import Malformed, MillstreamError, TooLarge
from core.ids import new_id
from core.telemetry.log import logger
from core.telemetry.metrics import counter, gauge
from gateway.exchange import Gone, Request, Response
from gateway.keyring import Keyring
from gateway.principals import ANONYMOUS, PUBLIC, Principal
from gateway.problems import CONTENT_TYPE, Forbidden, NotFound, problem_headers, problem_of
from gateway.routing import Route, Router

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
BODY_READ_S = 30.0
_DISCARDED_BYTES, _DISCARD_S = 1 << 20, 1.0
STREAM_PATH = "/api/v1/stream"

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}", re.ASCII)
_UNSPEAKABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", re.ASCII)
_EVERY_ANSWER = [(b"x-content-type-options", b"nosniff")]
_log = logger("gateway.server")
_encode = msgspec.json.Encoder().encode
_REQUESTS = counter("gateway_requests_total", "Requests, by route template and status", ["route", "status"])
_OPEN = gauge("gateway_requests_open", "Requests that are being handled")


class Socket(Protocol):
    """What a WebSocket handler is given."""

    async def __call__(
        self, headers: dict[str, str], protocols: list[str], receive: Receive, send: Send
    ) -> None: ...


class Application:
    """The ASGI callable. `stream` handles the one WebSocket path."""

    def __init__(self, router: Router, keyring: Keyring, stream: Socket | None = None) -> None:
        self._router = router
        self._keyring = keyring
        self._stream = stream
        self.draining = False
        self._open = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)

    async def drained(self, timeout_s: float) -> bool:
        """Wait until no request is open, at most `timeout_s`; whether that was so."""
        try:
            await asyncio.wait_for(self._idle.wait(), timeout_s)
        except TimeoutError:
            return False
        return True

    async def _http(self, scope: Message, receive: Receive, send: Send) -> None:
        headers = _headers(scope)
        given = headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else new_id()
        request = Request(
            method=scope["method"],
            path=scope["path"],
            headers=headers,
            body=_body_of(headers, receive),
            request_id=request_id,
            query=cast(bytes, scope["query_string"]).decode("ascii", "replace"),
            traceparent=_traceparent(headers),
            gone=_gone_of(receive),
        )
        self._open += 1
        self._idle.clear()
        _OPEN.set(self._open)
        template = "none"
        try:
            try:
                if _UNSPEAKABLE.search(request.path):
                    raise NotFound("no such path")
                route, request.parameters = self._router.find(request.method, request.path)
                template = route.template
                request.principal = await self._admit(route, headers)
                response = await route.handler(request)
            except asyncio.CancelledError:
                raise
            except BaseException as error:
                if not isinstance(error, MillstreamError):
                    _log.exception("a request failed", request_id=request_id, path=request.path[:200])
                response = problem_response(error, request_id)
            if self.draining:
                response.headers.append(("connection", "close"))
            _REQUESTS.labels(template, str(response.status)).inc()
            await _answer(response, request, send)
        finally:
            self._open -= 1
            _OPEN.set(self._open)
            if not self._open:
                self._idle.set()

    async def _admit(self, route: Route, headers: dict[str, str]) -> Principal:
        """Who calls; raises Denied (401) or Forbidden (403)."""
        if route.permission == PUBLIC:
            return ANONYMOUS
        principal = await self._keyring.check(bearer(headers))
        if not principal.may(route.permission):
            raise Forbidden(f"the key has not the scope {route.permission!r}", mend="use a key that has it")
        return principal

    async def _websocket(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["path"] != STREAM_PATH or self._stream is None:
            await receive()
            await send({"type": "websocket.close", "code": 4404, "reason": "no such path"})
            return
        try:
            await self._stream(_headers(scope), list(scope.get("subprotocols") or ()), receive, send)
        except asyncio.CancelledError:
            raise
        except Exception:
            _log.exception("a socket failed")


class Listener:
    """Serves an application on one address, in the running event loop."""

    def __init__(self, application: Application, host: str, port: int) -> None:
        self._granian = Granian(
            application,
            address=host,
            port=port,
            interface=Interfaces.ASGINL,
            http=HTTPModes.http1,
            backlog=1024,
            log_enabled=False,
            http1_settings=HTTP1Settings(header_read_timeout=10_000, max_buffer_size=64 * 1024),
        )
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._granian.serve(), name="granian")

    async def wait(self) -> None:
        """Until the server ends; raises what ended it (a port that is taken, for one)."""
        if self._task is not None:
            await asyncio.shield(self._task)

    async def stop(self, timeout_s: float) -> None:
        self._granian.stop()
        if self._task is not None:
            done, _ = await asyncio.wait({self._task}, timeout=timeout_s)
            if not done:
                self._task.cancel()


def problem_response(error: BaseException, request_id: str) -> Response:
    """Any error as the answer to a request."""
    problem = problem_of(error, request_id)
    return Response(problem.status, _encode(problem), CONTENT_TYPE, problem_headers(error))


def bearer(headers: dict[str, str]) -> str | None:
    """The credential of a request: `Authorization: Bearer ...` or `X-API-Key: ...`."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and value:
        return value.strip()
    return headers.get("x-api-key")


def _headers(scope: Message) -> dict[str, str]:
    """Names in lower case. Of a name that comes twice the first counts, so none can be slipped in behind."""
    found: dict[str, str] = {}
    for name, value in scope["headers"]:
        found.setdefault(name.decode("latin-1"), value.decode("latin-1"))
    return found


def _traceparent(headers: dict[str, str]) -> str | None:
    given = headers.get("traceparent", "")
    return given if _TRACEPARENT.fullmatch(given) else None


def _body_of(headers: dict[str, str], receive: Receive) -> Callable[[int], Awaitable[bytes]]:
    async def read(limit: int) -> bytes:
        length = headers.get("content-length", "0")
        if length.isdigit() and (len(length) > 15 or int(length) > limit):
            await _discard(receive)
            raise TooLarge(f"a body of {length[:20]} bytes", mend=f"send at most {limit} bytes")
        parts, size = [], 0
        try:
            async with asyncio.timeout(BODY_READ_S):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Malformed("the body ended early")
                    part = message.get("body", b"")
                    size += len(part)
                    if size > limit:
                        await _discard(receive)
                        raise TooLarge(f"a body of more than {limit} bytes")
                    parts.append(part)
                    if not message.get("more_body"):
                        return parts[0] if len(parts) == 1 else b"".join(parts)
        except TimeoutError:
            raise Malformed("the body took too long", code="slow_body") from None

    return read


async def _discard(receive: Receive) -> None:
    """Take a bounded rest of a body that is refused: a client that is still sending when the connection is
    closed would see it break, and no answer."""
    left = _DISCARDED_BYTES
    try:
        async with asyncio.timeout(_DISCARD_S):
            while left > 0:
                message = await receive()
                if message["type"] == "http.disconnect" or not message.get("more_body"):
                    return
                left -= len(message.get("body", b""))
    except TimeoutError:
        return


def _gone_of(receive: Receive) -> Gone:
    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    return gone


async def _answer(response: Response, request: Request, send: Send) -> None:
    body = response.body
    headers = [
        (b"content-type", response.content_type.encode()),
        (b"x-request-id", request.request_id.encode()),
        *_EVERY_ANSWER,
    ]
    if not any(name == "cache-control" for name, _ in response.headers):
        headers.append((b"cache-control", b"no-store"))
    if response.parts is None:
        headers.append((b"content-length", str(len(body)).encode()))
    headers += [(name.encode(), value.encode("latin-1", "replace")) for name, value in response.headers]
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    if response.parts is not None:
        await _send_parts(response.parts, request, send)
        return
    await send({"type": "http.response.body", "body": b"" if request.method == "HEAD" else body})


async def _send_parts(parts: AsyncGenerator[bytes, None], request: Request, send: Send) -> None:
    """Part by part until the last, or until the client has left."""

    async def forward() -> None:
        async for part in parts:
            await send({"type": "http.response.body", "body": part, "more_body": True})

    tasks = [asyncio.ensure_future(forward()), asyncio.ensure_future(request.gone())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if tasks[0].done() and tasks[0].exception() is not None:
            _log.error("an answer broke off", request_id=request.request_id, exc_info=tasks[0].exception())
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await parts.aclose()
    await send({"type": "http.response.body", "body": b""})
