"""Hourly forecasts: how many bookings the next 24 hours bring, per region, made anew every hour."""

from datetime import timedelta

from features.catalog.demand_history import DEMAND_HOURS
from features.feature_rows import features_topic, late_topic
from operators.forecast import Horizon
from pipelines.builder import DEAD_LETTERS, Pipeline, pipeline
from schemas.catalog.forecasts import Forecast
from schemas.catalog.user_events import USER_EVENTS
from schemas.topic import Topic

MONTH = timedelta(days=30)

ROWS = features_topic("demand", DEMAND_HOURS, partitions=USER_EVENTS.partitions, retention=MONTH)
LATE = late_topic("demand", DEMAND_HOURS, partitions=USER_EVENTS.partitions, retention=MONTH)
RESULTS = Topic("demand.hours.results.v1", Forecast, partitions=USER_EVENTS.partitions, retention=MONTH)
STATUS = Topic(
    "demand.hours.status.v1", Forecast, partitions=USER_EVENTS.partitions, retention=timedelta(days=7)
)


@pipeline("hourly_forecasts", version=1, unrouted=DEAD_LETTERS)
def hourly_forecasts(p: Pipeline) -> None:
    hours = p.read(USER_EVENTS, takes_events=False).window(DEMAND_HOURS, to=ROWS, late=LATE)
    made = hours.forecast(
        "bookings",
        model="demand_hourly",
        scale="bookings_7d",
        horizons=(
            Horizon("next_24_hours", steps=24),
            Horizon("next_hour", steps=1),
            Horizon("hour_of_tomorrow", steps=1, lead=23),
        ),
    )
    p.write(made.ok, RESULTS)
    p.store(status=STATUS)
