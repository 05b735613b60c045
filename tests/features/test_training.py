"""Training sets are those of a naive oracle that scans all feature rows for each entity row."""

import random
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.clock import to_millis
from features.offline.history import compute
from features.offline.training import FeatureRows, training_set, write_training_set
from tests.features.rides import Ride, ride, table
from tests.features.training_rows import (
    ACTIVITY,
    ALL,
    DEMAND,
    ENTITIES,
    TYPES,
    Row,
    asked,
    at,
    entities,
    event,
    only,
    oracle,
    rows_of,
    window,
)

HALF_SECONDS = st.integers(-40, 160).map(lambda half: half / 2)
NEARLY = st.sampled_from([0, 0, 0, -0.001, 0.001])
KEYS = {"tenant": st.sampled_from(["t", "t|"]), "city": st.sampled_from(["a", "b'|%"])}
ZONES = st.sampled_from(["", "z"])
NUMBERS = st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1))


@st.composite
def windows(draw: st.DrawFn) -> list[Row]:
    """Of some windows corrections, in any order; sequences may be absent, at most once per window."""
    found = draw(
        st.lists(
            st.tuples(KEYS["tenant"], KEYS["city"], ZONES, st.integers(-2, 8), NUMBERS),
            max_size=30,
            unique=True,
        )
    )
    return [
        window(
            10 * end,
            tenant=tenant,
            city=city,
            zone=zone,
            sequence=sequence,
            rides=draw(st.integers(0, 2**62)),
            fares=draw(NUMBERS),
            tips=draw(st.one_of(st.none(), st.integers(0, 8).map(float))),
            last_kind=draw(st.sampled_from([None, "booking", "ü'\"|%"])),
            was_shared=draw(st.sampled_from([None, True, False])),
            doubled=draw(NUMBERS),
        )
        for tenant, city, zone, end, sequence in found
    ]


@st.composite
def events(draw: st.DrawFn) -> list[Row]:
    """Repeats agree; late rows have no features, and may be at the time of one that is not late."""
    found = draw(st.dictionaries(st.tuples(KEYS["tenant"], KEYS["city"], HALF_SECONDS), NUMBERS, max_size=30))
    out = []
    for number, ((tenant, city, seconds), fares) in enumerate(found.items()):
        keys: Row = {"tenant": tenant, "city": city}
        one = event(seconds, **keys, rides=number, fares=fares, highest=number + 1, each=number / 4)
        late = event(seconds, **keys, rides=None, fares=None, late=True)
        out += draw(st.sampled_from([[one], [one | {"late": False}, one], [late], [late, one]]))
    return draw(st.permutations(out))


@st.composite
def questions(draw: st.DrawFn) -> list[Row]:
    rows = [
        asked(
            draw(HALF_SECONDS) + draw(NEARLY),
            tenant=draw(KEYS["tenant"]),
            city=draw(KEYS["city"]),
            zone=draw(ZONES),
            label=draw(st.one_of(st.none(), st.integers(0, 1))),
        )
        for _ in range(draw(st.integers(1, 20)))
    ]
    return rows + draw(st.lists(st.sampled_from(rows), max_size=5))


@settings(deadline=None, max_examples=60)
@given(questions(), windows(), events())
def test_every_value_is_the_oracle_s(rows: list[Row], ended: list[Row], seen: list[Row]) -> None:
    sources = [rows_of(DEMAND, ended), rows_of(ACTIVITY, seen)]
    found = training_set(entities(rows), ALL, sources, times=True)
    assert found.to_pylist() == oracle(rows, [(DEMAND, ended), (ACTIVITY, seen)])


def test_many_rows_of_many_entities_are_the_oracle_s(tmp_path: Path) -> None:
    chance = random.Random(7)

    def keys() -> Row:
        return {"tenant": chance.choice("tu"), "city": str(chance.randrange(12))}

    rows = [asked(chance.randrange(400_000) / 1000, **keys()) for _ in range(600)]
    ended = [
        window(10 * chance.randrange(40), **keys(), rides=n, fares=n, sequence=n, doubled=n)
        for n in range(900)
    ]
    seen = list({(e["tenant"], e["city"], e["at"]): e for e in _seen(chance, keys)}.values())
    wanted = oracle(rows, [(DEMAND, ended), (ACTIVITY, seen)])
    sources = [rows_of(DEMAND, ended), rows_of(ACTIVITY, seen)]
    assert training_set(entities(rows), ALL, sources, times=True).to_pylist() == wanted
    assert sum(row["demand__time"] is None for row in wanted) > 20
    assert sum(row["demand__time"] is not None for row in wanted) > 200

    questions, to = tmp_path / "asked.parquet", tmp_path / "out.parquet"
    pq.write_table(entities(rows), questions, row_group_size=100)
    files = [FeatureRows(s.view, _parted(s, tmp_path / s.view.name)) for s in sources]
    assert write_training_set(questions, ALL, files, to=to, times=True) == len(rows)
    assert pq.read_table(to).to_pylist() == wanted
    assert training_set(str(questions), ALL, files, times=True).to_pylist() == wanted
    assert {path.name for path in tmp_path.iterdir()} == {
        "asked.parquet",
        "out.parquet",
        "demand",
        "activity",
    }


