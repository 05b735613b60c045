"""What a merchant sold in the last hour, each five minutes, and what of it is unusual for one of its size."""

from datetime import timedelta

from features.view import (
    Count,
    CountDistinct,
    Feature,
    FeatureView,
    Hopping,
    Last,
    Lookup,
    Max,
    Mean,
    Ratio,
    Sum,
    change,
    field,
)
from schemas.catalog.purchases import MERCHANTS, Merchant, Purchase

HOUR = timedelta(hours=1)
MERCHANT = Lookup("merchant", Merchant, on={"merchant_id": "merchant_id"}, topic=MERCHANTS)

LARGE_BASKET = (
    ((field("merchant.size") == "small") & (field("amount_cents") >= 10_000))
    | ((field("merchant.size") == "medium") & (field("amount_cents") >= 50_000))
    | ((field("merchant.size") == "large") & (field("amount_cents") >= 200_000))
)
"""Unusual for the merchant's size; never of a merchant that the reference does not know."""

MERCHANT_ACTIVITY = FeatureView(
    name="merchant_activity",
    version=1,
    source=Purchase,
    entity="merchant_id",
    disorder=timedelta(seconds=5),
    window=Hopping(HOUR, every=timedelta(minutes=5)),
    lookups=(MERCHANT,),
    features=(
        Feature("purchases", Count(), unit="purchases", empty=0),
        Feature("customers", CountDistinct("customer_id"), unit="customers", empty=0),
        Feature("revenue_cents", Sum("amount_cents"), unit="cents", empty=0),
        Feature("mean_basket_cents", Mean("amount_cents"), unit="cents"),
        Feature("largest_basket_cents", Max("amount_cents"), unit="cents"),
        Feature("items_per_purchase", Ratio(Sum("items"), Count()), unit="items per purchase"),
        Feature("revenue_change_cents", change("revenue_cents", HOUR), unit="cents", empty=0),
        Feature("large_baskets", Count(where=LARGE_BASKET), unit="purchases", empty=0),
        Feature(
            "large_basket_share",
            Ratio(Sum("amount_cents", where=LARGE_BASKET), Sum("amount_cents")),
            unit="share of revenue",
            empty=0.0,
        ),
        Feature("region", Last("merchant.region"), unit="region"),
    ),
    # Two of the five minutes: one row that is late is no gap.
    ttl=timedelta(minutes=10),
)
