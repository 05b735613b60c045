"""Corrections of random streams: afterwards the newest rows are DuckDB's over all events, late ones too."""

import random
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.clock import from_millis, to_millis
from core.errors import DeclarationError, InvalidInput
from features.feature_rows import feature_record, field_name, row_id
from features.offline import batch
from features.offline.batch import register_lookups
from features.offline.corrections import Corrections
from features.offline.history import compute
from features.offline.out_of_core import Limits, connected
from features.offline.tabular import Tabular
from features.view import Count, Feature, FeatureView, Rolling, Sum, Tumbling, ago, moving_average
from schemas.codec import arrow_schema
from schemas.keys import entity_of
from tests.features.oracle import same
from tests.features.rides import SECOND, SHAPES, Driver, Ride, drivers, ride, rides, table, view

ENTITIES = ("city", ("city", "zone"), ("zone", "driver_of.level"))
Rows = list[dict[str, Any]]


def windows(of: FeatureView, events: list[Ride], known: list[Driver]) -> Rows:
    found: pa.Table = compute(of, table(Ride, events), lookups={"driver_of": table(Driver, known)})
    return found.to_pylist()


def records(of: FeatureView, rows: Rows, sequence: int = 0) -> pa.Table:
    """Rows of windows as they lie on the features topic."""
    out = []
    for row in rows:
        entity = entity_of([row[name] for name in of.entity_fields])
        own = {"id": row_id(entity, row["window_end"], sequence), "entity": entity, "sequence": sequence}
        out.append({field_name(name): value for name, value in row.items()} | own)
    return pa.Table.from_pylist(out, schema=arrow_schema(feature_record(of).spec()))


def placed(events: list[Ride]) -> pa.Table:
    """Late events with where they lie on their topic."""
    offsets = pa.array(range(len(events)), pa.int64())
    partitions = pa.array([0] * len(events), pa.int32())
    found = table(Ride, events)
    return found.append_column("kafka_partition", partitions).append_column("kafka_offset", offsets)


def corrected(
    of: FeatureView, late: list[Ride], known: list[Tabular], events: list[Ride], drivers: list[Driver]
) -> tuple[pa.Table | None, dict[int, int]]:
    """The rows to send, and the first late event that waits."""
    with connected(Limits(), where="test") as connection:
        register_lookups(connection, of, {"driver_of": table(Driver, drivers)})
        work = Corrections(connection, of, [placed(late)], known)
        due = work.due()
        rows = connection.sql(work.rows(due, [table(Ride, events)])).to_arrow_table() if due.changed else None
        return rows, dict(due.waiting)


def newest(of: FeatureView, parts: list[pa.Table]) -> dict[tuple[str, str], dict[str, Any]]:
    """By (tenant, id of sequence 0), the row of the highest sequence."""
    out: dict[tuple[str, str], dict[str, Any]] = {}
    for row in (row for part in parts for row in part.to_pylist()):
        key = (row["tenant"], row_id(row["entity"], row["window_end"], 0))
        if key not in out or out[key]["sequence"] < row["sequence"]:
            out[key] = row
    return out


@pytest.mark.parametrize("shape", SHAPES, ids=repr)
@settings(deadline=None, max_examples=10)
@given(rides(most=30), drivers(), st.sampled_from(ENTITIES), st.randoms())
def test_the_newest_rows_are_those_of_all_events(
    shape: Any, happened: list[Ride], drivers: list[Driver], entity: Any, dice: random.Random
) -> None:
    of = view(shape, entity=entity)
    happened = sorted(happened, key=lambda one: (one.at, one.id))
    late = [one for one in happened if dice.random() < 0.3]
    in_time = [one for one in happened if one not in late]
    # The stream has come so far in time: later rows are not there yet, nor are later events recorded.
    clock = to_millis(dice.choice(happened).at) + dice.choice([-20_000, 0, 20_000, 10**7])
    recorded = [one for one in happened if one in late or to_millis(one.at) < clock]
    stream = [row for row in windows(of, in_time, drivers) if to_millis(row["window_end"]) <= clock]
    parts = [records(of, stream)]
    whole = {
        (row["tenant"], row_id(entity_of([row[n] for n in of.entity_fields]), row["window_end"], 0)): row
        for row in windows(of, happened, drivers)
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch, "SLICE", timedelta(milliseconds=dice.choice([3_000, 47_001])))
        rows, waiting = corrected(of, late, list(parts), recorded, drivers)
        parts += [] if rows is None else [rows]
        again, _ = corrected(of, late, list(parts), recorded, drivers)
    assert again is None or again.num_rows == 0, "a second run sends nothing"

    closed = max((row["window_end"] for row in stream), default=from_millis(0) - timedelta(days=9_999))
    found = newest(of, parts)
    assert found.keys() <= whole.keys()
    for key, right in whole.items():
        if right["window_end"] < closed:
            row = found[key]
            same({name: row[field_name(name)] for name in right}, right)
    for part in parts[1:]:
        for row in part.to_pylist():
            known = row_id(row["entity"], row["window_end"], 0) in stream_ids(parts[0], row["tenant"])
            assert (row["sequence"], row["window_end"] < closed) == (1, True), known
            assert row["id"] == row_id(row["entity"], row["window_end"], row["sequence"])
    done = waiting.get(0, len(late))
    for one in late[:done]:
        changed = [row["window_end"] for row in windows(of, [one], drivers)]
        assert all(end < closed for end in changed)


