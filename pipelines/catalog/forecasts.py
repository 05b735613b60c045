"""Forecasts: how many bookings the next days bring, per region, made anew whenever a day has ended."""

from datetime import timedelta

from features.catalog.demand_history import DEMAND_DAYS
from features.feature_rows import features_topic, late_topic
from operators.forecast import Horizon
from pipelines.builder import DEAD_LETTERS, Pipeline, pipeline
from schemas.catalog.forecasts import Forecast
from schemas.catalog.user_events import USER_EVENTS
from schemas.topic import Topic

YEAR = timedelta(days=365)

ROWS = features_topic("demand", DEMAND_DAYS, partitions=USER_EVENTS.partitions, retention=YEAR)
LATE = late_topic("demand", DEMAND_DAYS, partitions=USER_EVENTS.partitions, retention=YEAR)
RESULTS = Topic("demand.days.results.v1", Forecast, partitions=USER_EVENTS.partitions, retention=YEAR)
STATUS = Topic(
    "demand.days.status.v1", Forecast, partitions=USER_EVENTS.partitions, retention=timedelta(days=7)
)


@pipeline("forecasts", version=1, unrouted=DEAD_LETTERS)
def forecasts(p: Pipeline) -> None:
    days = p.read(USER_EVENTS, takes_events=False).window(DEMAND_DAYS, to=ROWS, late=LATE)
    made = days.forecast(
        "bookings",
        model="demand",
        scale="bookings_28d",
        horizons=(Horizon("next_week", steps=7), Horizon("next_day", steps=1)),
    )
    p.write(made.ok, RESULTS)
    p.store(status=STATUS)
