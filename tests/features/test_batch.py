"""Rows computed slice by slice are those of one computation over all events, repeats and files included."""

import random
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.clock import from_millis, to_millis
from core.errors import InvalidInput, TooLarge, UnknownName
from features.catalog.regional_demand import REGIONAL_DEMAND
from features.feature_rows import feature_record, row_id
from features.offline import batch
from features.offline.batch import Span, event_slices, feature_rows, register_lookups, window_slices
from features.offline.history import compute
from features.offline.out_of_core import Limits, connected
from features.offline.reach import look_back, reach
from features.offline.recorded_events import RecordedEvents
from features.view import FeatureView, Rolling, Tumbling
from schemas.keys import entity_of
from tests.features.oracle import same
from tests.features.rides import FILTERS, SHAPES, Driver, Ride, drivers, rides, table, view

ENTITIES = ("city", ("city", "zone"), ("zone", "driver_of.level"))
MINUTE = timedelta(minutes=1)


def sliced(of: FeatureView, parts: list[pa.Table], known: list[Driver], span: Span) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    with connected(Limits(), where="test") as connection:
        register_lookups(connection, of, {"driver_of": table(Driver, known)})
        rolling = isinstance(of.window, Rolling)
        carried = of.source.spec().names if rolling else ()
        events = RecordedEvents(connection, of, parts, carried=carried)
        for query in (event_slices if rolling else window_slices)(connection, of, events, span):
            found += connection.sql(query).to_arrow_table().to_pylist()
    return found


@pytest.mark.parametrize("shape", SHAPES, ids=repr)
@settings(deadline=None, max_examples=20)
@given(rides(most=40), drivers(), st.sampled_from(FILTERS), st.sampled_from(ENTITIES), st.randoms())
def test_the_windows_of_a_stretch_of_time_are_those_of_all_events(
    shape: Any, happened: list[Ride], known: list[Driver], where: Any, entity: Any, dice: random.Random
) -> None:
    of = view(shape, where=where, entity=entity)
    whole = compute(of, table(Ride, happened), lookups={"driver_of": table(Driver, known)}).to_pylist()
    times = [to_millis(one.at) for one in happened]
    begin = dice.randint(min(times) - 40_000, max(times) + 40_000)
    span = Span(from_millis(begin), from_millis(begin + dice.randint(1, 90_000)))
    wanted = [row for row in whole if span.begin < row["window_end"] <= span.end]
    cut = dice.randint(0, len(happened))
    again = dice.choices(happened, k=3)  # a repeat has a later place, in the same table or in another one
    parts = [table(Ride, happened[:cut]), table(Ride, [*happened[cut:], *again])]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch, "SLICE", timedelta(milliseconds=dice.choice([3_000, 10_000, 47_001])))
        found = sliced(of, parts, known, span)
    keys = ("tenant", *of.entity_fields, "window_end")
    found = sorted(found, key=lambda row: tuple(row[key] for key in keys))
    assert len(found) == len(wanted)
    for row, right in zip(found, wanted, strict=True):
        row |= {name: from_millis(row[name]) for name in ("window_start", "window_end")}
        same(row, right)


@settings(deadline=None, max_examples=25)
@given(rides(most=40), drivers(), st.sampled_from(FILTERS), st.randoms())
def test_the_events_of_a_stretch_of_time_have_the_features_of_all_events(
    happened: list[Ride], known: list[Driver], where: Any, dice: random.Random
) -> None:
    of = view(Rolling(), where=where)
    all_of = table(Ride, happened)
    whole = compute(of, all_of, lookups={"driver_of": table(Driver, known)}).to_pylist()
    begin = to_millis(dice.choice(happened).at) - dice.randint(0, 10_000)
    span = Span(from_millis(begin), from_millis(begin + dice.randint(1, 60_000)))
    wanted = {
        (one.tenant, one.id): values
        for one, values in zip(happened, whole, strict=True)
        if span.begin <= one.at < span.end
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch, "SLICE", timedelta(seconds=3))
        found = sliced(of, [all_of, table(Ride, happened[:3])], known, span)
    assert len(found) == len(wanted)
    for row in found:
        right = wanted[row["tenant"], row["id"]]
        same({name: row[name] for name in right}, right)


def test_of_repeats_the_first_to_arrive_counts_whatever_its_time() -> None:
    one = Ride(tenant="t", id="1", city="a", zone="", at=from_millis(5_000), fare=1)
    other = Ride(tenant="t", id="1", city="a", zone="", at=from_millis(65_000), fare=2)
    of = view(Tumbling(MINUTE))
    span = Span(from_millis(0), from_millis(200_000))
    for order in ([one, other], [other, one]):
        (row,) = sliced(of, [table(Ride, order[:1]), table(Ride, order[1:])], [], span)
        assert row["fare_sum"] == order[0].fare
        places = {
            "kafka_partition": pa.array([0, 0], pa.int32()),
            "kafka_offset": pa.array([6, 5], pa.int64()),
        }
        recorded = table(Ride, order)
        for name, values in places.items():
            recorded = recorded.append_column(name, values)
        (row,) = sliced(of, [recorded], [], span)
        assert row["fare_sum"] == order[1].fare


