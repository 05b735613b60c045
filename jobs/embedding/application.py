"""The routes of the process that makes vectors, as Granian's RSGI calls them.

    POST /v1/embeddings    as OpenAI's clients ask for it, errors in its shape
    GET  /v1/models, /health, /ready, /metrics

No key is asked for: it is for gateways, on loopback.
"""

import asyncio
import base64
import math
import time
from typing import Any

import msgspec

from core.errors import InvalidInput, MillstreamError, Rejected, Unavailable, UnknownName
from core.serving_settings import Embeddings
from core.telemetry.log import logger
from core.telemetry.metrics import LATENCY_MS, counter, exposition, histogram
from core.telemetry.probe import Probe
from jobs.embedding.queue import EmbeddingQueue
from jobs.serving.answers import JSON, Headers, encode, status_of
from jobs.serving.exchange import Exchange, Scope, body_of
from models.embedding.encoder import Vectors
from operators.embed_request import Bounds, parse

_TEXT: Headers = [("content-type", "text/plain; version=0.0.4; charset=utf-8")]
_LOG = logger("embedding")
_REQUESTS = counter("embedding_requests_total", "Requests for vectors, by status", ("status",))
_TOKENS = counter("embedding_tokens_total", "Tokens of the texts that have their vectors")
_TOOK = histogram("embedding_request_ms", "From the body's end to the answer", (), LATENCY_MS)
Answer = tuple[int, Headers, bytes]


class Vector(msgspec.Struct, frozen=True):
    """`embedding`: numbers, or little-endian float32 in base64."""

    index: int
    embedding: list[float] | str
    object: str = "embedding"


class Application:
    """The RSGI callable."""

    def __init__(self, queue: EmbeddingQueue, settings: Embeddings, probe: Probe) -> None:
        self._queue = queue
        self._settings = settings
        self._bounds = Bounds(settings.inputs, settings.input_tokens)
        self._probe = probe

    async def __rsgi__(self, scope: Scope, exchange: Exchange) -> None:
        """Answer one request."""
        try:
            if scope.proto != "http":
                raise InvalidInput("this address speaks HTTP alone")
            if (scope.method, scope.path) == ("POST", "/v1/embeddings"):
                body = await body_of(scope, exchange, self._settings.max_body_bytes)
                begun = time.monotonic()
                answer = await self._embed(body)
                _TOOK.observe((time.monotonic() - begun) * 1e3)
            else:
                answer = self._get(scope.method, scope.path)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            if not isinstance(error, MillstreamError):
                _LOG.exception("a request failed", path=scope.path[:200])
            answer = _refused(error)
        if scope.method == "POST":
            _REQUESTS.labels(str(answer[0])).inc()
        exchange.response_bytes(*answer)

    async def _embed(self, body: bytes) -> Answer:
        asked = parse(body, self._bounds)
        if asked.model not in (None, self._settings.model):
            raise UnknownName("model", str(asked.model)[:64], [self._settings.model])
        vectors, tokens = await self._queue.ask(asked)
        _TOKENS.inc(tokens)
        answer = {
            "object": "list",
            "data": [Vector(at, one) for at, one in enumerate(_written(vectors, as_base64=asked.base64))],
            "model": self._settings.model,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }
        return 200, JSON, encode(answer)

    def _get(self, method: str, path: str) -> Answer:
        if method not in ("GET", "HEAD"):
            raise InvalidInput(f"method {method[:16]!r} is not known here")
        if path == "/health":
            good, body = self._probe.health()
            return 200 if good else 503, JSON, encode(body)
        if path == "/ready":
            good, body = self._probe.readiness()
            return 200 if good else 503, JSON, encode(body)
        if path == "/metrics":
            return 200, _TEXT, exposition()
        if path == "/v1/models":
            row = {"id": self._settings.model, "object": "model", "created": 0, "owned_by": "millstream"}
            return 200, JSON, encode({"object": "list", "data": [row]})
        raise UnknownName("path", path[:200], ["/v1/embeddings", "/health", "/ready", "/metrics"])


def _written(vectors: Vectors, *, as_base64: bool) -> list[Any]:
    if not as_base64:
        rows: list[Any] = vectors.tolist()
        return rows
    return [base64.b64encode(row.astype("<f4", copy=False).tobytes()).decode() for row in vectors]


def _refused(error: BaseException) -> Answer:
    """In OpenAI's shape. What is not in our tree keeps its text to itself."""
    known = isinstance(error, MillstreamError)
    status = status_of(error)
    message = error.what if isinstance(error, MillstreamError) else "something went wrong here; see the log"
    fields = error.fields if isinstance(error, Rejected) else {}
    body = {
        "message": "; ".join([message, *(f"{pointer} {reason}" for pointer, reason in fields.items())]),
        "type": "invalid_request_error" if status < 500 else "server_error",
        "param": next(iter(fields), "").strip("/").replace("/", ".") or None,
        "code": error.code if known and isinstance(error, MillstreamError) else "internal_error",
    }
    headers = list(JSON)
    if isinstance(error, Unavailable):
        headers.append(("retry-after", str(max(1, math.ceil(error.retry_after_s)))))
    return status, headers, encode({"error": body})
