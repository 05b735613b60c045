"""The headers that requests may have and answers do have, each described once."""

from collections.abc import Mapping
from typing import Any

from gateway.documents.schemas import STRING, Schema
from gateway.intake import ID_SHAPE

_COUNT: Schema = {"type": "integer", "minimum": 0}

REQUEST: Mapping[str, tuple[str, Schema]] = {
    "Idempotency-Key": (
        "Names the request, so that a repeat of it, on any gateway, is known as one and gets the same "
        "answer; with other content it is refused with 409.",
        {"type": "string", "pattern": f"^{ID_SHAPE.pattern}$"},
    ),
    "Prefer": (
        "RFC 7240. `wait=N`: wait up to N seconds for the answer. `respond-async`: do not wait; 202 with the "
        "`Location` of the answer. Both: wait, then answer 202.",
        {"type": "string", "examples": ["wait=10", "respond-async", "respond-async, wait=2"]},
    ),
    "Cache-Control": (
        "RFC 9111, section 5.2.1, where answers are given again: `no-cache`, `no-store`, `max-age`, "
        "`min-fresh`, `only-if-cached`.",
        {"type": "string", "examples": ["no-cache", "max-age=5"]},
    ),
    "Last-Event-ID": ("Where a stream of events goes on: the `id` of the last one that was seen.", STRING),
    "X-Request-ID": (
        "Kept where it has 1 to 128 letters, digits or any of . _ : -; else one is made.",
        {"type": "string"},
    ),
    "traceparent": (
        "W3C Trace Context. What happens of the request goes on under this trace, on Kafka too.",
        {"type": "string", "examples": ["00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"]},
    ),
    "X-MLflow-Signature": ("`v1,` and the base64 of an HMAC-SHA256 of delivery, timestamp and body.", STRING),
    "X-MLflow-Timestamp": ("Seconds since 1970, at most five minutes from now.", STRING),
    "X-MLflow-Delivery-Id": ("Names the delivery; each is taken once.", STRING),
}

RESPONSE: Mapping[str, tuple[str, Schema]] = {
    "X-Request-ID": ("The id of the request, in the log too.", STRING),
    "RateLimit-Policy": (
        "draft-ietf-httpapi-ratelimit-headers: the limit that is nearest to its end.",
        {"type": "string", "examples": ['"key";q=200;w=2']},
    ),
    "RateLimit": (
        "What is left of it, and in how many seconds it is full again.",
        {"type": "string", "examples": ['"key";r=57;t=2']},
    ),
    "Retry-After": ("Seconds after which the same request may be sent again.", _COUNT),
    "Location": ("Where what was accepted can be read.", {"type": "string", "format": "uri-reference"}),
    "Idempotent-Replayed": (
        "The same request was answered before; this is that answer.", {"type": "string", "const": "true"}
    ),
    "Preference-Applied": ("What of `Prefer` was heeded (RFC 7240).", STRING),
    "Cache-Status": ("Which caches had a part in the answer (RFC 9211).", STRING),
    "Cache-Control": ("For how long the answer may be kept; `no-store` where nothing is said here.", STRING),
    "Age": ("Seconds since the answer was made.", _COUNT),
    "Server-Timing": ("What the stages took, in milliseconds.", STRING),
    "WWW-Authenticate": ("How to authenticate.", STRING),
    "Content-Security-Policy": ("The page runs no script and loads nothing.", STRING),
}  # fmt: skip

_ALWAYS = frozenset({"X-Request-ID"})


def component(name: str) -> str:
    """The name of a header among the components."""
    return name.replace("-", "")


def response_headers() -> dict[str, Any]:
    """The components of OpenAPI."""
    return {
        component(name): {"description": text, "schema": schema, "required": name in _ALWAYS}
        for name, (text, schema) in RESPONSE.items()
    }


def request_headers() -> dict[str, Any]:
    """The components of OpenAPI, as parameters."""
    return {
        component(name): {"name": name, "in": "header", "description": text, "schema": schema}
        for name, (text, schema) in REQUEST.items()
    }
