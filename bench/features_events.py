"""The events of the feature engines' benchmark, and the view that all engines compute over them.

Event time goes on by 12 ms an event, so that a minute has 5,000 events of 100 entities; in order, without a
repeat, each with an id of its own.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from features.feature_rows import features_topic, late_topic
from features.view import Count, Feature, FeatureView, Max, Mean, Min, Ratio, Std, Sum, Tumbling, field
from schemas.record import Record, record
from schemas.topic import Topic

MINUTE = timedelta(minutes=1)
BEGIN_MS = int(datetime(2026, 3, 1, tzinfo=UTC).timestamp() * 1000)
SPACING_MS = 12
PER_MINUTE = 5_000
REGIONS, TENANTS, PARTITIONS = 50, 2, 1
ROWS_PER_MINUTE = REGIONS * TENANTS
KINDS = ("search", "search", "search", "booking", "cancel")


@record(entity="region", time="at", namespace="millstream.bench")
class Demand(Record, frozen=True, kw_only=True):
    """Something that a user did in a region."""

    region: str
    at: datetime
    kind: str
    fare: int


BOOKINGS, SEARCHES = Count(where=field("kind") == "booking"), Count(where=field("kind") == "search")
DEMAND = FeatureView(
    name="demand",
    version=1,
    source=Demand,
    entity="region",
    disorder=timedelta(0),
    window=Tumbling(MINUTE),
    features=(
        Feature("bookings", BOOKINGS, unit="events", empty=0),
        Feature("searches", SEARCHES, unit="events", empty=0),
        Feature("cancels", Count(where=field("kind") == "cancel"), unit="events", empty=0),
        Feature("conversion", Ratio(BOOKINGS, SEARCHES), unit="bookings per search"),
        Feature("fare_sum", Sum("fare"), unit="cents", empty=0),
        Feature("fare_mean", Mean("fare"), unit="cents"),
        Feature("fare_std", Std("fare"), unit="cents"),
        Feature("fare_min", Min("fare"), unit="cents"),
        Feature("fare_max", Max("fare"), unit="cents"),
    ),
    ttl=timedelta(minutes=2),
)


def topics(domain: str) -> dict[str, Any]:
    """The keyword arguments that a job over the view has, of any engine."""
    kept: Any = {"partitions": PARTITIONS, "retention": timedelta(days=3650)}  # event times are old
    return {
        "pipeline": domain,
        "source": Topic(f"{domain}.demand.events.v1", Demand, **kept),
        "view": DEMAND,
        "rows": features_topic(domain, DEMAND, **kept),
        "late": late_topic(domain, DEMAND, **kept),
    }


def events(first: int, count: int) -> pa.RecordBatch:
    """The events of these numbers, the same each time."""
    numbers = np.arange(first, first + count)
    dice = np.random.default_rng(first)
    return pa.RecordBatch.from_pydict(
        {
            "tenant": [f"tenant-{number}" for number in dice.integers(0, TENANTS, count)],
            "id": [f"event-{number:09d}" for number in numbers],
            "region": [f"region-{number}" for number in dice.integers(0, REGIONS, count)],
            "at": pa.array(BEGIN_MS + numbers * SPACING_MS, pa.timestamp("ms", tz="UTC")),
            "kind": [KINDS[number] for number in dice.integers(0, len(KINDS), count)],
            "fare": dice.integers(-5_000, 50_000, count),
        }
    )