def test_reach_is_what_a_change_of_one_window_changes() -> None:
    assert reach(REGIONAL_DEMAND) == (
        (timedelta(0), timedelta(minutes=59)),
        (timedelta(days=1), timedelta(days=1)),
        (timedelta(days=7), timedelta(days=7)),
    )
    for shape in SHAPES:
        of = view(shape)
        every = of.window.every  # type: ignore[union-attr]
        ends = [every * n for n in range(40)]
        spread = [
            Ride(
                tenant="t",
                id=str(n),
                city="a",
                zone="",
                at=from_millis(0) + end,
                fare=1,
                tip=0.5,
                kind="search",
            )
            for n, end in enumerate(ends)
        ]
        more = Ride(tenant="t", id="more", city="a", zone="", at=from_millis(0), fare=1_000, tip=7.5)
        known: dict[str, pa.Table] = {"driver_of": table(Driver, [])}
        before = compute(of, table(Ride, spread), lookups=known).to_pylist()
        after = compute(of, table(Ride, [*spread, more]), lookups=known).to_pylist()
        changed = {row["window_end"] for row, old in zip(after, before, strict=True) if row != old}
        own = {row["window_end"] for row in compute(of, table(Ride, [more]), lookups=known).to_pylist()}
        reached = {
            end + back
            for end in own
            for nearest, farthest in reach(of)
            for back in [nearest + every * n for n in range((farthest - nearest) // every + 1)]
        }
        assert changed <= reached
        assert max(changed) == max(own) + look_back(of)


@settings(deadline=None, max_examples=20)
@given(rides(), drivers(), st.sampled_from(SHAPES), st.sampled_from(ENTITIES))
def test_a_row_is_the_record_that_the_stream_would_send(
    happened: list[Ride], known: list[Driver], shape: Any, entity: Any
) -> None:
    of = view(shape, entity=entity)
    record = feature_record(of)
    wanted = compute(of, table(Ride, happened), lookups={"driver_of": table(Driver, known)}).to_pylist()
    with connected(Limits(), where="test") as connection:
        register_lookups(connection, of, {"driver_of": table(Driver, known)})
        events = RecordedEvents(connection, of, [table(Ride, happened)])
        found = []
        for query in window_slices(
            connection, of, events, Span(from_millis(-(10**6)), from_millis(2 * 10**12))
        ):
            rows = connection.sql(feature_rows(of, query, "3")).to_arrow_table()
            assert tuple(rows.column_names) == record.spec().names
            found += rows.to_pylist()
    values = {(row["tenant"], row["id"]): row for row in found}
    assert len(values) == len(wanted)
    for right in wanted:
        name = entity_of([right[part] for part in of.entity_fields])
        row = values[right["tenant"], row_id(name, right["window_end"], 3)]
        assert (row["entity"], row["sequence"]) == (name, 3)
        same({key: row[key.replace(".", "_")] for key in right}, right)


def many(folder: Path, number: int) -> list[Path]:
    """Files of a week of rides of some hundred cities, a file a day."""
    dice = random.Random(7)
    paths = []
    for day in range(7):
        happened = [
            Ride(
                tenant="t", id=f"{day}-{n}", city=str(dice.randrange(300)), zone="",
                at=from_millis(day * 86_400_000 + dice.randrange(86_400_000)), fare=dice.randrange(100),
            )
            for n in range(number // 7)
        ]  # fmt: skip
        paths.append(folder / f"{day}.parquet")
        pq.write_table(table(Ride, happened), paths[-1])
    return paths


def test_little_memory_is_enough_and_too_little_is_said(tmp_path: Path) -> None:
    paths = many(tmp_path, 70_000)
    of = view(Tumbling(MINUTE))
    span = Span(from_millis(0), from_millis(8 * 86_400_000))
    with connected(Limits(memory="150MB", folder=tmp_path, threads=1), where="test") as connection:
        register_lookups(connection, of, {"driver_of": table(Driver, [])})
        events = RecordedEvents(connection, of, [str(tmp_path / "*.parquet")])
        counted = sum(
            connection.sql(f"SELECT coalesce(sum(count), 0) FROM ({query})").fetchall()[0][0]
            for query in window_slices(connection, of, events, span)
        )
    assert counted == sum(pq.read_metadata(path).num_rows for path in paths)
    with pytest.raises(TooLarge), connected(Limits(memory="3MB", threads=1), where="test") as connection:
        connection.execute("SELECT count(DISTINCT i) FROM range(10000000) t(i)").fetchall()


def test_what_cannot_be_read_is_said() -> None:
    of = view(Tumbling(MINUTE))
    with connected(Limits(), where="test") as connection:
        with pytest.raises(UnknownName, match="fare"):
            RecordedEvents(connection, of, [table(Ride, []).drop_columns(["fare"])])
        wrong = table(Ride, []).set_column(3, "at", table(Ride, []).column("id"))
        with pytest.raises(InvalidInput, match="timestamp"):
            RecordedEvents(connection, of, [wrong])
    with pytest.raises(InvalidInput, match="stretch"):
        Span(from_millis(5), from_millis(5))
