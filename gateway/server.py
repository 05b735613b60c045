"""What the gateway does with every request, between its bytes (`gateway.wire`) and its handler.

Every request gets an id (a sane `X-Request-ID` is kept), passes the door (`gateway.admission`) and is
handled; whatever is raised becomes a problem document.
"""

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping
from functools import cache

import msgspec

from core.errors import MillstreamError
from core.ids import new_id
from core.settings import Limits
from core.telemetry.log import logger
from core.telemetry.metrics import counter, gauge, histogram
from gateway.addresses import PEER, ClientAddress
from gateway.admission import Admission, Visit
from gateway.audit.watch import Watch
from gateway.cross_origin import CrossOrigin
from gateway.exchange import Request, Response
from gateway.head import head_of
from gateway.limits import OverLimit
from gateway.problems import (
    CONTENT_TYPE,
    MethodNotAllowed,
    NotFound,
    problem_headers,
    problem_of,
)
from gateway.routing import Route
from gateway.wire.call import Call
from gateway.wire.websocket import WebSocket

SocketHandler = Callable[[dict[str, str], WebSocket], Awaitable[None]]
"""Is given the fields of the handshake's head, too."""
STREAM_PATH = "/api/v1/stream"
BAD_HEAD, OVER_LIMIT = 4400, 4429

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}", re.ASCII)
_UNSPEAKABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", re.ASCII)
_EVERY_ANSWER = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "server": "millstream",
}
_UNLESS_GIVEN = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
}
_OVER_TLS = {"strict-transport-security": "max-age=31536000"}
_log = logger("gateway.server")
_encode = msgspec.json.Encoder().encode
_REQUESTS = counter("gateway_requests_total", "Requests, by route template and status", ["route", "status"])
_OPEN = gauge("gateway_requests_open", "Requests that are being handled")
_TOOK = histogram("gateway_request_ms", "From the head to the answer, or to its first part", ["route"])
_PROBLEMS = counter("gateway_problems_total", "Requests that ended with a problem, by its code", ["code"])


