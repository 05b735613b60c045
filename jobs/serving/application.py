"""The routes of direct serving, as Granian's RSGI calls them.

    POST /v2/models/{name}[/versions/{version}]/infer    Open Inference Protocol, JSON and binary tensors
    GET  /v2, /v2/health/live, /v2/health/ready, /v2/models/{name}[/versions/{version}][/ready]
    POST /api/v1/models/{name}/score                     {"records": [{...}]} -> {"scores": [...]}
    GET  /health, /ready, /metrics

A version is named by `versions/{version}` where it alone may answer. A canary gives each assignment unit one
version: `assignment_unit` and `tenant`, in the request or in its parameters, name it.

No key is asked for and there are no tenants: it is for callers inside, on loopback unless told otherwise. A
gateway that forwards says by `X-Millstream-Tenant` whose request it is, whatever the request says.
"""

import asyncio
import time
from typing import Any

import msgspec

from core.errors import InvalidInput, MillstreamError, ModelError, UnknownName
from core.settings import Serving as Settings
from core.telemetry.log import logger
from core.telemetry.metrics import LATENCY_MS, counter, exposition, histogram
from core.telemetry.probe import Probe
from jobs.serving import binary, tensors
from jobs.serving.answers import JSON, Headers, encode, error_answer
from jobs.serving.exchange import Exchange, Scope, body_of
from jobs.serving.models import Asked, Door, Models, Served
from operators.ports import Matrix

PREVIOUS = "previous_version"
TENANT = "x-millstream-tenant"
_TEXT: Headers = [("content-type", "text/plain; version=0.0.4; charset=utf-8")]
_LOG = logger("serving")
_REQUESTS = counter("serving_requests_total", "Requests, by route and status", ("route", "status"))
_TOOK = histogram("serving_request_ms", "From the body's end to the answer", ("route",), LATENCY_MS)


class ScoreRequest(msgspec.Struct, frozen=True):
    """`records` is decoded by the model's own reader. `tenant` and `assignment_unit` say whose they are."""

    records: msgspec.Raw
    schema_fingerprint: str | None = None
    tenant: str = ""
    assignment_unit: str | None = None


class ScoreError(msgspec.Struct, frozen=True):
    pointer: str
    reason: str


class ScoreResponse(msgspec.Struct, frozen=True):
    """`scores` has null where a row failed; `errors` says why. `degraded`: the version before the one in
    service answers, and why."""

    model: str
    version: str
    arm: str
    scores: list[float | None]
    errors: list[ScoreError]
    degraded: bool = False
    level: str = "live"
    degraded_reason: str | None = None


_score_request = msgspec.json.Decoder(ScoreRequest).decode
Answer = tuple[int, Headers, bytes]


