"""Training sets are those of a naive oracle that scans all feature rows for each entity row."""

import random
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake
from hypothesis import given, settings
from hypothesis import strategies as st

from core.clock import from_millis, to_millis
from core.errors import InvalidInput, TooLarge, UnknownName
from features.history import compute
from features.training import FeatureRows, Limits, training_set, write_training_set
from features.view import (
    Count,
    Feature,
    FeatureView,
    Last,
    Max,
    Mean,
    Rolling,
    Sum,
    Tumbling,
    feature,
)
from tests.features.rides import SECOND, Ride, ride, table

MS = timedelta(milliseconds=1)
TIMES = pa.timestamp("ms", tz="UTC")

DEMAND = FeatureView(
    name="demand",
    version=1,
    source=Ride,
    entity=("city", "zone"),
    disorder=2 * SECOND,
    features=(
        Feature("rides", Count(), unit="rides", empty=0),
        Feature("fares", Sum("fare"), unit="cents"),
        Feature("tips", Mean("tip"), unit="cents", empty=-1, ttl=15 * SECOND),
        Feature("last_kind", Last("kind"), unit="kind", empty="none'|", ttl=5 * SECOND),
        Feature("was_shared", Last("shared"), unit="yes or no", empty=False),
        Feature("doubled", feature("rides") * 2, unit="rides", empty=0),
    ),
    ttl=30 * SECOND,
    window=Tumbling(10 * SECOND),
)
ACTIVITY = FeatureView(
    name="activity",
    version=1,
    source=Ride,
    entity="city",
    disorder=2 * SECOND,
    features=(
        Feature("rides", Count(over=10 * SECOND), unit="rides", empty=0),
        Feature("fares", Sum("fare", over=40 * SECOND), unit="cents", empty=0),
        Feature("highest", Max("fare", over=40 * SECOND), unit="cents", ttl=20 * SECOND),
        Feature("each", feature("fares") / feature("rides"), unit="cents"),
    ),
    ttl=60 * SECOND,
    window=Rolling(),
)
TYPES = {"long": pa.int64(), "double": pa.float64(), "string": pa.string(), "boolean": pa.bool_()}
ALL = [f"{view.name}.{one}" for view in (DEMAND, ACTIVITY) for one in view.feature_names]
Row = dict[str, Any]


def schema(view: FeatureView) -> pa.Schema:
    time, more = (
        ("at", ("late", pa.bool_())) if view is ACTIVITY else ("window_end", ("sequence", pa.int64()))
    )
    features = [(one.name, TYPES[view.kind(one)]) for one in view.features]
    keys = [(name, pa.string()) for name in ("tenant", *view.entity_fields)]
    return pa.schema([*keys, (time, TIMES), *features, more])


def rows_of(view: FeatureView, rows: Sequence[Row]) -> FeatureRows:
    return FeatureRows(view, pa.Table.from_pylist(list(rows), schema=schema(view)))


ENTITIES = pa.schema(
    [
        ("label", pa.int32()), ("zone", pa.string()), ("event_time", TIMES), ("city", pa.string()),
        ("tenant", pa.string()), ("weights", pa.list_(pa.float32())),
    ]
)  # fmt: skip


def entities(rows: Sequence[Row]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=ENTITIES)


def asked(seconds: float, **more: object) -> Row:
    given: Row = {"tenant": "t", "city": "a", "zone": "z", "label": 1, "weights": [0.5]}
    return given | {"event_time": at(seconds)} | more


def at(seconds: float) -> datetime:
    return from_millis(round(1000 * seconds))


def window(end: float, **more: object) -> Row:
    given: Row = {"tenant": "t", "city": "a", "zone": "z", "window_end": at(end), "rides": 7, "sequence": 0}
    return given | more


def event(seconds: float, **more: object) -> Row:
    return {"tenant": "t", "city": "a", "at": at(seconds), "rides": 7, "fares": 70} | more


# ---- the oracle


def oracle(rows: Sequence[Row], sources: Sequence[tuple[FeatureView, Sequence[Row]]]) -> list[Row]:
    out = []
    for row in rows:
        new = dict(row)
        for view, known in sources:
            new |= naive_values(view, row, known)
        for view, known in sources:
            new[f"{view.name}__time"] = naive_time(view, row, known)
        out.append(new)
    return out


