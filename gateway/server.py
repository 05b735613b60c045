"""The server: Granian in our own event loop, one process, and the few lines between it and our handlers.

Granian is driven through its ASGI interface, not its faster RSGI one (20 to 35 % fewer requests a second
measured on an empty handler): RSGI 1.x can neither name a WebSocket subprotocol nor close with a code, and
the stream protocol needs both. Only this file knows.

Every request gets an id (a sane `X-Request-ID` is kept), passes the door (`gateway.admission`) and is
handled; whatever is raised becomes a problem document.
"""

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping, MutableMapping
from pathlib import Path
from typing import Any, Protocol

import msgspec
from granian.constants import HTTPModes, Interfaces, SSLProtocols
from granian.http import HTTP1Settings
from granian.server.embed import Server as Granian

from core.errors import Malformed, MillstreamError, TooLarge
from core.ids import new_id
from core.settings import Limits
from core.telemetry.log import logger
from core.telemetry.metrics import counter, gauge, histogram
from core.tls import check_pair
from gateway.addresses import PEER, ClientAddress
from gateway.admission import Admission, Visit
from gateway.audit.watch import Watch
from gateway.cross_origin import CrossOrigin
from gateway.exchange import Gone, Request, Response
from gateway.head import Head, head_of
from gateway.limits import OverLimit
from gateway.problems import (
    CONTENT_TYPE,
    MethodNotAllowed,
    NotFound,
    SlowBody,
    problem_headers,
    problem_of,
)
from gateway.routing import Route

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
_DISCARDED_BYTES, _DISCARD_S = 1 << 20, 1.0
STREAM_PATH = "/api/v1/stream"
BAD_HEAD, OVER_LIMIT = 4400, 4429

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}", re.ASCII)
_UNSPEAKABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", re.ASCII)
_EVERY_ANSWER = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"server", b"millstream"),  # else the server below names itself
]
_UNLESS_GIVEN = {
    "cache-control": b"no-store",
    "content-security-policy": b"default-src 'none'; frame-ancestors 'none'",
}
_OVER_TLS = (b"strict-transport-security", b"max-age=31536000")
_log = logger("gateway.server")
_encode = msgspec.json.Encoder().encode
_REQUESTS = counter("gateway_requests_total", "Requests, by route template and status", ["route", "status"])
_OPEN = gauge("gateway_requests_open", "Requests that are being handled")
_TOOK = histogram("gateway_request_ms", "From the head to the answer, or to its first part", ["route"])
_PROBLEMS = counter("gateway_problems_total", "Requests that ended with a problem, by its code", ["code"])


class Socket(Protocol):
    """What a WebSocket handler is given."""

    async def __call__(
        self, headers: dict[str, str], protocols: list[str], receive: Receive, send: Send
    ) -> None: ...


