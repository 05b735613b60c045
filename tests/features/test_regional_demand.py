"""The shipped view of demand, on a small day whose figures can be told by hand, and against the oracle."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.catalog.regional_demand import REGIONAL_DEMAND
from features.history import compute
from schemas.catalog.user_events import USER_EVENTS, UserEvent
from tests.features.oracle import naive_windows, same

NOON = datetime(2026, 3, 9, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def event(number: int, at: datetime, kind: str, region: str = "north") -> UserEvent:
    return UserEvent(
        tenant="t", id=str(number), user_id=f"u{number % 7}", region=region, kind=kind, occurred_at=at
    )


def demand(events: list[UserEvent]) -> list[dict[str, Any]]:
    schema = pa.schema(
        [
            (field.name, pa.timestamp("ms", tz="UTC") if field.kind == "time" else pa.string())
            for field in UserEvent.spec().fields
        ]
    )
    rows = [{name: getattr(one, name) for name in schema.names} for one in events]
    found: list[dict[str, Any]] = compute(
        REGIONAL_DEMAND, pa.Table.from_pylist(rows, schema=schema)
    ).to_pylist()
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


@st.composite
def streams(draw: st.DrawFn) -> list[UserEvent]:
    """Two regions, over an hour of three days: today, yesterday, a week ago."""
    days = st.sampled_from([0, 1, 7])
    return [
        event(
            number,
            NOON - timedelta(days=draw(days), seconds=draw(st.integers(0, 4_200))),
            draw(st.sampled_from(["booking", "booking", "search", "cancel", "opened"])),
            draw(st.sampled_from(["north", "south"])),
        )
        for number in range(draw(st.integers(1, 40)))
    ]


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
