"""A record and a view that Faust can run: what happened in a region, per minute."""

from datetime import datetime, timedelta
from typing import Any

from features.feature_rows import features_topic, late_topic
from features.view import (
    Count,
    Feature,
    FeatureView,
    First,
    Last,
    Max,
    Mean,
    Min,
    Ratio,
    Std,
    Sum,
    Tumbling,
    field,
)
from jobs.on_faust.job import FaustJob
from schemas.record import Record, record
from schemas.topic import Topic

MINUTE = timedelta(minutes=1)
PARTITIONS = 3
DISORDER = timedelta(seconds=2)


@record(entity="region", time="at", namespace="millstream.tests")
class Trip(Record, frozen=True, kw_only=True):
    region: str
    at: datetime
    kind: str | None = None
    fare: int | None = None
    miles: float | None = None


BOOKINGS = Count(where=field("kind") == "booking")
SEARCHES = Count(where=field("kind") == "search")

TRIPS = FeatureView(
    name="trips",
    version=1,
    source=Trip,
    entity="region",
    disorder=DISORDER,
    window=Tumbling(MINUTE),
    features=(
        Feature("events", Count(), unit="events", empty=0),
        Feature("bookings", BOOKINGS, unit="events", empty=0),
        Feature("searches", SEARCHES, unit="events", empty=0),
        Feature("cancels", Count(where=field("kind") == "cancel"), unit="events", empty=0),
        Feature("conversion", Ratio(BOOKINGS, SEARCHES), unit="bookings per search"),
        Feature("fare_sum", Sum("fare"), unit="cents", empty=0),
        Feature("fare_mean", Mean("fare"), unit="cents"),
        Feature("fare_min", Min("fare"), unit="cents"),
        Feature("fare_max", Max("fare"), unit="cents"),
        Feature("fare_std", Std("fare"), unit="cents"),
        Feature("booked", Sum("fare", where=field("kind") == "booking"), unit="cents", empty=0),
        Feature("miles_sum", Sum("miles"), unit="miles", empty=0.0),
        Feature("miles_std", Std("miles"), unit="miles"),
        Feature("first_kind", First("kind"), unit="kind"),
        Feature("last_fare", Last("fare"), unit="cents"),
    ),
    ttl=timedelta(minutes=2),
)


def job(domain: str, *, horizon: timedelta = timedelta(hours=24)) -> FaustJob:
    """A job with topics of its own."""
    kept: Any = {"partitions": PARTITIONS, "retention": timedelta(days=30)}
    return FaustJob(
        domain,
        Topic(f"{domain}.trips.events.v1", Trip, **kept),
        TRIPS,
        features_topic(domain, TRIPS, **kept),
        late_topic(domain, TRIPS, **kept),
        horizon=horizon,
    )
