"""Errors on the wire: the one place where our error tree becomes RFC 9457 problem documents.

    {"type": "urn:millstream:problem:invalid_record", "title": "Unprocessable Content", "status": 422,
     "detail": "2 fields are wrong", "code": "invalid_record", "request_id": "...", "retryable": false,
     "mend": "...", "errors": [{"pointer": "/amount_cents", "reason": "missing"}]}

`code` is stable and is what a client switches on; `retryable` says whether the same request can succeed
later without a change. What is not in our tree is a bug: it is logged with the request id, and the
document says nothing of it.
"""

import math
from http import HTTPStatus

import msgspec

from core.errors import (
    Conflict,
    DeadlineExceeded,
    Denied,
    InvalidInput,
    Malformed,
    MillstreamError,
    RateLimited,
    Rejected,
    TooLarge,
    Unavailable,
    UnknownName,
)

CONTENT_TYPE = "application/problem+json"


class FieldProblem(msgspec.Struct, frozen=True):
    """One offending place: a JSON pointer (RFC 6901, "" is the whole event) and what is wrong there."""

    pointer: str
    reason: str


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A problem document (RFC 9457). `retry_after_s` also goes out as the header `Retry-After`."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    retryable: bool = msgspec.field()
    mend: str | None = None
    errors: list[FieldProblem] = []
    retry_after_s: int | None = None


class UnsupportedMediaType(InvalidInput):
    """The body is of a type, or in an encoding, that the route does not take."""

    default_code = "unsupported_media_type"


class MethodNotAllowed(InvalidInput):
    """The path exists, the method does not. `allowed` goes out as the header `Allow`."""

    default_code = "method_not_allowed"

    def __init__(self, what: str, *, allowed: tuple[str, ...]) -> None:
        super().__init__(what, mend=f"allowed: {', '.join(allowed)}")
        self.allowed = allowed


class NotFound(InvalidInput):
    """Nothing there; what belongs to another tenant looks the same."""

    default_code = "not_found"


class InvalidBody(Rejected):
    """A body that breaks its shape, on a route whose contract answers 400 to that instead of 422."""

    @classmethod
    def of(cls, error: Rejected) -> "InvalidBody":
        return cls(error.what, fields=error.fields, where=error.where, mend=error.mend, code=error.code)


class LengthRequired(InvalidInput):
    """A body that does not say how long it is."""

    default_code = "length_required"


class TargetTooLong(InvalidInput):
    """The path and query are longer than any of ours."""

    default_code = "target_too_long"


class HeadTooLarge(InvalidInput):
    """The fields of the request's head are too large together."""

    default_code = "head_too_large"


class SlowBody(InvalidInput):
    """The body was not there in time."""

    default_code = "slow_body"
    retryable = True


class Forbidden(Denied):
    """The credential is good, its scopes do not reach here."""

    default_code = "forbidden"


# The first class in the list that fits decides.
_STATUS: tuple[tuple[type[MillstreamError], int], ...] = (
    (Malformed, 400),
    (InvalidBody, 400),
    (Rejected, 422),
    (SlowBody, 408),
    (LengthRequired, 411),
    (TooLarge, 413),
    (TargetTooLong, 414),
    (HeadTooLarge, 431),
    (UnsupportedMediaType, 415),
    (MethodNotAllowed, 405),
    (NotFound, 404),
    (UnknownName, 404),
    (Conflict, 409),
    (InvalidInput, 400),
    (Forbidden, 403),
    (Denied, 401),
    (RateLimited, 429),
    (DeadlineExceeded, 504),
    (Unavailable, 503),
)


def status_of(error: BaseException) -> int:
    """The HTTP status of an error; 500 for what is not in our tree."""
    for kind, status in _STATUS:
        if isinstance(error, kind):
            return status
    return 500


def problem_of(error: BaseException, request_id: str) -> Problem:
    """The document that tells a client of `error`. Internal errors keep their text to themselves."""
    status = status_of(error)
    if status == 500 or not isinstance(error, MillstreamError):
        return Problem(
            type="urn:millstream:problem:internal_error",
            title=HTTPStatus(500).phrase,
            status=500,
            detail="something went wrong here; the request id leads to it in the log",
            code="internal_error",
            request_id=request_id,
            retryable=False,
        )
    inner = error.where is None or isinstance(error, Unavailable)  # where it is away, is no caller's to know
    detail = error.what if inner else f"{error.what} ({error.where})"
    fields = error.fields if isinstance(error, Rejected) else {}
    return Problem(
        type=f"urn:millstream:problem:{error.code}",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        code=error.code,
        request_id=request_id,
        retryable=error.retryable,
        mend=error.mend,
        errors=[FieldProblem(pointer, reason) for pointer, reason in fields.items()],
        retry_after_s=math.ceil(error.retry_after_s) if isinstance(error, Unavailable) else None,
    )


def problem_headers(error: BaseException) -> list[tuple[str, str]]:
    """The headers that a problem brings along: Retry-After, Allow, WWW-Authenticate."""
    if isinstance(error, Unavailable):
        return [("retry-after", str(max(1, math.ceil(error.retry_after_s))))]
    if isinstance(error, MethodNotAllowed):
        return [("allow", ", ".join(error.allowed))]
    if isinstance(error, Denied) and not isinstance(error, Forbidden):
        return [("www-authenticate", 'Bearer realm="millstream"')]
    return []
