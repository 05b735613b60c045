"""The judge of windowed views finds what is planted and nothing else."""

import math
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from core.clock import from_millis
from core.errors import DeclarationError, UnknownName
from features.catalog.regional_demand import REGIONAL_DEMAND
from features.judge.verify_windows import verify_windows
from features.view import FeatureView, Rolling
from tests.features.demand_events import NOON, as_table, event, streams
from tests.features.feature_tables import feature_rows
from tests.features.rides import SECOND, SHAPES, Driver, Ride, drivers, rides, table, view
from tests.features.views import VIEW

FOREVER = from_millis(10**14)
ENTITIES = ("city", ("city", "zone"), ("zone", "driver_of.level"))
Rows = list[dict[str, Any]]


def remade(rows: Rows, like: pa.Table) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=like.schema)


@pytest.mark.parametrize("shape", SHAPES, ids=repr)
@settings(deadline=None, max_examples=10)
@given(rides(), drivers(), st.sampled_from(ENTITIES), st.sets(st.integers(0, 24)), st.booleans())
def test_what_duckdb_says_passes_with_repeats_and_late_events(
    shape: Any, events: list[Ride], known: list[Driver], entity: Any, late: set[int], again: bool
) -> None:
    of, lookups = view(shape, entity=entity), {"driver_of": table(Driver, known)}
    in_time = [one for number, one in enumerate(events) if number not in late]
    behind = [one for number, one in enumerate(events) if number in late]
    streamed = feature_rows(of, table(Ride, in_time), lookups)
    report = verify_windows(
        of,
        table(Ride, [*events, *events[::2]] if again else events),
        pa.concat_tables([streamed, streamed.slice(1, 3)]) if again else streamed,
        late=table(Ride, behind * 2 if again else behind),
        lookups=lookups,
        watermark=FOREVER,
    )
    assert report.ok
    assert (report.checked, report.late, report.still_open) == (streamed.num_rows, len(behind), 0)
    assert all(one.ok and one.checked == streamed.num_rows for one in report.by_feature.values())
    assert {one.largest_difference for one in report.by_feature.values()} == {0.0}
    assert list(report.by_feature) == list(of.feature_names)


def changed(value: Any) -> Any:
    match value:
        case None:
            return None
        case bool():
            return not value
        case int():
            return value + 1
        case float():
            return value * (1 + 1e-6) if value else 1e-3
        case _:
            return value + "'"


OTHER = {"long": 1, "double": 0.5, "string": "else", "boolean": True}


@settings(deadline=None, max_examples=40)
@given(rides(), st.sampled_from(SHAPES), st.data())
def test_one_changed_value_is_found(events: list[Ride], shape: Any, data: st.DataObject) -> None:
    of, lookups = view(shape), {"driver_of": table(Driver, [])}
    streamed = feature_rows(of, table(Ride, events), lookups)
    rows = streamed.to_pylist()
    feature = of.feature(data.draw(st.sampled_from(of.feature_names)))
    row = data.draw(st.integers(0, len(rows) - 1))
    was, other = rows[row][feature.name], OTHER[of.kind(feature)]
    wrong = data.draw(st.sampled_from([changed(was), None if was is not None else other]))
    assume(wrong != was)
    rows[row][feature.name] = wrong
    report = verify_windows(
        of, table(Ride, events), remade(rows, streamed), lookups=lookups, watermark=FOREVER
    )
    assert not report.ok
    assert (report.mismatched, report.missing, report.extra) == (1, 0, 0)
    assert {name for name, wrong in report.per_feature.items() if wrong} == {feature.name}
    found = report.by_feature[feature.name]
    assert (found.checked, found.mismatched) == (len(rows), 1)
    if isinstance(wrong, float) and isinstance(was, float):
        larger = max(abs(wrong), abs(was))
        assert math.isclose(found.largest_difference, abs(wrong - was) / larger, rel_tol=1e-9)


def add_row(rows: Rows) -> Rows:
    return [*rows, rows[0] | {"region": "nowhere", "entity": "nowhere"}]


def move_window(rows: Rows) -> Rows:
    gone = rows[0]["window_end"] + timedelta(days=100)
    return [rows[0] | {"window_end": gone}, *rows[1:]]


EVENTS = [
    event(n, NOON + timedelta(seconds=20 * n), "booking", "north" if n % 2 else "south") for n in range(60)
]


@pytest.mark.parametrize(
    ("plant", "missing", "extra"),
    [
        (lambda rows: rows[:5] + rows[6:], 1, 0),
        (lambda rows: [], 40, 0),
        (add_row, 0, 1),
        (move_window, 1, 1),
        (lambda rows: [rows[0] | {"tenant": "u"}, *rows[1:]], 1, 1),
        (lambda rows: [rows[0] | {"entity": "north|"}, *rows[1:]], 0, 1),
        (lambda rows: [rows[0] | {"window_start": NOON}, *rows[1:]], 0, 1),
        (lambda rows: [rows[0] | {"region": None}, *rows[1:]], 1, 1),
    ],
)
def test_rows_that_are_lost_or_from_nowhere_are_found(
    plant: Callable[[Rows], Rows], missing: int, extra: int
) -> None:
    events = as_table(EVENTS)
    streamed = feature_rows(REGIONAL_DEMAND, events)
    rows = streamed.to_pylist()[::-1]
    report = verify_windows(REGIONAL_DEMAND, events, remade(plant(rows), streamed), watermark=FOREVER)
    assert (report.missing, report.extra, report.mismatched) == (missing, extra, 0)
    assert not report.ok
    assert {(one.missing, one.extra) for one in report.by_feature.values()} == {(missing, extra)}


