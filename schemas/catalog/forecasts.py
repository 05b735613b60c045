"""What will be: a forecast per entity, made when a window of its features ended."""

from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import Meta

from schemas.record import Float32, Int64, Record, record

NAMESPACE = "millstream.forecasts"


class Expected(msgspec.Struct, frozen=True):
    """What is expected in one stretch of time."""

    horizon: Annotated[str, Meta(description="its name in the pipeline")]
    begins_at: datetime
    ends_at: Annotated[datetime, Meta(description="not in it")]
    value: Annotated[float, Meta(description="in the record's unit, at least 0")]


@record(entity="entity", time="window_end", namespace=NAMESPACE)
class Forecast(Record, frozen=True, kw_only=True):
    """What one version of a model expects of an entity, looking at its features at the end of a window.

    `id` is that of the feature row; the first one per (tenant, id) is the visible outcome. A window that was
    corrected has another row with a higher `sequence`, and with it another forecast.
    """

    entity: str
    pipeline: str
    window_start: Annotated[datetime, Meta(description="of the newest window that was looked at")]
    window_end: Annotated[datetime, Meta(description="its end, not in it: the origin of the forecast")]
    sequence: Int64
    expected: Annotated[list[Expected], Meta(description="one per horizon of the pipeline, in its order")]
    unit: str
    model: str
    model_version: str
    arm: str = "champion"
    assignment_unit: str = ""
    degraded: bool = False
    level: Annotated[str, Meta(description="fallback level that answered")] = "live"
    degraded_reason: str | None = None
    features_at: Annotated[datetime | None, Meta(description="when the features were on Kafka")] = None
    made_at: datetime
    queue_ms: Float32 = 0.0
    model_ms: Float32 = 0.0
