"""The Open Inference Protocol, version 2, at `/v2`: direct serving behind keys, limits and a breaker.

The gateway loads no model. What it takes it hands on as it is, tensors as bytes among it, to the process that
`apply --direct` starts, and says whose request it is. Errors have the protocol's own shape,
`{"error": "..."}`, on every path below `/v2`.
"""

import asyncio
import re

import msgspec

from core.errors import Malformed, UnknownName
from core.settings import Serving
from core.structs import ready
from gateway import principals, strict_json
from gateway.caller import http_headers
from gateway.exchange import Request, Response, json_response
from gateway.forwarding.upstream import Forwarded, Upstream
from gateway.problems import UnsupportedMediaType, problem_headers, problem_of
from gateway.routing import Route

JSON_BYTES = "inference-header-content-length"
_NAME = re.compile(r"(?!\.+$)[A-Za-z0-9._:-]{1,128}", re.ASCII)
_DIGITS = 12
_LARGE = 256 * 1024
"""JSON above it is checked in a thread: a megabyte takes 10 ms."""


class InferenceEndpoint:
    """The routes of `/v2`."""

    def __init__(self, settings: Serving, upstream: Upstream) -> None:
        self._settings = settings
        self._upstream = upstream

    def routes(self) -> tuple[Route, ...]:
        model = "/v2/models/{model}"
        version = model + "/versions/{version}"
        ask, refused = principals.ASK, error_response
        return (
            Route("GET", "/v2/health/live", principals.PROBE, self.live, refusal=refused),
            Route("GET", "/v2/health/ready", principals.PROBE, self.ready, refusal=refused),
            *(
                Route("GET", path, ask, self.get, refusal=refused)
                for path in ("/v2", model, f"{model}/ready", version, f"{version}/ready")
            ),
            *(
                Route("POST", f"{path}/infer", ask, self.infer, guarded=True, refusal=refused, plane="data")
                for path in (model, version)
            ),
        )

    async def live(self, request: Request) -> Response:
        """The gateway lives."""
        del request
        return json_response(200, {"live": True})

    async def ready(self, request: Request) -> Response:
        """Whether models can be asked."""
        del request
        good = await self._upstream.ready()
        return json_response(200 if good else 503, {"ready": good})

    async def get(self, request: Request) -> Response:
        """What there is: the server, a model, a version, whether it is ready. Raises as `Upstream`."""
        return _handed_on(await self._upstream.send("GET", _path_of(request)))

    async def infer(self, request: Request) -> Response:
        """Raises UnsupportedMediaType, TooLarge, Malformed, and as `Upstream`."""
        coding = request.headers.get("content-encoding", "identity").lower()
        if coding != "identity":
            raise UnsupportedMediaType(f"content encoding {coding[:40]!r}", mend="send it not compressed")
        path = _path_of(request)
        body = await request.body(self._settings.max_body_bytes)
        given = request.headers.get(JSON_BYTES)
        text = body if given is None else body[: _length(given, len(body))]
        if len(text) > _LARGE:
            await asyncio.to_thread(_check, text)
        else:
            _check(text)
        headers = http_headers(request) | {"content-type": "application/octet-stream"}
        if given is not None:
            headers[JSON_BYTES] = given
        if request.traceparent is not None:
            headers["traceparent"] = request.traceparent
        return _handed_on(await self._upstream.send("POST", path, body, headers))


def error_response(error: BaseException, request_id: str) -> Response:
    """An error in the protocol's shape."""
    problem = problem_of(error, request_id)
    text = "; ".join([problem.detail, *(f"{one.pointer} {one.reason}" for one in problem.errors)])
    answer = json_response(problem.status, {"error": text}, problem_headers(error))
    answer.error = error
    return answer


def _path_of(request: Request) -> str:
    """The path to hand on; only names are in it. Raises UnknownName."""
    for kind, value in request.parameters.items():
        if not _NAME.fullmatch(value):
            raise UnknownName(kind if kind == "model" else "model version", value[:64], ())
    return request.path


def _length(given: str, there: int) -> int:
    if not (given.isascii() and given.isdigit()) or len(given) > _DIGITS or int(given) > there:
        raise Malformed(
            f"the JSON of the request cannot have {given[:20]!r} of {there} bytes",
            mend="Inference-Header-Content-Length is the number of bytes before the first tensor",
        )
    return int(given)


def _check(text: bytes) -> None:
    if not strict_json.is_plainly_strict(text):
        strict_json.check(text)


def _handed_on(answer: Forwarded) -> Response:
    own = answer.headers.get(JSON_BYTES)
    headers = [] if own is None else [("inference-header-content-length", own)]
    if answer.status != 200:
        return json_response(answer.status, {"error": _text_of(answer.body)})
    kind = "application/json" if own is None else "application/octet-stream"
    return Response(answer.status, answer.body, kind, headers)


@ready
class _Error(msgspec.Struct):
    error: str


def _text_of(body: bytes) -> str:
    try:
        return msgspec.json.decode(body, type=_Error).error
    except msgspec.MsgspecError:
        return "the model server refuses this"