def _seen(chance: random.Random, keys: Callable[[], Row]) -> list[Row]:
    return [
        event(chance.randrange(400_000) / 1000, **keys(), rides=n, fares=-n, each=n / 8) for n in range(900)
    ]


def _parted(source: FeatureRows, folder: Path) -> Path:
    rows = source.rows
    assert isinstance(rows, pa.Table)
    for part, begin in enumerate(range(0, rows.num_rows, 250)):
        (folder / str(part)).mkdir(parents=True)
        pq.write_table(rows.slice(begin, 250), folder / str(part) / "rows.parquet")
    return folder


@pytest.mark.parametrize(("seconds", "rides"), [(11.999, 0), (12, 7), (12.001, 7), (40, 7), (40.001, 0)])
def test_a_window_counts_from_its_disorder_bound_to_its_time_to_live(seconds: float, rides: int) -> None:
    assert only(asked(seconds), DEMAND, [window(10)], "rides") == [rides]


def test_each_feature_of_a_row_has_its_own_time_to_live() -> None:
    known = [window(10, tips=3.0, last_kind="booking", fares=4)]
    assert only(asked(15), DEMAND, known, "last_kind", "tips", "fares") == ["booking", 3.0, 4]
    assert only(asked(15.001), DEMAND, known, "last_kind", "tips", "fares") == ["none'|", 3.0, 4]
    assert only(asked(25.001), DEMAND, known, "last_kind", "tips", "fares") == ["none'|", -1.0, 4]
    assert only(asked(40.001), DEMAND, known, "last_kind", "tips", "fares") == ["none'|", -1.0, None]


@pytest.mark.parametrize(
    ("seconds", "rides", "fares", "highest"),
    [(9.999, 0, 0, None), (10, 7, 70, 9), (20, 7, 70, 9), (20.001, 0, 70, 9), (30, 0, 70, 9),
     (30.001, 0, 70, None), (50, 0, 70, None), (50.001, 0, 0, None)],
)  # fmt: skip
def test_an_event_counts_from_its_time_until_it_leaves_the_window(
    seconds: float, rides: int, fares: int, highest: int | None
) -> None:
    known = [event(10, highest=9)]
    assert only(asked(seconds), ACTIVITY, known, "rides", "fares", "highest") == [rides, fares, highest]


def test_a_late_row_is_no_history_and_hides_none() -> None:
    known = [event(10), event(11, rides=None, fares=None, late=True)]
    assert only(asked(12), ACTIVITY, known, "rides") == [7]
    assert only(asked(12), ACTIVITY, known[1:], "rides") == [0]


def test_the_highest_sequence_of_a_window_counts_and_no_window_before_it() -> None:
    known = [
        window(10, rides=1, sequence=2**63 - 1),
        window(20, rides=2, sequence=5),
        window(20, rides=3, sequence=6),
        window(20, rides=4, sequence=-(2**63)),
        window(20, rides=5, sequence=None),
    ]
    for order in (known, known[::-1]):
        assert only(asked(22), DEMAND, order, "rides") == [3]
        assert only(asked(21.999), DEMAND, order, "rides") == [1]


def test_a_window_without_a_sequence_counts_least() -> None:
    for sequence in (-(2**63), -1, 0):
        known = [window(10, rides=1, sequence=sequence), window(10, rides=2, sequence=None)]
        for order in (known, known[::-1]):
            assert only(asked(12), DEMAND, order, "rides") == [1]
    assert only(asked(12), DEMAND, known[1:], "rides") == [2]


def test_an_expired_value_does_not_bring_back_an_older_one() -> None:
    known = [window(10, last_kind="booking"), window(20, last_kind=None)]
    assert only(asked(23), DEMAND, known, "last_kind") == ["none'|"]


def test_times_to_the_microsecond_count() -> None:
    rows = entities([asked(12)])
    early = rows.set_column(
        2, "event_time", pa.array([at(12) - timedelta(microseconds=1)], pa.timestamp("us", tz="UTC"))
    )
    source = [rows_of(DEMAND, [window(10)])]
    assert training_set(rows, ["demand.rides"], source).column("demand__rides").to_pylist() == [7]
    assert training_set(early, ["demand.rides"], source).column("demand__rides").to_pylist() == [0]


