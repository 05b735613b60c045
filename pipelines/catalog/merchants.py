"""Merchants: what each of them sold lately, and what of it is unusual for one of its size."""

from datetime import timedelta

from features.catalog.merchant_activity import MERCHANT_ACTIVITY
from features.feature_rows import features_topic, late_topic
from pipelines.builder import DEAD_LETTERS, Pipeline, pipeline
from schemas.catalog.purchases import PURCHASES

MONTH = timedelta(days=30)

ROWS = features_topic("commerce", MERCHANT_ACTIVITY, partitions=PURCHASES.partitions, retention=MONTH)
LATE = late_topic("commerce", MERCHANT_ACTIVITY, partitions=PURCHASES.partitions, retention=MONTH)


@pipeline("merchants", version=1, unrouted=DEAD_LETTERS)
def merchants(p: Pipeline) -> None:
    p.read(PURCHASES).window(MERCHANT_ACTIVITY, to=ROWS, late=LATE)
