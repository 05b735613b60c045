"""Feature services say at build time what is wrong with them."""

from dataclasses import replace

import pytest

from core.errors import DeclarationError, UnknownName
from features.catalog.card_activity import CARD_ACTIVITY
from features.catalog.regional_demand import REGIONAL_DEMAND
from features.services import FeatureService, service
from features.view import FeatureView

Parts = tuple[tuple[FeatureView, tuple[str, ...]], ...]


def test_whole_views_and_single_features_keep_their_order() -> None:
    made = service("ride", REGIONAL_DEMAND, (CARD_ACTIVITY, ["count_1h", "count_10m"]))
    assert made.features == (
        (REGIONAL_DEMAND, REGIONAL_DEMAND.feature_names),
        (CARD_ACTIVITY, ("count_1h", "count_10m")),
    )
    assert made.views == (REGIONAL_DEMAND, CARD_ACTIVITY)
    assert made == FeatureService("ride", made.features)


def test_an_unknown_feature_names_the_nearest_one() -> None:
    with pytest.raises(UnknownName) as error:
        service("ride", (REGIONAL_DEMAND, ["bookingz"]))
    assert error.value.nearest == "bookings"
    assert "ride" in str(error.value)


@pytest.mark.parametrize(
    ("name", "features", "reason"),
    [
        ("Ride", ((REGIONAL_DEMAND, ("trend",)),), "service name"),
        ("", ((REGIONAL_DEMAND, ("trend",)),), "service name"),
        ("ride", (), "without features"),
        ("ride", ((REGIONAL_DEMAND, ()),), "no features of regional_demand"),
        ("ride", ((REGIONAL_DEMAND, ("trend", "trend")),), "'trend' is there twice"),
        ("ride", ((REGIONAL_DEMAND, ("trend",)), (REGIONAL_DEMAND, ("bookings",))), "is there twice"),
        (
            "ride",
            ((REGIONAL_DEMAND, ("trend",)), (replace(REGIONAL_DEMAND, version=2), ("trend",))),
            "as v1 and as v2",
        ),
    ],
)
def test_what_cannot_be_read_is_refused(name: str, features: Parts, reason: str) -> None:
    with pytest.raises(DeclarationError, match=reason):
        FeatureService(name, features)
