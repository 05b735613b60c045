"""The digest covers all of a view's meaning; a changed meaning of an applied version is refused, readably."""

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from features.catalog.card_activity import CARD_ACTIVITY
from features.identity import changed_meaning
from features.view import (
    Count,
    Cumulating,
    Feature,
    FeatureView,
    Hopping,
    Last,
    Lookup,
    Quantile,
    Ratio,
    Sum,
    Tumbling,
    ago,
    coalesce,
    feature,
    field,
    moving_average,
)
from tests.features.rides import DRIVER, SECOND, Driver, Ride

HOUR = timedelta(hours=1)
DEMAND = FeatureView(
    name="demand",
    version=3,
    source=Ride,
    entity="city",
    disorder=SECOND,
    window=Tumbling(60 * SECOND),
    features=(
        Feature("bookings", Count(where=field("kind") == "booking"), unit="rides", empty=0),
        Feature("fares", Sum("fare"), unit="cents"),
        Feature("high", Quantile("fare", 0.9), unit="cents"),
        Feature("share", Ratio(Count(where=field("kind") == "booking"), Count()), unit="1"),
        Feature("before", ago("bookings", HOUR), unit="rides", empty=0),
        Feature("average", moving_average("bookings", HOUR), unit="rides", empty=0),
        Feature("per_ride", coalesce(feature("fares"), 0) / feature("bookings"), unit="cents"),
        Feature("gold", Count(where=field("driver_of.level") == "gold"), unit="rides", empty=0),
        Feature("last_kind", Last("kind"), unit="kind"),
    ),
    ttl=timedelta(minutes=2),
    lookups=(DRIVER,),
)


def changed(name: str, **change: Any) -> FeatureView:
    return replace(
        DEMAND, features=tuple(replace(f, **change) if f.name == name else f for f in DEMAND.features)
    )


OTHERS = {
    "the size": replace(DEMAND, window=Tumbling(120 * SECOND)),
    "the shape": replace(DEMAND, window=Hopping(120 * SECOND, 60 * SECOND)),
    "another shape of the same numbers": replace(DEMAND, window=Cumulating(120 * SECOND, 60 * SECOND)),
    "the step": replace(DEMAND, window=Hopping(120 * SECOND, 30 * SECOND)),
    "the entity": replace(DEMAND, entity=("city", "zone")),
    "the order of the entity": replace(DEMAND, entity=("zone", "city")),
    "another lookup": replace(DEMAND, lookups=(DRIVER, Lookup("zone_of", Driver, on={"zone": "id"}))),
    "the lookup's key": replace(DEMAND, lookups=(Lookup("driver_of", Driver, on={"zone": "id"}),)),
    "a filter's value": changed("bookings", definition=Count(where=field("kind") == "search")),
    "a filter's operator": changed("bookings", definition=Count(where=field("kind") != "booking")),
    "no filter": changed("bookings", definition=Count()),
    "an aggregate": changed("fares", definition=Sum("seats")),
    "a quantile": changed("high", definition=Quantile("fare", 0.5)),
    "a ratio": changed("share", definition=Ratio(Count(), Count(where=field("kind") == "booking"))),
    "a time": changed("before", definition=ago("bookings", 2 * HOUR)),
    "a function": changed("average", definition=ago("bookings", HOUR)),
    "an operation": changed("per_ride", definition=coalesce(feature("fares"), 0) * feature("bookings")),
    "a constant": changed("per_ride", definition=coalesce(feature("fares"), 1) / feature("bookings")),
    "a unit": changed("fares", unit="euros"),
    "an empty value": changed("fares", empty=0),
    "fewer features": replace(DEMAND, features=DEMAND.features[:-1]),
    "another order": replace(DEMAND, features=DEMAND.features[::-1]),
}


def test_every_part_of_the_meaning_is_in_the_digest() -> None:
    digests = {DEMAND.digest, *(view.digest for view in OTHERS.values())}
    assert len(digests) == 1 + len(OTHERS)


@pytest.mark.parametrize("what", OTHERS)
def test_a_changed_meaning_of_the_same_version_is_refused(what: str) -> None:
    applied = json.loads(json.dumps(DEMAND.canonical()))
    lines = changed_meaning(applied, OTHERS[what])
    assert len(lines) >= 2
    assert lines[-1] == "rule: an applied version keeps its meaning; declare version 4"


def test_the_same_meaning_run_otherwise_is_not_refused() -> None:
    applied = json.loads(json.dumps(DEMAND.canonical()))
    assert changed_meaning(applied, DEMAND) == ()
    slower = replace(changed("fares", ttl=SECOND), disorder=HOUR, ttl=HOUR, tolerance=0.1)
    assert slower.digest == DEMAND.digest
    assert changed_meaning(applied, slower) == ()


def test_another_version_or_name_is_another_view() -> None:
    applied = DEMAND.canonical()
    assert changed_meaning(applied, replace(OTHERS["the size"], version=4)) == ()
    assert changed_meaning(applied, replace(OTHERS["the size"], name="other")) == ()


def test_the_differences_are_told_one_by_one() -> None:
    new = replace(
        changed("bookings", definition=Count(where=field("kind") == "search"), unit="searches"),
        entity=("city", "zone"),
    )
    new = replace(
        new, features=(*(f for f in new.features if f.name != "high"), replace(new.features[1], name="sum"))
    )
    assert changed_meaning(DEMAND.canonical(), new) == (
        'entity "city" -> ["city","zone"]',
        "- feature high",
        "+ feature sum",
        '~ feature bookings: where ["=","kind","booking"] -> ["=","kind","search"]',
        '~ feature bookings: unit "rides" -> "searches"',
        "rule: an applied version keeps its meaning; declare version 4",
    )


def test_another_order_is_told_as_such() -> None:
    lines = changed_meaning(DEMAND.canonical(), OTHERS["another order"])
    assert lines[0].startswith("order of features bookings, fares, high")


def test_true_and_one_are_different_values() -> None:
    one = changed("fares", empty=1)
    applied = json.loads(json.dumps(one.canonical()).replace('"empty": 1', '"empty": true'))
    assert changed_meaning(applied, one)[0] == "~ feature fares: empty true -> 1"


def test_the_digest_of_card_activity_is_the_one_its_models_were_trained_with() -> None:
    assert CARD_ACTIVITY.digest == "bae8b7a2a6f04855c8a863c491abafbca7c81a9040d85c2fe1589075c219a161"
