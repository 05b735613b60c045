"""Demand per region by the day and by the hour, as forecasts look at it: what was booked so much earlier, and
moving averages, all in units of a moving average over whole weeks, so that one model serves every size.
"""

from datetime import timedelta

from features.catalog.regional_demand import BOOKINGS
from features.view import Derived, Feature, FeatureView, Tumbling, ago, feature, moving_average
from schemas.catalog.user_events import UserEvent

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
DAYS_AGO = (*range(1, 14), 20, 27)
HOURS_AGO = (1, 2, 3, 5, 11, 22, 23, 24, 46, 47, 143, 144, 145, 166, 167, 168, 334, 335)


def _in_units(name: str, value: Derived, scale: str) -> Feature:
    return Feature(name, value / feature(scale), unit=f"shares of {scale}")


DEMAND_DAYS = FeatureView(
    name="demand_days",
    version=1,
    source=UserEvent,
    entity="region",
    disorder=timedelta(seconds=1),
    window=Tumbling(DAY),
    features=(
        Feature("bookings", BOOKINGS, unit="bookings", empty=0),
        Feature("bookings_28d", moving_average("bookings", 28 * DAY), unit="bookings per day", empty=0),
        Feature("bookings_7d", moving_average("bookings", 7 * DAY), unit="bookings per day", empty=0),
        Feature("bookings_14d", moving_average("bookings", 14 * DAY), unit="bookings per day", empty=0),
        _in_units("share_7d", feature("bookings_7d"), "bookings_28d"),
        _in_units("share_14d", feature("bookings_14d"), "bookings_28d"),
        _in_units("share_now", feature("bookings"), "bookings_28d"),
        *(_in_units(f"share_{days}d_ago", ago("bookings", days * DAY), "bookings_28d") for days in DAYS_AGO),
    ),
    ttl=2 * DAY,
)

DEMAND_HOURS = FeatureView(
    name="demand_hours",
    version=1,
    source=UserEvent,
    entity="region",
    disorder=timedelta(seconds=1),
    window=Tumbling(HOUR),
    features=(
        Feature("bookings", BOOKINGS, unit="bookings", empty=0),
        Feature("bookings_7d", moving_average("bookings", 7 * DAY), unit="bookings per hour", empty=0),
        Feature("bookings_3h", moving_average("bookings", 3 * HOUR), unit="bookings per hour", empty=0),
        Feature("bookings_24h", moving_average("bookings", DAY), unit="bookings per hour", empty=0),
        _in_units("share_3h", feature("bookings_3h"), "bookings_7d"),
        _in_units("share_24h", feature("bookings_24h"), "bookings_7d"),
        _in_units("share_now", feature("bookings"), "bookings_7d"),
        *(
            _in_units(f"share_{hours}h_ago", ago("bookings", hours * HOUR), "bookings_7d")
            for hours in HOURS_AGO
        ),
    ),
    ttl=2 * HOUR,
)
