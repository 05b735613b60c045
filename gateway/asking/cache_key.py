"""The key of an answer: whose it is, what makes it, and what was asked in a form that equal questions share.

A question is the record without what tells one request from another: tenant (it has its own place in the
key), id, and the fields that the pipeline declares to change nothing. It is made of the record that was
decoded to check it, so spaces, the order of fields, defaults that were written out and ways to write a
number or a time make no difference. The event time counts as far as the pipeline says (`Reuse.as_of`).
"""

from datetime import UTC, datetime, timedelta
from typing import Any, get_args, get_type_hints

import msgspec

from core.clock import from_millis, to_millis
from core.ids import digest
from pipelines.plan import Reuse
from schemas.catalog.models import Route
from schemas.record import Record

OWN = ("id", "record_id", "occurred_at")
"""Members of an answer that are the request's own."""
_encode = msgspec.json.Encoder().encode
_canonical = msgspec.json.Encoder(order="deterministic").encode


class Questions:
    """The questions of one pipeline. `record` is its source's, and names the event time."""

    def __init__(self, record: type[Record], reuse: Reuse) -> None:
        self._time = record.spec().time or ""
        self._span_ms = max(reuse.as_of // timedelta(milliseconds=1), 1)
        self._left_out = dict.fromkeys(("tenant", "id", *reuse.ignored))
        self._times = [
            name
            for name, hint in get_type_hints(record, include_extras=True).items()
            if _is_time(hint) and name != self._time and name not in self._left_out
        ]

    def of(self, record: Record) -> bytes:
        """What is asked; equal bytes for equal questions."""
        at = to_millis(getattr(record, self._time))
        changed = self._left_out | {self._time: at - at % self._span_ms}
        for name in self._times:
            value = getattr(record, name)
            if isinstance(value, datetime):
                changed[name] = value.astimezone(UTC)
        return _canonical(msgspec.structs.replace(record, **changed))

    def own(self, record: Record, id: str) -> bytes:
        """The members of `OWN` for this request, as they stand in an object."""
        at = from_millis(to_millis(getattr(record, self._time)))
        return _encode(dict(zip(OWN, (id, record.id, at), strict=True)))[1:-1]


def _is_time(hint: Any) -> bool:
    return hint is datetime or any(map(_is_time, get_args(hint)))


def answer_key(tenant: str, *, plan: str, route: Route, question: bytes) -> str:
    """`plan`: a digest of all that a pipeline is. Another version of the model, and the same one under
    another arm, has other keys, so that a swap forgets nothing and gives nothing that is not its own."""
    made_by = _encode([plan, route.version, route.arm])
    return f"{tenant}:{digest(made_by + question)}"
