"""Demand per region and minute: what is booked, searched and cancelled, and how that compares with before."""

from datetime import timedelta

from features.view import (
    Count,
    Feature,
    FeatureView,
    Ratio,
    Tumbling,
    feature,
    field,
    moving_average,
    same_hour_last_week,
    same_hour_yesterday,
)
from schemas.catalog.user_events import UserEvent

BOOKINGS = Count(where=field("kind") == "booking")
SEARCHES = Count(where=field("kind") == "search")
CANCELS = Count(where=field("kind") == "cancel")

REGIONAL_DEMAND = FeatureView(
    name="regional_demand",
    version=1,
    source=UserEvent,
    entity="region",
    disorder=timedelta(seconds=1),
    window=Tumbling(timedelta(minutes=1)),
    features=(
        Feature("bookings", BOOKINGS, unit="events", empty=0),
        Feature("searches", SEARCHES, unit="events", empty=0),
        Feature("cancels", CANCELS, unit="events", empty=0),
        Feature("conversion", Ratio(BOOKINGS, SEARCHES), unit="bookings per search"),
        Feature(
            "rolling_avg",
            moving_average("bookings", timedelta(minutes=15)),
            unit="bookings per minute",
            empty=0,
        ),
        # Against the last hour's mean: a single minute is too noisy to be compared with another one.
        Feature(
            "trend",
            feature("rolling_avg") - moving_average("bookings", timedelta(hours=1)),
            unit="bookings per minute",
            empty=0,
        ),
        Feature("seasonality_day", same_hour_yesterday("bookings"), unit="events", empty=0),
        Feature("seasonality_week", same_hour_last_week("bookings"), unit="events", empty=0),
    ),
    ttl=timedelta(seconds=120),
)
