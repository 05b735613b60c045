"""What customers buy at which merchant, and the merchants themselves as reference data."""

from datetime import datetime, timedelta
from typing import Annotated

from msgspec import Meta

from schemas.record import Record, record
from schemas.topic import Topic


@record(entity="merchant_id", time="occurred_at", namespace="millstream.commerce")
class Purchase(Record, frozen=True, kw_only=True):
    """One basket, paid."""

    merchant_id: Annotated[str, Meta(min_length=1, max_length=64)]
    customer_id: Annotated[str, Meta(min_length=1, max_length=64)]
    occurred_at: Annotated[datetime, Meta(tz=True, description="when it was paid")]
    amount_cents: Annotated[int, Meta(ge=0, le=10**12)]
    items: Annotated[int, Meta(ge=0, le=10**6, description="pieces in the basket")]


@record(entity="merchant_id", time="changed_at", namespace="millstream.commerce")
class Merchant(Record, frozen=True, kw_only=True):
    """A merchant as the reference table has it; the newest per merchant counts."""

    merchant_id: Annotated[str, Meta(min_length=1, max_length=64)]
    region: Annotated[str, Meta(min_length=1, max_length=64)]
    size: Annotated[str, Meta(min_length=1, max_length=16, description="small, medium, large")]
    changed_at: Annotated[datetime, Meta(tz=True, description="since when it is so")]


PURCHASES = Topic("commerce.purchases.events.v1", Purchase, retention=timedelta(days=30), max_bytes=16_384)
MERCHANTS = Topic("commerce.merchants.events.v1", Merchant, cleanup="compact", max_bytes=16_384)
