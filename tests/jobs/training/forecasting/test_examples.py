"""Examples equal what a reader of their definition writes, and nothing after an origin is in them."""

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from core.clock import to_millis
from core.errors import InvalidInput
from features.catalog.demand_history import DEMAND_DAYS
from features.offline.history import compute
from jobs.training.forecasting.examples import examples, series_of
from pipelines.training.configuration import Forecast, Horizon
from tests.jobs.training.forecasting.small import BEGIN, bookings, counted

DAYS = 50
FORECAST = Forecast(
    scale="bookings_28d",
    horizons=(Horizon(name="week", steps=7), Horizon(name="later", steps=2, lead=3)),
)


def made(events: pa.Table, *, leak: bool = False) -> pa.Table:
    """The examples of these events. `leak`: as if a window's row could be read a day before it is whole."""
    times = events["occurred_at"]
    rows = compute(DEMAND_DAYS, events)
    bounds = {"first_at": to_millis(times[0].as_py()), "last_at": to_millis(times[-1].as_py())}
    series = series_of(DEMAND_DAYS, rows, "bookings", **bounds)
    if leak:
        earlier = pc.subtract(rows["window_end"], pa.scalar(timedelta(days=1), pa.duration("ms")))
        rows = rows.set_column(rows.schema.get_field_index("window_end"), "window_end", earlier)
    return examples(DEMAND_DAYS, rows, series, FORECAST)


def test_examples_equal_a_naive_oracle() -> None:
    counts = {"north": counted(DAYS, 6, 1), "south": [max(one, 1) for one in counted(DAYS, 2, 2)]}
    counts["south"][40] = 0
    found = made(bookings(counts)).filter(pc.field("series") != "elsewhere").to_pylist()
    expected = 0
    for region, per_day in counts.items():
        for known in range(DAYS + 1):  # days whose window has ended
            for horizon in FORECAST.horizons:
                first, last = known + horizon.lead, known + horizon.lead + horizon.steps
                if known < 28 or last > DAYS:
                    continue
                expected += 1
                at = BEGIN + timedelta(days=known)
                (row,) = (
                    one
                    for one in found
                    if (one["series"], one["horizon"]) == (region, horizon.name)
                    and one["at"] == at + DEMAND_DAYS.disorder
                )
                seen = known  # a day without bookings has no row: the day before is what can be read
                while not per_day[seen - 1]:
                    seen -= 1
                level = sum(per_day[max(seen - 28, 0) : seen]) / 28
                assert row["bookings_28d"] == pytest.approx(level)
                assert row["bookings"] == per_day[seen - 1]
                assert row["share_now"] == pytest.approx(per_day[seen - 1] / level)
                assert row["share_6d_ago"] == pytest.approx(per_day[seen - 7] / level)
                if seen == known:
                    assert row["share_27d_ago"] == pytest.approx(per_day[seen - 28] / level)
                assert row["share_7d"] == pytest.approx(sum(per_day[seen - 7 : seen]) / 7 / level)
                assert row["target"] == sum(per_day[first:last])
                assert row["naive"] == sum(per_day[first - 7 : last - 7])
                begins = BEGIN + timedelta(days=first)
                assert (row["weekday"], row["hour"]) == (begins.weekday(), begins.hour)
                assert row["known_at"] == BEGIN + timedelta(days=last)
                assert (row["lead"], row["steps"]) == (horizon.lead, horizon.steps)
    assert len(found) == expected > 50


def seen_after(leak: bool) -> list[str]:
    """Features of origins up to a day that change when only what happened from that day on does."""
    counts = {"north": counted(DAYS, 6, 1), "south": counted(DAYS, 4, 2)}
    other = {
        name: per_day[:35] + [9 - min(one, 8) for one in per_day[35:]] for name, per_day in counts.items()
    }
    tables = []
    for given in (counts, other):
        rows = made(bookings(given), leak=leak)
        cut = BEGIN + timedelta(days=35) + DEMAND_DAYS.disorder
        early = rows.filter(pc.less_equal(rows["at"], pa.scalar(cut, rows["at"].type)))
        tables.append(early.sort_by([("at", "ascending"), ("series", "ascending"), ("horizon", "ascending")]))
    one, two = tables
    assert one.num_rows == two.num_rows > 20
    return [name for name in DEMAND_DAYS.feature_names if not one[name].equals(two[name])]


def test_nothing_after_the_origin_is_in_the_features() -> None:
    assert seen_after(leak=False) == []


def test_a_planted_leak_is_found() -> None:
    assert "share_now" in seen_after(leak=True)


def test_windows_that_are_not_whole_are_no_values() -> None:
    """The first and the last day of the data are cut: neither counts."""
    events = bookings({"north": [3] * 40}).slice(2, 40 * 3 - 3)  # begins and ends in the middle of a day
    times = events["occurred_at"]
    bounds = {"first_at": to_millis(times[0].as_py()), "last_at": to_millis(times[-1].as_py())}
    (series,) = series_of(DEMAND_DAYS, compute(DEMAND_DAYS, events), "bookings", **bounds)
    assert np.array_equal(series.values, [3.0] * 38)
    assert series.first_end == to_millis(BEGIN + timedelta(days=2))


def test_a_history_that_is_too_short_is_refused() -> None:
    with pytest.raises(InvalidInput, match="no example is left"):
        made(bookings({"north": [3] * 20}))


def test_series_of_several_tenants_keep_apart() -> None:
    both = pa.concat_tables(
        [bookings({"north": [3] * 40}, tenant="a"), bookings({"north": [5] * 40}, tenant="b")]
    ).sort_by("occurred_at")
    found = made(both)
    targets = {row["series"]: row["target"] for row in found.to_pylist() if row["horizon"] == "week"}
    assert (targets["a/north"], targets["b/north"]) == (21.0, 35.0)


def test_the_naive_forecast_does_not_look_at_days_before_a_region_began() -> None:
    """Else it would be too low there, and easy to be better than."""
    counts = {"early": [4] * 110, "late": [0] * 40 + [4] * 70}
    month = Forecast(scale="bookings_28d", horizons=(Horizon(name="month", steps=30),))
    events = bookings(counts)
    rows = compute(DEMAND_DAYS, events)
    times = events["occurred_at"]
    bounds = {"first_at": to_millis(times[0].as_py()), "last_at": to_millis(times[-1].as_py())}
    found = examples(DEMAND_DAYS, rows, series_of(DEMAND_DAYS, rows, "bookings", **bounds), month)
    assert set(found["series"].to_pylist()) == {"early", "late"}
    assert set(found["naive"].to_pylist()) == {120.0}
