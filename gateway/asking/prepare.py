"""A request's body as it is asked, and as the question that it is to a cache."""

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from core.ids import new_id
from gateway.asking.cache_key import Questions
from gateway.intake import Intake
from schemas.record import Record

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request that was checked. body: JSON, canonical, so that equal requests are equal bytes. fresh: its
    id was made here, so that nobody else can have asked under it. question: what it asks, without what is its
    own (`Questions`); own: the members of the answer that are. Both are empty where no answer is given
    again. record: what policies may look at."""

    id: str
    entity: str
    body: bytes
    fresh: bool = False
    question: bytes = b""
    own: bytes = b""
    record: Record | None = None


Prepare = Callable[[bytes, str, str | None], Prepared]
"""(raw body, tenant, key or None) -> what is asked; raises InvalidInput."""


def records(intake: Intake, questions: Questions | None = None) -> Prepare:
    """Requests that are one record of a pipeline's source, checked as an event is."""
    entity = intake.record.spec().entity or ""

    def prepare(raw: bytes, tenant: str, key: str | None) -> Prepared:
        made = new_id()
        record = intake.read(raw, tenant, otherwise=key or made)
        id, fresh = key or record.id, key is None and record.id == made
        about, body = str(getattr(record, entity)), _encode(record)
        if questions is None:
            return Prepared(id, about, body, fresh, record=record)
        return Prepared(id, about, body, fresh, questions.of(record), questions.own(record, id), record)

    return prepare
