"""The one error tree. Every error says whose fault it is, whether to retry, and how to mend it.

    MillstreamError
    ├── InvalidInput            caller's fault, never retry        400/404/409/413/415/422
    │   ├── Malformed             bytes are no JSON / no Avro        malformed_body, malformed_record
    │   ├── Rejected              a field breaks the record          invalid_record (pointer -> reason)
    │   ├── TooLarge              over a declared cap                too_large
    │   ├── UnknownName           nothing of that name               unknown_<kind>, nearest name suggested
    │   └── Conflict              same id, another body              conflict
    ├── Denied                  caller's fault, never retry        401/403
    ├── DeclarationError        developer's fault, at build time   a wrong view, pipeline or record
    │   └── IncompatibleSchema    breaks the evolution rule          incompatible_schema (diff, rule)
    ├── Unavailable             the surroundings' fault, retry     503 + Retry-After
    │   ├── QueueFull             our own bound was reached          queue_full
    │   ├── CircuitOpen           it failed too often, left alone    circuit_open
    │   ├── RateLimited           the caller's limit was reached     429 + Retry-After, rate_limited
    │   ├── ServerFailed          a model server, any fault of its   server_<kind>
    │   ├── ModelUnavailable      no version that works is left      model_unavailable
    │   └── DeadlineExceeded      not in time                        504, deadline_exceeded
    ├── ModelError              the model's fault                  refused at load or failed at run time
    │   ├── ModelRefused          digest, signature, golden          model_refused
    │   └── ModelFailed           raised or not finite               model_failed
    ├── StackError              the machine's fault                a local service will not start
    └── InternalError           ours; a bug                        500

`domain` groups errors for metrics, `code` is stable and documented, `retryable` tells clients and
workers whether the same call can succeed later without a change.
"""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import ClassVar


class MillstreamError(Exception):
    """An error in three parts: what happened, where, and how to mend it."""

    domain: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False
    default_code: ClassVar[str] = "internal_error"

    def __init__(
        self, what: str, *, where: str | None = None, mend: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.mend = mend
        self.code = code or self.default_code

    def __str__(self) -> str:
        parts = [self.what]
        if self.where:
            parts.append(f"where: {self.where}")
        if self.mend:
            parts.append(f"mend: {self.mend}")
        return "\n  ".join(parts)


class InvalidInput(MillstreamError):
    domain = "input"
    default_code = "invalid_input"


class Malformed(InvalidInput):
    default_code = "malformed_body"


class Rejected(InvalidInput):
    """A well-formed input that breaks its record. `fields` maps JSON pointers to reasons, all of them."""

    default_code = "invalid_record"

    def __init__(
        self,
        what: str,
        *,
        fields: Mapping[str, str],
        where: str | None = None,
        mend: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(what, where=where, mend=mend, code=code)
        self.fields = dict(fields)


class TooLarge(InvalidInput):
    default_code = "too_large"


class UnknownName(InvalidInput):
    """Nothing of that kind has that name; the nearest name is suggested."""

    def __init__(self, kind: str, name: str, known: Iterable[str], *, where: str | None = None) -> None:
        names = sorted(known)
        close = get_close_matches(name, names, n=1, cutoff=0.5)
        if close:
            mend = f"did you mean {close[0]!r}?"
        elif names:
            mend = f"known: {', '.join(names[:12])}{', ...' if len(names) > 12 else ''}"
        else:
            mend = f"no {kind} is declared"
        super().__init__(
            f"unknown {kind} {name!r}", where=where, mend=mend, code=f"unknown_{kind.replace(' ', '_')}"
        )
        self.kind = kind
        self.name = name
        self.nearest = close[0] if close else None


class Conflict(InvalidInput):
    default_code = "conflict"


class Denied(MillstreamError):
    domain = "access"
    default_code = "unauthenticated"


class DeclarationError(MillstreamError):
    domain = "declaration"
    default_code = "invalid_declaration"


class IncompatibleSchema(DeclarationError):
    default_code = "incompatible_schema"


class Unavailable(MillstreamError):
    """Something we depend on is away. `retry_after_s` is a hint in seconds."""

    domain = "dependency"
    retryable = True
    default_code = "unavailable"

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        mend: str | None = None,
        code: str | None = None,
        retry_after_s: float = 1.0,
    ) -> None:
        super().__init__(what, where=where, mend=mend, code=code)
        self.retry_after_s = retry_after_s


class QueueFull(Unavailable):
    default_code = "queue_full"


class CircuitOpen(Unavailable):
    """A breaker lets no call through; after `retry_after_s` it lets one try."""

    default_code = "circuit_open"


class RateLimited(Unavailable):
    """More than the caller may ask for in so short a time; after `retry_after_s` the same is let through."""

    domain = "limit"
    default_code = "rate_limited"


class ServerFailed(Unavailable):
    """A model server did not do its part.

    `kind`: `unreachable` (no connection), `busy` and `refused` (it said so, nothing was done), `failed` (it
    reported an error of its own), `lost` (the connection ended too early), `silent` (nothing came for too
    long), `garbage` (what came makes no sense).
    """

    default_code = "server_failed"

    def __init__(self, kind: str, what: str, *, where: str | None = None, retry_after_s: float = 1.0) -> None:
        super().__init__(what, where=where, code=f"server_{kind}", retry_after_s=retry_after_s)
        self.kind = kind

    @property
    def undone(self) -> bool:
        """Whether the server surely did nothing for the call."""
        return self.kind in ("unreachable", "busy", "refused")


class ModelUnavailable(Unavailable):
    """A model broke or hangs, and nothing else answers in its place."""

    default_code = "model_unavailable"


class DeadlineExceeded(Unavailable):
    default_code = "deadline_exceeded"


class ModelError(MillstreamError):
    domain = "model"
    default_code = "model_error"


class ModelRefused(ModelError):
    """A model that does not pass digest, signature or golden outputs is never served."""

    default_code = "model_refused"


class ModelFailed(ModelError):
    """The model raised, or gave a value that is not finite, for this input."""

    default_code = "model_failed"


class StackError(MillstreamError):
    domain = "stack"
    default_code = "stack_error"


class InternalError(MillstreamError):
    pass
