"""The packed value of a view follows its declaration."""

from dataclasses import replace
from datetime import timedelta

import pytest

from core.errors import DeclarationError
from features.catalog.card_activity import CARD_ACTIVITY
from features.catalog.regional_demand import REGIONAL_DEMAND
from features.online.layout import layout_of


def test_fields_kinds_and_times_are_the_views() -> None:
    layout = layout_of(REGIONAL_DEMAND)
    assert layout.names == REGIONAL_DEMAND.feature_names
    assert [layout.field(name).kind for name in ("bookings", "conversion")] == ["long", "double"]
    assert layout.field("bookings").empty == 0
    assert layout.field("conversion").empty is None
    assert layout.ttl == timedelta(seconds=120)
    assert layout.fresh_for == timedelta(seconds=62)


def test_a_value_that_lives_shorter_than_a_window_is_fresh_while_it_lives() -> None:
    short = replace(REGIONAL_DEMAND, ttl=timedelta(seconds=30))
    assert layout_of(short).fresh_for == timedelta(seconds=30)


def test_another_meaning_has_another_fingerprint() -> None:
    other = replace(REGIONAL_DEMAND, version=2)
    assert layout_of(other).fingerprint != layout_of(REGIONAL_DEMAND).fingerprint


def test_a_rolling_view_has_none() -> None:
    with pytest.raises(DeclarationError, match="recent rows"):
        layout_of(CARD_ACTIVITY)
