"""What users do in an app, by region: the demand side of a market."""

from datetime import datetime, timedelta
from typing import Annotated

from msgspec import Meta

from schemas.record import Record, record
from schemas.topic import Topic


@record(entity="region", time="occurred_at", namespace="millstream.demand")
class UserEvent(Record, frozen=True, kw_only=True):
    """Something a user did, in the region where it counts."""

    user_id: Annotated[str, Meta(min_length=1, max_length=64)]
    region: Annotated[str, Meta(min_length=1, max_length=64)]
    kind: Annotated[
        str, Meta(min_length=1, max_length=64, description="search, booking, cancel; others are let through")
    ]
    occurred_at: Annotated[datetime, Meta(tz=True, description="when the user did it")]


USER_EVENTS = Topic("user-events", UserEvent, retention=timedelta(days=30), max_bytes=16_384)
