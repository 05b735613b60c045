"""A request's body as it is asked."""

from collections.abc import Callable

import msgspec

from core.ids import new_id
from gateway.intake import Intake
from schemas.record import Record

_encode = msgspec.json.Encoder().encode


class Prepared(msgspec.Struct, frozen=True):
    """A request that was checked. body: JSON, canonical, so that equal requests are equal bytes. fresh: its
    id was made here, so that nobody else can have asked under it. record: what policies may look at."""

    id: str
    entity: str
    body: bytes
    fresh: bool
    record: Record


Prepare = Callable[[bytes, str, str | None], Prepared]
"""(raw body, tenant, key or None) -> what is asked; raises InvalidInput."""


def records(intake: Intake) -> Prepare:
    """Requests that are one record of a pipeline's source, checked as an event is."""
    entity = intake.record.spec().entity or ""

    def prepare(raw: bytes, tenant: str, key: str | None) -> Prepared:
        made = new_id()
        record = intake.read(raw, tenant, otherwise=key or made)
        id, fresh = key or record.id, key is None and record.id == made
        return Prepared(id, str(getattr(record, entity)), _encode(record), fresh, record)

    return prepare
