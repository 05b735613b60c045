"""DuckDB's features are those of the naive oracle: ties, edges, nulls, tenants, big numbers."""

from datetime import timedelta

import pyarrow as pa
import pytest
from hypothesis import given, settings

from core.errors import InvalidInput, UnknownName
from features.offline.history import compute, first_per_id
from features.times import millis
from tests.features.oracle import naive, same
from tests.features.views import VIEW, Swipe, swipe, swipes, table


@settings(deadline=None, max_examples=60)
@given(swipes())
def test_every_feature_of_every_event_is_the_oracle_s(events: list[Swipe]) -> None:
    found = compute(VIEW, table(events)).to_pylist()
    assert [row["id"] for row in found] == [event.id for event in events]
    for row, event in zip(found, events, strict=True):
        same({name: row[name] for name in VIEW.feature_names}, naive(VIEW, events, event))


def test_both_edges_of_a_window_are_inside_and_equal_times_count() -> None:
    events = [swipe(0, 0), swipe(1, 10), swipe(2, 10.001), swipe(3, 10.001)]
    rows = compute(VIEW, table(events)).to_pylist()
    assert [row["count_10s"] for row in rows] == [1, 2, 3, 3]


def test_equal_amounts_have_a_deviation_of_exactly_zero() -> None:
    events = [swipe(number, number / 10, cents=999_999_999_999) for number in range(50)]
    assert set(compute(VIEW, table(events)).column("std_60s").to_pylist()) == {0.0}


def test_a_window_without_values_gives_what_the_feature_declares() -> None:
    (row,) = compute(VIEW, table([swipe(0, 0)])).to_pylist()
    assert row["channels_10s"] == 0
    assert row["channel_max_10s"] is None
    assert row["weight_10s"] is None


def test_times_may_be_timestamps_of_any_unit_or_milliseconds() -> None:
    events = table([swipe(0, 0), swipe(1, 9.9999)])
    wanted = compute(VIEW, events)
    at = events.schema.get_field_index("at")
    for kind in (pa.timestamp("us", tz="UTC"), pa.timestamp("ns", tz="UTC"), pa.int64()):
        assert compute(VIEW, events.set_column(at, "at", events.column("at").cast(kind))).equals(wanted)


def test_times_are_rounded_down_before_the_epoch_too() -> None:
    times = pa.chunked_array([pa.array([-1, -1000, -1001, 1999], pa.timestamp("us"))])
    assert millis(times).to_pylist() == [-1, -1, -2, 1]


def test_what_is_missing_is_named() -> None:
    events = table([swipe(0, 0)])
    with pytest.raises(UnknownName, match="cents"):
        compute(VIEW, events.drop_columns(["cents"]))
    nothing = pa.array([None], events.schema.field("at").type)
    with pytest.raises(InvalidInput, match="without at"):
        compute(VIEW, events.set_column(events.schema.get_field_index("at"), "at", nothing))


def test_the_first_row_of_an_id_stays_and_order_is_kept() -> None:
    events = [swipe(2, 0), swipe(1, 1), swipe(2, 2, cents=7), swipe(2, 3, tenant="u"), swipe(0, 4)]
    kept = first_per_id(table(events)).to_pylist()
    assert [(row["tenant"], row["id"], row["cents"]) for row in kept] == [
        ("t", "2", 100), ("t", "1", 100), ("u", "2", 100), ("t", "0", 100)
    ]  # fmt: skip


def test_an_empty_table_gives_an_empty_one() -> None:
    out = compute(VIEW, table([]))
    assert out.num_rows == 0
    assert out.column_names == ["tenant", "id", *VIEW.feature_names]
    assert timedelta(seconds=60) in VIEW.windows
