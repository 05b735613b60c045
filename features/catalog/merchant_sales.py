"""What a merchant sells by the minute: tumbling, mergeable aggregates, so that every engine can run it."""

from datetime import timedelta

from features.view import Count, Feature, FeatureView, Last, Max, Mean, Ratio, Std, Sum, Tumbling, field
from schemas.catalog.purchases import Purchase

MERCHANT_SALES = FeatureView(
    name="merchant_sales",
    version=1,
    source=Purchase,
    entity="merchant_id",
    disorder=timedelta(seconds=5),
    window=Tumbling(timedelta(minutes=1)),
    features=(
        Feature("purchases", Count(), unit="purchases", empty=0),
        Feature("revenue_cents", Sum("amount_cents"), unit="cents", empty=0),
        Feature("mean_cents", Mean("amount_cents"), unit="cents"),
        Feature("std_cents", Std("amount_cents"), unit="cents"),
        Feature("largest_cents", Max("amount_cents"), unit="cents"),
        Feature("last_cents", Last("amount_cents"), unit="cents"),
        Feature("free", Count(where=field("amount_cents") == 0), unit="purchases", empty=0),
        Feature("items_per_purchase", Ratio(Sum("items"), Count()), unit="items per purchase"),
    ),
    ttl=timedelta(minutes=5),
)