def naive_newest(view: FeatureView, row: Row, known: Sequence[Row]) -> tuple[Row | None, timedelta]:
    """The feature row that counts, and its age."""
    best, order = None, None
    for one in known:
        if any(one[key] != row[key] for key in ("tenant", *view.entity_fields)) or one.get("late"):
            continue
        time = one["at"] if view is ACTIVITY else one["window_end"]
        readable = time if view is ACTIVITY else time + view.disorder
        sequence = one.get("sequence")
        this = (time, sequence is not None, sequence or 0)
        if readable <= row["event_time"] and (order is None or this > order):
            best, order = one, this
    return best, row["event_time"] - order[0] if order else timedelta.max


def naive_good(view: FeatureView, one: Feature, age: timedelta) -> bool:
    if view is ACTIVITY:
        limit = {"rides": 10, "fares": 40, "highest": 20, "each": 40}[one.name]
        return age <= limit * SECOND
    return age <= (one.ttl or view.ttl)


def naive_values(view: FeatureView, row: Row, known: Sequence[Row]) -> Row:
    newest, age = naive_newest(view, row, known)
    out = {}
    for one in view.features:
        value = newest.get(one.name) if newest and naive_good(view, one, age) else None
        out[f"{view.name}__{one.name}"] = one.empty if value is None else value
    return out


def naive_time(view: FeatureView, row: Row, known: Sequence[Row]) -> datetime | None:
    newest, age = naive_newest(view, row, known)
    if newest is None or not any(naive_good(view, one, age) for one in view.features):
        return None
    return newest["at"] if view is ACTIVITY else newest["window_end"]


# ---- random streams


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


# ---- borders


def only(row: Row, view: FeatureView, known: Sequence[Row], *names: str) -> list[Any]:
    wanted = [f"{view.name}.{name}" for name in names]
    found = training_set(entities([row]), wanted, [rows_of(view, known)]).to_pylist()[0]
    return [found[f"{view.name}__{name}"] for name in names]


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


# ---- leaks


LABELS = [n % 2 for n in range(40)]


def leaky(delay: timedelta) -> tuple[pa.Table, FeatureRows]:
    """A feature that is the label, readable so much after the row's time; before that it was 5."""
    rows = [asked(10 * n + 2, label=label) for n, label in enumerate(LABELS)]
    known = [window(-20, rides=5)]
    known += [
        window(0) | {"window_end": row["event_time"] + delay - DEMAND.disorder, "rides": row["label"]}
        for row in rows
    ]
    return entities(rows), rows_of(DEMAND, known)


Join = Callable[[pa.Table, FeatureRows], list[Any]]


def ours(rows: pa.Table, source: FeatureRows) -> list[Any]:
    return training_set(rows, ["demand.rides"], [source]).column("demand__rides").to_pylist()


def bare(condition: str) -> Join:
    def join(rows: pa.Table, source: FeatureRows) -> list[Any]:
        with duckdb.connect() as connection:
            connection.register("e", rows)
            connection.register("f", source.rows)
            query = (
                "SELECT e.*, f.rides FROM e ASOF LEFT JOIN f ON e.tenant = f.tenant AND e.city = f.city "
                f"AND e.zone = f.zone AND {condition} ORDER BY e.event_time"
            )
            return connection.sql(query).to_arrow_table().column("rides").to_pylist()

    return join


def assert_no_leak(join: Join) -> None:
    """What can be read a millisecond after a row's time is not in it; what can be at the time is."""
    assert join(*leaky(MS)) == [5, *LABELS[:-1]]
    assert join(*leaky(timedelta())) == LABELS


def test_nothing_that_was_not_readable_comes_in() -> None:
    assert_no_leak(ours)


READABLE = "e.event_time {} f.window_end + INTERVAL 2 SECOND"


def test_the_join_as_documented_does_not_leak() -> None:
    assert_no_leak(bare(READABLE.format(">=")))