class Application:
    """What the gateway does with a request or a socket (`gateway.wire.connection.Handler`). `stream` handles
    the one WebSocket path; pages of `origins` may call; `audit` is told of everything."""

    def __init__(
        self,
        admission: Admission,
        stream: SocketHandler | None = None,
        *,
        settings: Limits | None = None,
        origins: Collection[str] = (),
        audit: Watch | None = None,
    ) -> None:
        given = settings or Limits()
        self._admission = admission
        self._at_once = {(route.method, route.template) for route in admission.routes if route.at_once}
        self._cross_origin = CrossOrigin(origins) if origins else None
        self._addresses = ClientAddress(given.trusted_proxies)
        self.body_read_s = given.body_read_s
        self.answer_take_s = given.answer_take_s
        self._stream = stream
        self._audit = audit
        self.draining = False
        self._open = 0
        self._idle = asyncio.Event()
        self._idle.set()
        _OPEN.set_function(lambda: self._open)

    async def drained(self, timeout_s: float) -> bool:
        """Wait until no request is open, at most `timeout_s`; whether that was so."""
        try:
            await asyncio.wait_for(self._idle.wait(), timeout_s)
        except TimeoutError:
            return False
        return True

    def at_once(self, call: Call) -> bool:
        """Whether `http` waits for nothing."""
        return (call.method, call.path) in self._at_once

    async def http(self, call: Call) -> None:
        """Answer a request."""
        head = head_of(call.fields, target_bytes=call.target_bytes, version=call.version)
        fields = head.fields
        if head.flaw is not None:
            call.keep = False  # nothing behind a head like that is read
        given = fields.get("x-request-id")
        request = Request(
            method=call.method,
            path=call.path,
            headers=fields,
            body=call.body,
            request_id=given if given is not None and _REQUEST_ID.fullmatch(given) else new_id(),
            query=call.query,
            traceparent=_traceparent(fields),
            gone=call.gone,
            address=self._addresses.of(call.peer, fields.get("x-forwarded-for")),
        )
        self._open += 1
        self._idle.clear()
        began = time.perf_counter()
        try:
            template, response = await self._respond(request, head.flaw)
            if self.draining:
                call.keep = False
            if request.standing is not None:
                response.headers += request.standing.headers()
            if self._cross_origin is not None:
                response.headers += self._cross_origin.headers(fields.get("origin"))
            _REQUESTS.labels(template, str(response.status)).inc()
            _TOOK.labels(template).observe((time.perf_counter() - began) * 1000)
            await _answer(response, request, call, take_s=self.answer_take_s)
        finally:
            self._open -= 1
            if not self._open:
                self._idle.set()

    async def _respond(self, request: Request, flaw: MillstreamError | None) -> tuple[str, Response]:
        """The template of the route, for the metrics, and the answer."""
        route: Route | None = None
        visit: Visit | None = None
        response: Response | None = None
        failure: BaseException | None = None
        try:
            if not request.path.isprintable() and _UNSPEAKABLE.search(request.path):
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
        if (
            self._cross_origin is None
            or request.method != "OPTIONS"
            or not isinstance(error, MethodNotAllowed)
        ):
            return None
        return self._cross_origin.preflight(request.headers, error.allowed)

    async def socket(self, socket: WebSocket) -> None:
        """From the upgrade of a WebSocket to its end."""
        call = socket.call
        if call.path != STREAM_PATH or self._stream is None:
            socket.close(4404, "no such path")
            return
        head = head_of(call.fields, target_bytes=call.target_bytes, version=call.version)
        address = self._addresses.of(call.peer, head.fields.get("x-forwarded-for"))
        PEER.set(address)
        try:
            await self._admission.socket(address)
            if head.flaw is not None:
                _turn_away(socket, BAD_HEAD, head.flaw.what)
                return
            await self._stream(head.fields, socket)
        except OverLimit as error:
            if self._audit is not None:
                self._audit.turned_away(error)
            _turn_away(socket, OVER_LIMIT, error.what)

    def unreadable(self, call: Call, error: MillstreamError) -> None:
        """Answer what is no request."""
        request_id = new_id()
        response = problem_response(error, request_id)
        _REQUESTS.labels("none", str(response.status)).inc()
        _PROBLEMS.labels(error.code).inc()
        call.answer(response.status, _head_of(response, request_id, secure=call.secure), response.body)


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
    given = headers.get("traceparent")
    return given if given is not None and _TRACEPARENT.fullmatch(given) else None


def _turn_away(socket: WebSocket, code: int, reason: str) -> None:
    """Close a socket before it is used, so that its client sees why."""
    socket.accept()
    socket.close(code, reason[:120])


def _head_of(response: Response, request_id: str, *, secure: bool) -> bytes:
    """The lines of the answer's head."""
    given: tuple[str, ...] = ()
    lines = f"content-type: {response.content_type}\r\nx-request-id: {request_id}\r\n"
    for name, value in response.headers:
        if not value.isprintable():
            value = _UNSPEAKABLE.sub(" ", value)
        lines += f"{name}: {value}\r\n"
        if name in _UNLESS_GIVEN:
            given = (*given, name)
    return _usual_head(given, secure) + lines.encode("latin-1", "replace")


@cache
def _usual_head(given: tuple[str, ...], secure: bool) -> bytes:
    """What every answer has, but for what it has `given` itself."""
    usual = _EVERY_ANSWER | {name: value for name, value in _UNLESS_GIVEN.items() if name not in given}
    return "".join(
        f"{name}: {value}\r\n" for name, value in (usual | (_OVER_TLS if secure else {})).items()
    ).encode()


async def _answer(response: Response, request: Request, call: Call, *, take_s: float) -> None:
    head = _head_of(response, request.request_id, secure=call.secure)
    if response.parts is None:
        call.answer(response.status, head, response.body)
        return
    call.begin(response.status, head)
    await _send_parts(response.parts, request, call, take_s)


async def _send_parts(
    parts: AsyncGenerator[bytes, None], request: Request, call: Call, take_s: float
) -> None:
    """Part by part until the last, until the client has left, or has taken nothing for `take_s`."""

    async def forward() -> None:
        async for part in parts:
            async with asyncio.timeout(take_s):
                await call.part(part)
        call.end()

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
