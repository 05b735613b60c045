"""What goes out: scores, and errors in the two shapes that clients expect.

On `/v2` an error is `{"error": "..."}`, as the Open Inference Protocol has it; elsewhere it is a problem
document (RFC 9457), as the gateway gives them.
"""

import math
from http import HTTPStatus
from typing import Any

import msgspec

from core.errors import (
    DeadlineExceeded,
    InvalidInput,
    Malformed,
    MillstreamError,
    ModelFailed,
    Rejected,
    TooLarge,
    Unavailable,
    UnknownName,
)

Headers = list[tuple[str, str]]
JSON: Headers = [("content-type", "application/json")]
_PROBLEM: Headers = [("content-type", "application/problem+json")]
_STATUS: tuple[tuple[type[MillstreamError], int], ...] = (
    (Malformed, 400), (Rejected, 422), (TooLarge, 413), (UnknownName, 404), (InvalidInput, 400),
    (DeadlineExceeded, 504), (Unavailable, 503), (ModelFailed, 500),
)  # fmt: skip
encode = msgspec.json.Encoder().encode


def status_of(error: BaseException) -> int:
    """The first kind that fits; 500 for what is not in our tree."""
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


def error_answer(error: BaseException, path: str) -> tuple[int, Headers, bytes]:
    """Status, headers and body of an error on `path`. What is not in our tree keeps its text to itself."""
    status = status_of(error)
    known = isinstance(error, MillstreamError)
    what = error.what if isinstance(error, MillstreamError) else "something went wrong here; see the log"
    headers = list(JSON if path.startswith("/v2") else _PROBLEM)
    if isinstance(error, Unavailable):
        headers.append(("retry-after", str(max(1, math.ceil(error.retry_after_s)))))
    if path.startswith("/v2"):
        return status, headers, encode({"error": what})
    code = error.code if isinstance(error, MillstreamError) else "internal_error"
    body: dict[str, Any] = {
        "type": f"urn:millstream:problem:{code}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": what,
        "code": code,
        "retryable": known and isinstance(error, MillstreamError) and error.retryable,
    }
    if isinstance(error, Rejected):
        body["errors"] = [{"pointer": at, "reason": reason} for at, reason in error.fields.items()]
    return status, headers, encode(body)