@pytest.mark.parametrize(
    "condition",
    [READABLE.format("<="), READABLE.format("<"), READABLE.format(">"), "e.event_time >= f.window_end",
     READABLE.format(">=") + " - INTERVAL 1 MILLISECOND"],
)  # fmt: skip
def test_a_wrong_join_is_found_out(condition: str) -> None:
    with pytest.raises(AssertionError):
        assert_no_leak(bare(condition))


def test_the_time_used_is_never_after_the_row() -> None:
    found = training_set(leaky(MS)[0], ["demand.rides"], [leaky(MS)[1]], times=True).to_pylist()
    assert all(row["demand__time"] + DEMAND.disorder <= row["event_time"] for row in found)


# ---- where rows lie


def test_delta_tables_are_read(tmp_path: Path) -> None:
    """In several commits, partitioned by a column that the files do not have; and one without a file."""
    known = [window(10 * n, rides=n, sequence=0) for n in range(6)] + [window(30, rides=100, sequence=1)]
    folder, none = tmp_path / "delta", tmp_path / "none"
    for part in (known[:4], known[4:]):
        rows = rows_of(DEMAND, part).rows
        day = pa.array([f"2026-0{n % 2}" for n in range(len(part))])
        write_deltalake(folder, rows.append_column("day", day), mode="append", partition_by=["day"])
    write_deltalake(none, rows_of(DEMAND, []).rows)
    rows = [asked(seconds) for seconds in (12, 32, 35, 42.5, 61, 200)]
    for at_path in (folder, str(folder), DeltaTable(folder)):
        found = training_set(entities(rows), ALL[:6], [FeatureRows(DEMAND, at_path)], times=True)
        assert found.to_pylist() == oracle(rows, [(DEMAND, known)])
    found = training_set(entities(rows), ALL[:6], [FeatureRows(DEMAND, none)], times=True)
    assert found.to_pylist() == oracle(rows, [(DEMAND, [])])


def test_two_million_rows_fit_into_200_mb(tmp_path: Path) -> None:
    """Entity rows, feature rows and result are each more than may be held; order and count are kept."""
    number, to = 2_000_000, tmp_path / "out.parquet"
    with duckdb.connect() as connection:
        connection.execute(
            "COPY (SELECT i AS label, 't' AS tenant, 'city_' || (i * 7919 % 5000) AS city, "
            "make_timestamp(1772323200000000 + (i * 104729 % 2000000) * 1000)::TIMESTAMPTZ AS event_time "
            f"FROM range({number}) r(i)) TO '{tmp_path}/asked.parquet'"
        )
        connection.execute(
            "COPY (SELECT 't' AS tenant, 'city_' || (i % 5000) AS city, i AS rides, i AS fares, "
            "i AS highest, make_timestamp(1772323200000000 + i * 1000)::TIMESTAMPTZ AS at "
            f"FROM range({number}) r(i)) TO '{tmp_path}/known.parquet'"
        )
    spilled = tmp_path / "spilled"
    spilled.mkdir()
    rows = write_training_set(
        tmp_path / "asked.parquet",
        ["activity.rides", "activity.fares", "activity.highest"],
        [FeatureRows(ACTIVITY, tmp_path / "known.parquet")],
        to=to,
        limits=Limits("200MB", spilled),
    )
    assert rows == number
    assert list(spilled.iterdir()) == []
    found = pq.read_table(to)
    i = np.arange(number)
    assert np.array_equal(found.column("label").to_numpy(), i)
    # The city's events are those with its number modulo 5000; the newest is at or before the row's time.
    now, city = i * 104729 % 2_000_000, i * 7919 % 5000
    newest = now - (now - city) % 5000
    assert np.array_equal(found.column("activity__rides").to_numpy(), np.where(newest >= 0, newest, 0))
    assert np.array_equal(found.column("activity__fares").to_numpy(), np.where(newest >= 0, newest, 0))
    assert found.column("activity__highest").null_count == int((newest < 0).sum())


# ---- refusals


def refused(error: type[Exception], text: str, rows: Any = None, names: Any = None, *sources: Any) -> None:
    rows = entities([asked(12)]) if rows is None else rows
    with pytest.raises(error, match=text) as raised:
        training_set(rows, names or ["demand.rides"], sources or [rows_of(DEMAND, [window(10)])])
    assert raised.value.where  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("names", "nearest"),
    [(["demant.rides"], "demand"), (["demand.ride"], "rides"), (["demand.rides", "demand.fare"], "fares")],
)
def test_an_unknown_name_is_refused_with_the_nearest(names: list[str], nearest: str) -> None:
    refused(UnknownName, f"did you mean '{nearest}'", None, names)


