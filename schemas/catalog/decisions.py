"""What a pipeline decides: the result of one event, its status, and an analyst's verdict."""

from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import Meta

from schemas.record import Float32, Int32, Record, record

NAMESPACE = "millstream.decisions"


class Reason(msgspec.Struct, frozen=True):
    """One input's share in a score."""

    input: str
    contribution: Annotated[
        float, Meta(description="log-odds, approximate (Saabas)", extra={"avro": "float"})
    ]


@record(entity="entity", time="occurred_at", namespace=NAMESPACE)
class Decision(Record, frozen=True, kw_only=True):
    """The decision on one event. The first one per (tenant, id) is the visible outcome."""

    entity: str
    occurred_at: datetime
    pipeline: str
    score: Annotated[Float32 | None, Meta(description="0 to 100; null when no level could score")] = None
    decision: Annotated[str, Meta(description="block, confirm or review")]
    status: Annotated[str, Meta(description="blocked, confirmed or in_review")]
    model: str
    model_version: str
    arm: str = "champion"
    assignment_unit: str = ""
    degraded: bool = False
    level: Annotated[str, Meta(description="fallback level that answered")] = "live"
    degraded_reason: str | None = None
    late: Annotated[
        bool, Meta(description="too late for its windows; features were read as of its own time")
    ] = False
    feature_time: Annotated[datetime | None, Meta(description="the time the features are true at")] = None
    reasons: list[Reason] = []
    source: Annotated[str | None, Meta(description="id of the credential that sent the event")] = None
    traceparent: str | None = None
    received_at: Annotated[datetime | None, Meta(description="when the gateway took the event")] = None
    enriched_at: Annotated[datetime | None, Meta(description="when the features were on Kafka")] = None
    decided_at: datetime
    queue_ms: Float32 = 0.0
    model_ms: Float32 = 0.0
    decide_ms: Float32 = 0.0


@record(entity="entity", time="occurred_at", namespace=NAMESPACE)
class StatusChange(Record, frozen=True, kw_only=True):
    """A status that is in the database already; what subscribers are pushed. Rank never falls."""

    entity: str
    occurred_at: datetime
    pipeline: str
    status: Annotated[str, Meta(description="provisional, blocked, confirmed or in_review")]
    rank: Annotated[Int32, Meta(description="0 provisional, 1 decided, 2 reviewed")]
    changed_at: datetime
    store_ms: Annotated[Float32, Meta(description="decided to committed in the database")] = 0.0
    result: Annotated[Decision | None, Meta(description="the decision, where rank is 1")] = None
    verdict: str | None = None
    reviewer: str | None = None


@record(entity="entity", time="occurred_at", namespace=NAMESPACE)
class Verdict(Record, frozen=True, kw_only=True):
    """What an analyst, or the world, said of an event: the label for training and for the status."""

    entity: str
    occurred_at: datetime
    pipeline: str
    verdict: Annotated[str, Meta(description="fraud or legitimate")]
    reviewer: str
    note: str | None = None
    decided_at: datetime