@pytest.mark.parametrize("border", [at(12), at(-70)])
def test_nanoseconds_are_not_rounded_into_the_future(border: datetime) -> None:
    whole = 1_000_000 * to_millis(border)
    times = pa.array([whole - 1, whole, whole + 999], pa.timestamp("ns", tz="UTC"))
    rows = entities([asked(0)] * 3).set_column(2, "event_time", times)
    source = [rows_of(DEMAND, [window(0) | {"window_end": border - DEMAND.disorder}])]
    found = training_set(rows, ["demand.rides"], source)
    assert found.column("demand__rides").to_pylist() == [0, 7, 7]
    assert found.column("event_time").equals(rows.column("event_time"))


@pytest.mark.parametrize(("seconds", "used"), [(39.999, at(10)), (40, at(10)), (40.001, None)])
def test_the_time_used_is_told_while_one_value_is_good(seconds: float, used: datetime | None) -> None:
    rows = entities([asked(seconds)])
    source = [rows_of(DEMAND, [window(10)])]
    for names in (["demand.rides"], ["demand.last_kind", "demand.rides"]):
        assert training_set(rows, names, source, times=True).column("demand__time").to_pylist() == [used]


def test_rows_without_history_say_so() -> None:
    rows = entities([asked(12, city="nowhere"), asked(12), asked(12, tenant="other")])
    source = [rows_of(DEMAND, [window(10)])]
    found = training_set(rows, ["demand.rides", "demand.fares"], source, times=True)
    assert found.column("demand__rides").to_pylist() == [0, 7, 0]
    assert found.column("demand__fares").to_pylist() == [None, None, None]
    assert found.column("demand__time").to_pylist() == [None, at(10), None]
    assert training_set(rows, ["demand.rides"], source).column_names == [*rows.column_names, "demand__rides"]


def test_entity_columns_come_back_as_they_are() -> None:
    rows = entities([asked(12), asked(3)]).append_column("code", pa.array(["x", "y"]).dictionary_encode())
    rows = rows.set_column(3, "city", rows.column("city").dictionary_encode())
    rows = rows.append_column("half", pa.array(np.array([1.5, 2.5], np.float16)))
    found = training_set(rows, ["demand.rides"], [rows_of(DEMAND, [window(10)])])
    assert found.select(rows.column_names).equals(rows)
    assert found.column("demand__rides").to_pylist() == [7, 0]


@pytest.mark.parametrize("asked_for", [0, 1])
def test_empty_tables_are_answered(asked_for: int) -> None:
    rows, sources = entities([asked(12)] * asked_for), [rows_of(DEMAND, []), rows_of(ACTIVITY, [])]
    found = training_set(rows, ALL, sources, times=True)
    assert found.num_rows == asked_for
    assert found.to_pylist() == oracle(rows.to_pylist(), [(DEMAND, []), (ACTIVITY, [])])
    for column in found.column_names[len(ENTITIES) : -2]:
        view, name = {"demand": DEMAND, "activity": ACTIVITY}[column.split("__")[0]], column.split("__")[1]
        assert found.schema.field(column).type == TYPES[view.kind(view.feature(name))]


def test_the_labels_of_events_find_the_features_that_history_computes() -> None:
    """Entity rows that are the events themselves: of a rolling view each finds its own row's features."""
    made = [ride(str(n), n * 3, city="ab"[n % 2], fare=n, tip=n / 4) for n in range(40)]
    known = table(Ride, made)
    values = compute(ACTIVITY, known)
    enriched = known.select(["tenant", "city", "at"])
    for name in ACTIVITY.feature_names:
        enriched = enriched.append_column(name, values.column(name))
    ended = compute(DEMAND, known)
    names = [f"activity.{name}" for name in ACTIVITY.feature_names] + ["demand.rides", "demand.tips"]
    sources = [FeatureRows(DEMAND, ended), FeatureRows(ACTIVITY, enriched)]
    found = training_set(known, names, sources, time="at")
    for name in ACTIVITY.feature_names:
        assert found.column(f"activity__{name}").to_pylist() == values.column(name).to_pylist()
    wanted = oracle(
        [row | {"event_time": row["at"]} for row in known.to_pylist()], [(DEMAND, ended.to_pylist())]
    )
    assert found.column("demand__rides").to_pylist() == [row["demand__rides"] for row in wanted]
    assert pc.max(found.column("demand__rides")).as_py() > 0