def stream_ids(rows: pa.Table, tenant: str) -> set[str]:
    return {row["id"] for row in rows.to_pylist() if row["tenant"] == tenant}


COUNTED = FeatureView(
    name="counted",
    version=1,
    source=Ride,
    entity="city",
    disorder=SECOND,
    window=Tumbling(10 * SECOND),
    features=(Feature("count", Count(), unit="rides"), Feature("tips", Sum("tip"), unit="x", empty=0.0)),
    ttl=timedelta(minutes=1),
)


def test_windows_that_look_back_at_a_late_event_are_corrected() -> None:
    every = 10 * SECOND
    features = (
        Feature("count", Count(), unit="rides", empty=0),
        Feature("before", ago("count", 3 * every), unit="rides", empty=0),
        Feature("long_before", ago("before", 2 * every), unit="rides", empty=0),
        Feature("average", moving_average("before", 2 * every), unit="rides", empty=0),
    )
    of = replace(COUNTED, features=features)
    in_time = [ride(str(n), 10 * n + 1) for n in range(12)]
    late = ride("late", 15)  # in the window that ends at 20
    stream = records(of, windows(of, in_time, []))
    rows, waiting = corrected(of, [late], [stream], [*in_time, late], [])
    assert rows is not None
    ends = sorted(int(row["window_end"].timestamp()) for row in rows.to_pylist())
    assert ends == [20, 50, 60, 70]
    assert waiting == {}


def test_sequences_count_up_and_only_what_differs_is_sent() -> None:
    in_time = [ride("1", 1, tip=0.1), ride("2", 2, tip=0.2), ride("3", 25)]
    stream = records(COUNTED, windows(COUNTED, in_time, []))
    first = ride("late", 5, tip=0.3)
    once, _ = corrected(COUNTED, [first], [stream], [*in_time, first], [])
    assert once is not None
    assert [(row["id"], row["sequence"], row["count"]) for row in once.to_pylist()] == [
        ("a|1970-01-01 00:00:10.000|1", 1, 3)
    ]
    second = ride("later", 6)
    twice, _ = corrected(COUNTED, [first, second], [stream, once], [*in_time, first, second], [])
    assert twice is not None
    assert [(row["sequence"], row["count"]) for row in twice.to_pylist()] == [(2, 4)]
    rounded = records(COUNTED, [row | {"tips": row["tips"] * (1 + 1e-12)} for row in twice.to_pylist()], 3)
    none, _ = corrected(
        COUNTED, [first], [stream, rounded.select(stream.column_names)], [*in_time, first, second], []
    )
    assert none is not None
    assert none.num_rows == 0, "a difference within the tolerance is none"


def test_a_window_of_late_events_only_gets_its_first_row() -> None:
    in_time = [ride("1", 1), ride("2", 45)]
    late = ride("late", 15)
    rows, waiting = corrected(
        COUNTED, [late], [records(COUNTED, windows(COUNTED, in_time, []))], [*in_time, late], []
    )
    assert rows is not None
    assert [(row["sequence"], row["count"]) for row in rows.to_pylist()] == [(1, 1)]
    assert waiting == {}


def test_a_window_that_may_still_be_open_waits() -> None:
    in_time = [ride("1", 1), ride("2", 15)]
    late = [ride("a", 5), ride("b", 14), ride("c", 6)]
    for closed, wanted, first in ((0, None, 0), (1, None, 0), (2, 1, 1)):
        known = records(COUNTED, windows(COUNTED, in_time, [])[:closed])
        rows, waiting = corrected(COUNTED, late, [known], [*in_time, *late], [])
        assert (None if rows is None else rows.num_rows, waiting) == (wanted, {0: first})


def test_what_cannot_be_corrected_is_said() -> None:
    stream = records(COUNTED, windows(COUNTED, [ride("1", 1), ride("2", 45)], []))
    with pytest.raises(InvalidInput, match="late ones are"):
        corrected(COUNTED, [ride("late", 15)], [stream], [], [])
    with pytest.raises(DeclarationError, match="no windows"):
        corrected(view(Rolling()), [], [], [], [])
