"""Sales: each merchant's minutes, of the purchases that the merchants' pipeline takes in."""

from datetime import timedelta

from features.catalog.merchant_sales import MERCHANT_SALES
from features.feature_rows import features_topic, late_topic
from pipelines.builder import DEAD_LETTERS, Pipeline, pipeline
from schemas.catalog.purchases import PURCHASES

MONTH = timedelta(days=30)

ROWS = features_topic("commerce", MERCHANT_SALES, partitions=PURCHASES.partitions, retention=MONTH)
LATE = late_topic("commerce", MERCHANT_SALES, partitions=PURCHASES.partitions, retention=MONTH)


@pipeline("sales", version=1, unrouted=DEAD_LETTERS)
def sales(p: Pipeline) -> None:
    p.read(PURCHASES, takes_events=False).window(MERCHANT_SALES, to=ROWS, late=LATE)