class Application:
    """The ASGI callable. `stream` handles the one WebSocket path; pages of `origins` may call; `audit` is
    told of everything."""

    def __init__(
        self,
        admission: Admission,
        stream: Socket | None = None,
        *,
        settings: Limits | None = None,
        origins: Collection[str] = (),
        audit: Watch | None = None,
    ) -> None:
        given = settings or Limits()
        self._admission = admission
        self._cross_origin = CrossOrigin(origins)
        self._addresses = ClientAddress(given.trusted_proxies)
        self._body_read_s = given.body_read_s
        self._answer_take_s = given.answer_take_s
        self._stream = stream
        self._audit = audit
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
        query: bytes = scope["query_string"]
        head = _head_of(scope)
        fields = head.fields
        given = fields.get("x-request-id", "")
        request = Request(
            method=scope["method"],
            path=scope["path"],
            headers=fields,
            body=_body_of(fields, receive, self._body_read_s),
            request_id=given if _REQUEST_ID.fullmatch(given) else new_id(),
            query=query.decode("ascii", "replace"),
            traceparent=_traceparent(fields),
            gone=_gone_of(receive),
            address=self._address(scope, fields),
        )
        self._open += 1
        self._idle.clear()
        _OPEN.set(self._open)
        began = time.perf_counter()
        try:
            template, response = await self._respond(request, head.flaw)
            if self.draining:
                response.headers.append(("connection", "close"))
            if request.standing is not None:
                response.headers += request.standing.headers()
            if self._cross_origin:
                response.headers += self._cross_origin.headers(fields.get("origin"))
            _REQUESTS.labels(template, str(response.status)).inc()
            _TOOK.labels(template).observe((time.perf_counter() - began) * 1000)
            tls = scope.get("scheme") == "https"
            await _answer(response, request, send, take_s=self._answer_take_s, tls=tls)
        finally:
            self._open -= 1
            _OPEN.set(self._open)
            if not self._open:
                self._idle.set()

    async def _respond(self, request: Request, flaw: MillstreamError | None) -> tuple[str, Response]:
        """The template of the route, for the metrics, and the answer."""
        route: Route | None = None
        visit: Visit | None = None
        response: Response | None = None
        failure: BaseException | None = None
        try:
            if _UNSPEAKABLE.search(request.path):
                flaw = flaw or NotFound("no such path")
            route = await self._admission.find(request, request.address, flaw)
            visit = await self._admission.admit(route, request, bearer(request.headers))
            if self._audit is not None and route.plane == "control":
                response = await self._audit.acted(route, request)
            else:
                response = await route.handler(request)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            failure = error
            if not isinstance(error, MillstreamError):
                _log.exception("a request failed", request_id=request.request_id, path=request.path[:200])
            response = self._asked_first(request, error)
            if response is None:
                _PROBLEMS.labels(error.code if isinstance(error, MillstreamError) else "internal_error").inc()
                refusal = self._admission.refusal(request.path) or problem_response
                response = refusal(error, request.request_id)
        finally:
            if visit is not None:
                visit.ended(response)
        if self._audit is not None:
            self._audit.answered(
                route, request, response.status, failure or response.error, admitted=visit is not None
            )
        failure = None
        if isinstance(response.error, OverLimit):
            request.standing = response.error.standing
        response.error = None  # it refers to this frame, and would keep the request until the next collection
        return route.template if route else "none", response

    def _asked_first(self, request: Request, error: BaseException) -> Response | None:
        """The answer to a browser that asks what a page of another origin may send."""
        if request.method != "OPTIONS" or not isinstance(error, MethodNotAllowed):
            return None
        return self._cross_origin.preflight(request.headers, error.allowed)

    def _address(self, scope: Message, fields: Mapping[str, str]) -> str:
        peer = scope.get("client")
        return self._addresses.of(peer[0] if peer else "", fields.get("x-forwarded-for"))

    async def _websocket(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["path"] != STREAM_PATH or self._stream is None:
            await receive()
            await send({"type": "websocket.close", "code": 4404, "reason": "no such path"})
            return
        head = _head_of(scope)
        address = self._address(scope, head.fields)
        PEER.set(address)
        try:
            await self._admission.socket(address)
            if head.flaw is not None:
                await _turn_away(receive, send, BAD_HEAD, head.flaw.what)
                return
            await self._stream(head.fields, list(scope.get("subprotocols") or ()), receive, send)
        except asyncio.CancelledError:
            raise
        except OverLimit as error:
            if self._audit is not None:
                self._audit.turned_away(error)
            await _turn_away(receive, send, OVER_LIMIT, error.what)
        except Exception:
            _log.exception("a socket failed")


class Listener:
    """Serves an application on one address, in the running event loop. A connection that has not sent the
    head of its next request `head_read_s` after its last answer is closed.

    tls: the PEM files of certificate and key, read once; https and wss are served with them, nothing else.
    Raises StackError where they cannot be."""

    def __init__(
        self,
        application: Application,
        host: str,
        port: int,
        *,
        head_read_s: float = 10.0,
        connections: int = 16_384,
        tls: tuple[Path, Path] | None = None,
    ) -> None:
        if tls is not None:
            check_pair(*tls)
        certificate, private_key = tls or (None, None)
        self._granian = Granian(
            application,
            address=host,
            port=port,
            interface=Interfaces.ASGINL,
            http=HTTPModes.http1,
            backlog=1024,
            backpressure=connections,  # idle ones and sockets count, and the default is the backlog
            log_enabled=False,
            http1_settings=HTTP1Settings(
                header_read_timeout=int(head_read_s * 1000), max_buffer_size=64 * 1024
            ),
            ssl_cert=certificate,
            ssl_key=private_key,
            ssl_protocol_min=SSLProtocols.tls12,
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
    return Response(problem.status, _encode(problem), CONTENT_TYPE, problem_headers(error), error=error)


def bearer(headers: Mapping[str, str]) -> str | None:
    """The credential of a request: `Authorization: Bearer ...` or `X-API-Key: ...`."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and value:
        return value.strip()
    return headers.get("x-api-key")


def _traceparent(headers: Mapping[str, str]) -> str | None:
    given = headers.get("traceparent", "")
    return given if _TRACEPARENT.fullmatch(given) else None


def _body_of(
    headers: Mapping[str, str], receive: Receive, within_s: float
) -> Callable[[int], Awaitable[bytes]]:
    async def read(limit: int) -> bytes:
        length = headers.get("content-length", "0")
        if length.isdigit() and (len(length) > 15 or int(length) > limit):
            await _discard(receive)
            raise TooLarge(f"a body of {length[:20]} bytes", mend=f"send at most {limit} bytes")
        parts, size = [], 0
        try:
            async with asyncio.timeout(within_s):
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
            raise SlowBody(f"the body was not there within {within_s:g} s") from None

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


def _head_of(scope: Message) -> Head:
    target = len(scope.get("raw_path") or scope["path"]) + len(scope["query_string"])
    return head_of(scope["headers"], target_bytes=target, version=scope["http_version"])


async def _turn_away(receive: Receive, send: Send, code: int, reason: str) -> None:
    """Close a socket before it becomes one, so that its client sees why."""
    await receive()
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.close", "code": code, "reason": reason[:120]})


async def _answer(
    response: Response, request: Request, send: Send, *, take_s: float, tls: bool = False
) -> None:
    body = response.body
    named = {name for name, _ in response.headers}
    headers = [
        (b"content-type", response.content_type.encode()),
        (b"x-request-id", request.request_id.encode()),
        *_EVERY_ANSWER,
    ]
    headers += [(name.encode(), value) for name, value in _UNLESS_GIVEN.items() if name not in named]
    if tls:
        headers.append(_OVER_TLS)
    if response.parts is None:
        headers.append((b"content-length", str(len(body)).encode()))
    headers += [(name.encode(), value.encode("latin-1", "replace")) for name, value in response.headers]
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    if response.parts is not None:
        await _send_parts(response.parts, request, send, take_s)
        return
    await send({"type": "http.response.body", "body": b"" if request.method == "HEAD" else body})


async def _send_parts(
    parts: AsyncGenerator[bytes, None], request: Request, send: Send, take_s: float
) -> None:
    """Part by part until the last, until the client has left, or has taken nothing for `take_s`."""

    async def forward() -> None:
        async for part in parts:
            async with asyncio.timeout(take_s):
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
