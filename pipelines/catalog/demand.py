"""Demand: what users book, search and cancel, by region and minute, kept where prices are made from it."""

from datetime import timedelta

from features.catalog.regional_demand import REGIONAL_DEMAND
from features.feature_rows import features_topic, late_topic
from pipelines.builder import DEAD_LETTERS, Pipeline, pipeline
from schemas.catalog.user_events import USER_EVENTS

MONTH = timedelta(days=30)

ROWS = features_topic("demand", REGIONAL_DEMAND, partitions=USER_EVENTS.partitions, retention=MONTH)
LATE = late_topic("demand", REGIONAL_DEMAND, partitions=USER_EVENTS.partitions, retention=MONTH)


@pipeline("demand", version=1, unrouted=DEAD_LETTERS)
def demand(p: Pipeline) -> None:
    p.read(USER_EVENTS, route="/events").window(REGIONAL_DEMAND, to=ROWS, late=LATE)