@pytest.mark.parametrize(
    ("feature", "values"),
    [
        ("bookings", pa.array(["1"] * 40)),
        ("bookings", pa.array([1.0] * 40)),
        ("bookings", pa.array([True] * 40)),
        ("trend", pa.array([0] * 40, pa.int64())),
        ("trend", pa.array([float("nan")] * 40)),
        ("trend", pa.array([None] * 40)),
    ],
)
def test_a_column_of_another_type_is_wrong_in_every_row(feature: str, values: pa.Array) -> None:
    events = as_table(EVENTS)
    streamed = feature_rows(REGIONAL_DEMAND, events)
    planted = streamed.set_column(streamed.schema.get_field_index(feature), feature, values)
    report = verify_windows(REGIONAL_DEMAND, events, planted, watermark=FOREVER)
    assert report.per_feature == dict.fromkeys(REGIONAL_DEMAND.feature_names, 0) | {feature: 40}
    assert report.mismatched == 40


def test_windows_that_were_still_open_are_not_missing_but_compared() -> None:
    events = as_table([*EVENTS, event(99, NOON + timedelta(minutes=21, seconds=0.999), "booking", "north")])
    streamed = feature_rows(REGIONAL_DEMAND, events)
    ends = [row["window_end"] for row in streamed.to_pylist()]
    closed = [row for row in streamed.to_pylist() if row["window_end"] < max(ends) - timedelta(minutes=1)]
    report = verify_windows(REGIONAL_DEMAND, events, remade(closed, streamed))
    # the watermark is a second behind: at 12:20:59.999, so that the windows that end at 12:21 are open too
    assert (report.ok, report.still_open, report.checked) == (True, 1, 40)
    early = verify_windows(REGIONAL_DEMAND, events, remade(closed[:-1], streamed))
    assert (early.missing, early.still_open) == (1, 1)
    rows = streamed.to_pylist()
    (last,) = [row for row in rows if row["window_end"] == max(ends)]
    last["bookings"] += 1
    assert verify_windows(REGIONAL_DEMAND, events, remade(rows, streamed)).per_feature["bookings"] == 1


def test_of_a_window_the_highest_sequence_counts() -> None:
    events = as_table(EVENTS)
    streamed = feature_rows(REGIONAL_DEMAND, events)
    rows = streamed.to_pylist()
    wrong = [row | {"bookings": 77, "sequence": 1} for row in rows]
    right = [row | {"sequence": 2} for row in rows]
    for planted, ok in (([*rows, *wrong], False), ([*wrong, *rows], False), ([*right, *wrong, *rows], True)):
        report = verify_windows(REGIONAL_DEMAND, events, remade(planted, streamed), watermark=FOREVER)
        assert (report.ok, report.checked, report.extra) == (ok, 40, 0)
    first = [row | {"bookings": 77} for row in rows]
    assert verify_windows(REGIONAL_DEMAND, events, remade([*rows, *first], streamed), watermark=FOREVER).ok


def test_a_late_event_that_was_counted_is_found_and_one_from_nowhere_too() -> None:
    events = as_table(EVENTS)
    streamed = feature_rows(REGIONAL_DEMAND, events)
    report = verify_windows(REGIONAL_DEMAND, events, streamed, late=as_table([EVENTS[7]]), watermark=FOREVER)
    assert (report.late, report.ok) == (1, False)
    stranger = as_table([event(1_000, NOON, "booking")])
    report = verify_windows(REGIONAL_DEMAND, events, streamed, late=stranger, watermark=FOREVER)
    assert (report.late, report.extra) == (0, 1)


def test_only_the_asked_span_is_looked_at_with_all_events() -> None:
    events = as_table(EVENTS)
    streamed = feature_rows(REGIONAL_DEMAND, events)
    rows = streamed.to_pylist()
    since, until = NOON + timedelta(minutes=5), NOON + timedelta(minutes=9)
    for row in rows:
        if not since <= row["window_end"] < until:
            row["bookings"] = 99
    report = verify_windows(
        REGIONAL_DEMAND, events, remade(rows, streamed), since=since, until=until, watermark=FOREVER
    )
    assert (report.ok, report.checked) == (True, 8)


@settings(deadline=None, max_examples=15)
@given(streams())
def test_demand_passes_over_days(events: Any) -> None:
    streamed = feature_rows(REGIONAL_DEMAND, as_table(events))
    assert verify_windows(REGIONAL_DEMAND, as_table(events), streamed, watermark=FOREVER).ok


def test_what_cannot_be_verified_is_refused() -> None:
    of: FeatureView = view(Rolling(), over=(10 * SECOND,))
    with pytest.raises(DeclarationError, match="row per event"):
        verify_windows(of, table(Ride, []), table(Ride, []))
    with pytest.raises(DeclarationError, match="row per event"):
        verify_windows(VIEW, table(Ride, []), table(Ride, []))
    events = as_table(EVENTS)
    streamed = feature_rows(REGIONAL_DEMAND, events)
    with pytest.raises(UnknownName, match="sequence"):
        verify_windows(REGIONAL_DEMAND, events, streamed.drop_columns(["sequence"]))
    empty = verify_windows(REGIONAL_DEMAND, events.slice(0, 0), streamed.slice(0, 0))
    assert (empty.ok, empty.checked) == (True, 0)
