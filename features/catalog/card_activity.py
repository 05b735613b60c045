"""What a card did lately: the rolling view that the fraud pipeline scores with."""

from datetime import timedelta

from features.view import Count, CountDistinct, Feature, FeatureView, Max, Mean, Rolling, Std, Sum
from schemas.catalog.transactions import Transaction

WINDOWS = {
    "10m": timedelta(minutes=10),
    "1h": timedelta(hours=1),
    "24h": timedelta(hours=24),
    "7d": timedelta(days=7),
}


def _over(label: str, window: timedelta) -> tuple[Feature, ...]:
    return (
        Feature(f"count_{label}", Count(over=window), unit="payments", empty=0),
        Feature(f"amount_sum_{label}", Sum("amount_cents", over=window), unit="cents", empty=0),
        Feature(f"amount_mean_{label}", Mean("amount_cents", over=window), unit="cents"),
        Feature(f"amount_std_{label}", Std("amount_cents", over=window), unit="cents"),
        Feature(f"amount_max_{label}", Max("amount_cents", over=window), unit="cents"),
        Feature(
            f"email_domains_{label}", CountDistinct("email_domain", over=window), unit="domains", empty=0
        ),
    )


CARD_ACTIVITY = FeatureView(
    name="card_activity",
    version=1,
    source=Transaction,
    entity="card_id",
    disorder=timedelta(milliseconds=50),
    window=Rolling(),
    features=tuple(feature for label, window in WINDOWS.items() for feature in _over(label, window)),
    ttl=timedelta(days=7, hours=1),
)
