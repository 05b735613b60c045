"""Training sets from wherever rows lie, within bounds of memory; and what is refused."""

import random
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake

from core.errors import InvalidInput, TooLarge, UnknownName
from features.offline.training import FeatureRows, Limits, training_set, write_training_set
from tests.features.training_rows import (
    ACTIVITY,
    ALL,
    DEMAND,
    asked,
    entities,
    event,
    only,
    oracle,
    rows_of,
    window,
)


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


def test_a_table_and_the_rest_of_its_topic_are_one_history(tmp_path: Path) -> None:
    """Of a windowed and of a rolling view; a correction may be in either, and need not be marked in both."""
    dice = random.Random(4)
    for _ in range(20):
        windows = [window(10 * dice.randrange(12), rides=n, sequence=n) for n in dice.sample(range(30), 30)]
        events = [
            event(at, rides=at, fares=dice.randrange(99), late=dice.random() < 0.2)
            for at in dice.sample(range(120), 30)
        ]
        cut = dice.randrange(30)
        rows = [asked(dice.uniform(0, 150)) for _ in range(20)]
        sources = []
        for view, known in ((DEMAND, windows), (ACTIVITY, events)):
            table, rest = (rows_of(view, part).rows for part in (known[:cut], known[cut:]))
            assert isinstance(table, pa.Table)
            folder = tmp_path / f"{view.name}-{dice.random()}"
            write_deltalake(folder, table)
            file = tmp_path / f"{folder.name}.parquet"
            pq.write_table(rest, file)
            sources.append(FeatureRows(view, (DeltaTable(folder), file)))
        found = training_set(entities(rows), ALL, sources, times=True)
        assert found.to_pylist() == oracle(rows, [(DEMAND, windows), (ACTIVITY, events)])
    unmarked = rows_of(DEMAND, [window(10)]).rows
    assert isinstance(unmarked, pa.Table)
    parts = (unmarked.drop_columns(["sequence"]), rows_of(DEMAND, [window(10, rides=9)]).rows)
    assert isinstance(parts[1], pa.Table)
    found = training_set(entities([asked(13)]), ["demand.rides"], [FeatureRows(DEMAND, (parts[0], parts[1]))])
    assert found.column("demand__rides").to_pylist() == [9], "any sequence counts more than none"
    refused(InvalidInput, "no feature rows", None, None, FeatureRows(DEMAND, ()))


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


def test_a_source_in_nanoseconds_is_refused() -> None:
    rows = rows_of(DEMAND, [window(10)]).rows
    finer = rows.column("window_end").cast(pa.timestamp("ns", tz="UTC"))
    place = rows.column_names.index("window_end")
    source = FeatureRows(DEMAND, rows.set_column(place, "window_end", finer))
    refused(InvalidInput, "'window_end' is TIMESTAMPTZ_NS", None, None, source)


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