@pytest.mark.parametrize("names", [["rides"], ["demand.rides", "demand.rides"]])
def test_a_reference_without_a_view_or_twice_is_refused(names: list[str]) -> None:
    refused(InvalidInput, "rides", None, names)


def test_no_features_and_a_view_twice_are_refused() -> None:
    source = rows_of(DEMAND, [])
    with pytest.raises(InvalidInput, match="no feature"):
        training_set(entities([]), [], [source])
    refused(InvalidInput, "'demand' is there twice", None, None, source, source)


@pytest.mark.parametrize("name", ["tenant", "city", "zone", "event_time"])
def test_an_entity_table_without_a_column_or_with_nulls_is_refused(name: str) -> None:
    rows = entities([asked(12), asked(12), asked(12, **{name: None})])
    refused(InvalidInput, f"column '{name}' is null in row 2", rows)
    refused(UnknownName, f"unknown column '{name}'", rows.drop_columns([name]))
    number = rows.set_column(rows.column_names.index(name), name, pa.array([1, 2, 3]))
    refused(InvalidInput, f"column '{name}' is BIGINT", number)


def test_a_time_without_a_zone_is_refused() -> None:
    rows = entities([asked(12)])
    local = rows.column("event_time").cast(pa.timestamp("ms"))
    refused(InvalidInput, "'event_time' is TIMESTAMP", rows.set_column(2, "event_time", local))


def test_a_column_that_would_be_there_twice_is_refused() -> None:
    rows = entities([asked(12)])
    refused(InvalidInput, "'demand__rides'", rows.append_column("demand__rides", pa.array([1])))
    refused(InvalidInput, "'label'", rows.append_column("label", pa.array([1])))


@pytest.mark.parametrize("name", ["tenant", "city", "window_end", "rides"])
def test_a_source_without_a_column_or_of_another_type_is_refused(name: str) -> None:
    rows = rows_of(DEMAND, [window(10)]).rows
    refused(
        UnknownName, f"unknown column '{name}'", None, None, FeatureRows(DEMAND, rows.drop_columns([name]))
    )
    wrong = rows.set_column(rows.column_names.index(name), name, pa.array([1.5]))
    refused(InvalidInput, f"column '{name}' is DOUBLE", None, None, FeatureRows(DEMAND, wrong))


def test_a_feature_that_is_not_wanted_need_not_be_there() -> None:
    rows = rows_of(DEMAND, [window(10)]).rows.drop_columns(["fares", "tips"])
    found = training_set(entities([asked(12)]), ["demand.rides"], [FeatureRows(DEMAND, rows)])
    assert found.column("demand__rides").to_pylist() == [7]


def test_rows_of_a_source_without_keys_or_time_take_no_part() -> None:
    known = [window(10)] + [
        window(10, rides=9, sequence=1) | {key: None} for key in ("tenant", "zone", "window_end")
    ]
    assert only(asked(12), DEMAND, known, "rides") == [7]


@pytest.mark.parametrize("content", [None, "no parquet"])
def test_a_path_without_parquet_is_refused(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "rows.parquet"
    if content:
        path.write_text(content)
    refused(InvalidInput, "cannot be read", None, None, FeatureRows(DEMAND, path))
    refused(InvalidInput, "cannot be read", path)
    refused(InvalidInput, "cannot be read", None, None, FeatureRows(DEMAND, tmp_path / "none" / "*.parquet"))


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    to, many = tmp_path / "out.parquet", entities([asked(n, zone=str(n)) for n in range(20_000)])
    pq.write_table(many, tmp_path / "asked.parquet")
    source = rows_of(DEMAND, [window(10)])
    with pytest.raises(TooLarge):
        write_training_set(tmp_path / "asked.parquet", ALL[:6], [source], to=to, limits=Limits("1MB"))
    assert [path.name for path in tmp_path.iterdir()] == ["asked.parquet"]
