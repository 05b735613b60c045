"""Errors across Kafka: what a worker raised is raised again in the gateway, as the same kind."""

from functools import lru_cache

from core.errors import InternalError, MillstreamError, Rejected, Unavailable
from schemas.catalog.asking import Failure

_MOST_FIELDS = 200


def failure_of(error: BaseException) -> Failure:
    """What travels. Of an error that is none of ours nothing does: it is a bug, and stays in the log."""
    if not isinstance(error, MillstreamError):
        return Failure([InternalError.__name__], "something went wrong", InternalError.default_code)
    fields = error.fields if isinstance(error, Rejected) else {}
    return Failure(
        kinds=[kind.__name__ for kind in type(error).__mro__ if issubclass(kind, MillstreamError)],
        what=error.what,
        code=error.code,
        where=error.where,
        mend=error.mend,
        fields=dict(list(fields.items())[:_MOST_FIELDS]),
        retry_after_s=error.retry_after_s if isinstance(error, Unavailable) else 1.0,
    )


def error_of(failure: Failure) -> MillstreamError:
    """The error again, as the nearest kind that is known here."""
    known = _kinds()
    kind = next((known[name] for name in failure.kinds if name in known), InternalError)
    error = kind.__new__(kind)
    MillstreamError.__init__(error, failure.what, where=failure.where, mend=failure.mend, code=failure.code)
    if isinstance(error, Rejected):
        error.fields = dict(failure.fields)
    if isinstance(error, Unavailable):
        error.retry_after_s = failure.retry_after_s
    return error


@lru_cache(maxsize=1)
def _kinds() -> dict[str, type[MillstreamError]]:
    """The kinds of `core.errors` that carry no more than a `Failure` does. Kinds declared elsewhere come
    back as their nearest base, so that what is raised does not depend on what is imported."""
    found: dict[str, type[MillstreamError]] = {}
    waiting: list[type[MillstreamError]] = [MillstreamError]
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        if kind.__module__ == MillstreamError.__module__ and kind is not MillstreamError:
            found[kind.__name__] = kind
    return found