class Application:
    """The RSGI callable."""

    def __init__(self, models: Models, settings: Settings, probe: Probe) -> None:
        self._models = models
        self._settings = settings
        self._probe = probe
        self._counted: dict[tuple[str, int], Any] = {}
        self._took = {route: _TOOK.labels(route) for route in ("infer", "score", "other")}

    async def __rsgi__(self, scope: Scope, exchange: Exchange) -> None:
        """Answer one request."""
        route = "other"
        begun = time.monotonic()
        try:
            if scope.proto != "http":
                raise InvalidInput("this address speaks HTTP alone")
            parts = scope.path.split("/")
            if scope.method == "POST":
                route = parts[-1] if parts[-1] in ("infer", "score") else "other"
                answer = await self._post(
                    parts, scope.headers, await body_of(scope, exchange, self._settings.max_body_bytes)
                )
            else:
                answer = self._get(scope.method, parts)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            if not isinstance(error, MillstreamError) or isinstance(error, ModelError):
                _LOG.exception("a request failed", path=scope.path[:200])
            answer = error_answer(error, scope.path)
        self._took[route].observe((time.monotonic() - begun) * 1e3)
        self._count(route, answer[0])
        exchange.response_bytes(*answer)

    async def _post(self, parts: list[str], headers: Any, body: bytes) -> Answer:
        match parts:
            case ["", "v2", "models", name, "infer"]:
                return await self._infer(self._models.find(name), headers, body)
            case ["", "v2", "models", name, "versions", version, "infer"]:
                return await self._infer(self._models.find(name), headers, body, version)
            case ["", "api", "v1", "models", name, "score"]:
                return await self._score(self._models.find(name), body)
        raise UnknownName("path", "/".join(parts)[:200], ["/v2/models/NAME/infer"])

    async def _infer(self, served: Served, headers: Any, body: bytes, version: str | None = None) -> Answer:
        inference = tensors.parse(body, headers.get(binary.HEADER))
        tenant, unit = tensors.unit_of(inference.request, headers.get(TENANT))

        def read(door: Door) -> Matrix:
            return tensors.matrix_of(inference, door.model.signature)

        answered = await served.answer(Asked(read, tenant, unit, version))
        scored, route = answered.scored, answered.route
        if scored.failed:
            raise scored.failed[0].error
        name = answered.door.model.signature.output.name
        output, data = tensors.output_of(inference, name, scored.outputs)
        parameters = None
        if route.fallback is not None:
            parameters = {"degraded": True, "level": PREVIOUS, "degraded_reason": route.fallback}
        request_id = inference.request.id
        text = encode(tensors.InferResponse(scored.model, scored.version, [output], request_id, parameters))
        if not data:
            return 200, JSON, text
        return 200, [("content-type", binary.CONTENT_TYPE), (binary.HEADER, str(len(text)))], text + data

    async def _score(self, served: Served, body: bytes) -> Answer:
        request: ScoreRequest = tensors.decoded(_score_request, body, "no request for scores")

        def read(door: Door) -> Matrix:
            if request.schema_fingerprint is not None:
                given = {tensors.FINGERPRINT: request.schema_fingerprint}
                tensors.check_fingerprint(given, door.model.signature)
            return door.rows.read(request.records, pointer="/records")

        answered = await served.answer(Asked(read, request.tenant, request.assignment_unit))
        scored, route = answered.scored, answered.route
        scores: list[float | None] = scored.outputs.tolist()
        for bad in scored.failed:
            scores[bad.row] = None
        if scored.failed and len(scored.failed) == len(scores):
            raise scored.failed[0].error
        errors = [ScoreError(f"/records/{bad.row}", bad.error.what) for bad in scored.failed]
        response = ScoreResponse(scored.model, scored.version, route.arm, scores, errors)
        if route.fallback is not None:
            response = msgspec.structs.replace(
                response, degraded=True, level=PREVIOUS, degraded_reason=route.fallback
            )
        return 200, JSON, encode(response)

    def _get(self, method: str, parts: list[str]) -> Answer:
        if method not in ("GET", "HEAD"):
            raise InvalidInput(f"method {method[:16]!r} is not known here")
        match parts:
            case ["", "health"] | ["", "v2", "health", "live"]:
                good, body = self._probe.health()
                return 200 if good else 503, JSON, encode(body)
            case ["", "ready"] | ["", "v2", "health", "ready"]:
                good, body = self._probe.readiness()
                return 200 if good else 503, JSON, encode(body)
            case ["", "metrics"]:
                return 200, _TEXT, exposition()
            case ["", "v2"]:
                about = {"name": "millstream", "version": "2", "extensions": [binary.EXTENSION]}
                return 200, JSON, encode(about)
            case ["", "v2", "models", name]:
                return self._metadata(self._models.find(name))
            case ["", "v2", "models", name, "versions", version]:
                return self._metadata(self._models.find(name), version)
            case ["", "v2", "models", name, "ready"]:
                return _is_ready(self._models.find(name).door)
            case ["", "v2", "models", name, "versions", version, "ready"]:
                return _is_ready(self._models.find(name).door_of(version))
        raise UnknownName("path", "/".join(parts)[:200], ["/health", "/ready", "/metrics", "/v2"])

    def _metadata(self, served: Served, version: str | None = None) -> Answer:
        door = served.door if version is None else served.door_of(version)
        versions = [route.version for route in served.serving.current.routes]
        described = tensors.metadata(served.name, versions, door.model.signature)
        return 200, JSON, encode(described)

    def _count(self, route: str, status: int) -> None:
        key = (route, status)
        if key not in self._counted:
            self._counted[key] = _REQUESTS.labels(route, str(status))
        self._counted[key].inc()


def _is_ready(door: Door) -> Answer:
    return 200, JSON, encode({"name": door.model.name, "version": door.model.version, "ready": True})
