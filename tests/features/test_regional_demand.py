"""The shipped view of demand, on a small day whose figures can be told by hand, and against the oracle."""

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings

from features.catalog.regional_demand import REGIONAL_DEMAND
from features.offline.history import compute
from schemas.catalog.user_events import USER_EVENTS, UserEvent
from tests.features.demand_events import NOON, as_table, event, streams
from tests.features.oracle import naive_windows, same

MINUTE = timedelta(minutes=1)


def demand(events: list[UserEvent]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = compute(REGIONAL_DEMAND, as_table(events)).to_pylist()
    return found


def test_a_day_by_hand() -> None:
    happened = [
        *[(NOON - timedelta(days=7), "booking")] * 5,
        *[(NOON - timedelta(days=1), "booking")] * 4,
        (NOON - timedelta(days=1, minutes=-1), "booking"),
        *[(NOON - 30 * MINUTE, "booking")] * 12,
        *[(NOON - 14 * MINUTE, "booking")] * 7,
        (NOON, "search"), (NOON, "search"), (NOON, "booking"), (NOON + 59 * timedelta(seconds=1), "booking"),
        (NOON, "cancel"), (NOON, "opened"),
        (NOON + 60 * timedelta(seconds=1), "booking"),
    ]  # fmt: skip
    rows = demand([event(number, at, kind) for number, (at, kind) in enumerate(happened)])
    (row,) = [row for row in rows if row["window_start"] == NOON]
    assert row["window_end"] == NOON + MINUTE
    assert (row["bookings"], row["searches"], row["cancels"]) == (2, 2, 1)
    assert row["conversion"] == 1.0
    assert row["rolling_avg"] == pytest.approx((2 + 7) / 15)
    assert row["trend"] == pytest.approx((2 + 7) / 15 - (2 + 7 + 12) / 60)
    assert (row["seasonality_day"], row["seasonality_week"]) == (4, 5)
    (after,) = [row for row in rows if row["window_start"] == NOON + MINUTE]
    assert (after["bookings"], after["searches"], after["conversion"]) == (1, 0, None)
    assert after["rolling_avg"] == pytest.approx((1 + 2) / 15)
    assert (after["seasonality_day"], after["seasonality_week"]) == (1, 0)


@settings(deadline=None, max_examples=15)
@given(streams())
def test_every_minute_is_the_oracle_s(events: list[UserEvent]) -> None:
    found, wanted = demand(events), naive_windows(REGIONAL_DEMAND, events)
    assert len(found) == len(wanted)
    for row, right in zip(found, wanted, strict=True):
        same(row, right)


def test_it_is_gone_two_minutes_after_its_window() -> None:
    assert REGIONAL_DEMAND.ttl == timedelta(seconds=120)
    assert {REGIONAL_DEMAND.ttl_of(feature) for feature in REGIONAL_DEMAND.features} == {REGIONAL_DEMAND.ttl}


def test_its_topic_has_the_name_of_the_source_document_and_its_key() -> None:
    assert USER_EVENTS.name == "user-events"
    assert UserEvent.spec().entity == "region" == REGIONAL_DEMAND.entity
