"""Feature services shipped with the framework: what a model or a client reads as one."""

from features.catalog.card_activity import CARD_ACTIVITY
from features.catalog.regional_demand import REGIONAL_DEMAND
from features.services import service

CARD_RISK = service("card_risk", CARD_ACTIVITY)
PRICING = service(
    "pricing",
    (
        REGIONAL_DEMAND,
        ("bookings", "conversion", "rolling_avg", "trend", "seasonality_day", "seasonality_week"),
    ),
)
