"""Backfill into a real Delta table: the rows are DuckDB's of all events, each once, whatever happens."""

import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake

from core.clock import ManualClock
from core.errors import DeclarationError, InvalidInput, Unavailable
from features.enriched import enriched_record
from features.feature_rows import features_topic, row_id
from features.offline import batch
from features.offline.batch import Span
from features.offline.history import compute
from features.offline.training import FeatureRows, training_set
from features.view import Cumulating, FeatureView, Hopping, Rolling, Tumbling
from features.windows import Window
from jobs.batch import backfill as job
from jobs.batch.backfill import Backfilled, backfill
from jobs.writer.sinks.offline import OfflineSink
from pipelines.offline import application_id, offline_path, read_offline
from schemas.topic import Topic
from tests.features.oracle import same
from tests.features.rides import SECOND, Driver, Ride, table
from tests.features.rides import view as every_feature

BEGIN = datetime(2026, 1, 5, 22, tzinfo=UTC)
HOURS = timedelta(hours=1)
SPAN = Span(BEGIN, BEGIN + 6 * HOURS)
CLOCK = ManualClock(at=BEGIN + timedelta(days=2))
KNOWN = {"driver_of": table(Driver, [Driver(tenant="t", id="1", since=BEGIN, level="gold", fee=2)])}
SHAPES = (Tumbling(60 * SECOND), Hopping(20 * SECOND, 5 * SECOND), Cumulating(30 * SECOND, 10 * SECOND))


def rides(number: int = 800) -> list[Ride]:
    """Over four hours around midnight."""
    dice = random.Random(3)
    return [
        Ride(
            tenant=dice.choice(["t", "u|"]), id=str(n), city=dice.choice(["a", "b|%", "ü"]), zone="",
            at=BEGIN + timedelta(milliseconds=dice.randrange(4 * 3_600_000)),
            kind=dice.choice([None, "booking", "search"]), fare=dice.choice([None, dice.randrange(-9, 99)]),
            seats=dice.randrange(4), tip=dice.choice([None, 0.5, 1.25]), driver=dice.choice([None, "1"]),
        )
        for n in range(number)
    ]  # fmt: skip


def topic_of(view: FeatureView) -> Topic:
    if isinstance(view.window, Rolling):
        return Topic("test.rides.enriched.v1", enriched_record(Ride, view))
    return features_topic("test", view, partitions=2, retention=timedelta(days=1))


def filled(root: Path, topic: Topic, view: FeatureView, *parts: Any, span: Span = SPAN) -> Backfilled:
    return backfill(view, topic, span, parts, root=root, clock=CLOCK, lookups=KNOWN)


def check(root: Path, topic: Topic, view: FeatureView, happened: list[Ride]) -> None:
    """Every row of DuckDB's is in the table, once, with its id and in the partition of its day."""
    wanted = compute(view, table(Ride, happened), lookups=KNOWN).to_pylist()
    found = read_offline(root, topic.name).to_pylist()
    by_id = {(row["tenant"], row["id"]): row for row in found}
    assert len(found) == len(by_id) == len(wanted)
    for right in wanted:
        row = by_id[right["tenant"], row_id(right["city"], right["window_end"], 0)]
        assert (row["sequence"], row["kafka_offset"]) == (0, None)
        same({name: row[name] for name in right}, right)
    folders = {path.name for path in offline_path(root, topic.name).glob("date=*")}
    assert folders == {f"date={row['window_end'].date()}" for row in wanted}


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: type(shape).__name__)
def test_every_window_once_however_often_it_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: Window
) -> None:
    monkeypatch.setattr(batch, "SLICE", timedelta(minutes=41))
    view, happened = every_feature(shape), rides()
    topic = topic_of(view)
    first = Span(BEGIN, BEGIN + 2 * HOURS)
    parts = [table(Ride, happened[:300]), table(Ride, happened[290:])]
    done = filled(tmp_path, topic, view, *parts, span=first)
    assert 0 < done.added == done.computed
    whole = filled(tmp_path, topic, view, *parts)
    assert whole.added == whole.computed - done.added > 0
    again = filled(tmp_path, topic, view, *parts)
    assert (again.computed, again.added) == (whole.computed, 0)
    check(tmp_path, topic, view, happened)


def test_a_row_of_the_stream_stays_whatever_its_sequence(tmp_path: Path) -> None:
    view, happened = every_feature(SHAPES[0]), rides(50)
    topic = topic_of(view)
    filled(tmp_path, topic, view, table(Ride, happened[:20]))
    before = read_offline(tmp_path, topic.name)
    done = filled(tmp_path, topic, view, table(Ride, happened))
    after = read_offline(tmp_path, topic.name)
    assert after.num_rows == before.num_rows + done.added
    kept = {row["id"]: row for row in after.to_pylist() if row["id"] in set(before["id"].to_pylist())}
    assert {(row["tenant"], row["id"]) for row in before.to_pylist()} <= {
        (row["tenant"], row["id"]) for row in after.to_pylist()
    }
    assert len(kept) == len(set(before["id"].to_pylist()))


def test_a_rolling_view_gets_a_row_per_event_as_on_its_enriched_topic(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "SLICE", timedelta(minutes=41))
    view, happened = every_feature(Rolling()), rides()
    topic = topic_of(view)
    first = filled(tmp_path, topic, view, table(Ride, happened), span=Span(BEGIN, BEGIN + HOURS))
    done = filled(tmp_path, topic, view, table(Ride, happened), table(Ride, happened[:10]))
    assert (first.added + done.added, done.computed) == (len(happened), len(happened))
    found = {row["id"]: row for row in read_offline(tmp_path, topic.name).to_pylist()}
    wanted = compute(view, table(Ride, happened), lookups=KNOWN).to_pylist()
    for one, values in zip(happened, wanted, strict=True):
        row = found[one.id]
        assert (row["late"], row["at"], row["city"], row["fare"]) == (False, one.at, one.city, one.fare)
        same({name: row[name] for name in view.feature_names}, {n: values[n] for n in view.feature_names})


def test_the_table_is_the_writer_s_too_and_its_offsets_stay(tmp_path: Path) -> None:
    view, happened = every_feature(SHAPES[0]), rides(200)
    topic = topic_of(view)
    filled(tmp_path, topic, view, table(Ride, happened[:100]))
    table_ = DeltaTable(offline_path(tmp_path, topic.name))
    write_deltalake(
        table_,
        pa.table(_one_row(tmp_path, topic)),
        mode="append",
        commit_properties=CommitProperties(
            app_transactions=[Transaction(application_id(topic.name, topic.name, 0), 77)]
        ),
    )
    filled(tmp_path, topic, view, table(Ride, happened))
    sink = OfflineSink(topic, "window_end", tmp_path, ManualClock(), interval_s=10)
    assert sink.positions([(topic.name, 0)]) == {(topic.name, 0): 77}


def _one_row(root: Path, topic: Topic) -> dict[str, pa.ChunkedArray]:
    rows = read_offline(root, topic.name).slice(0, 1)
    values = dict(zip(rows.column_names, rows.columns, strict=True))
    values["date"] = pa.chunked_array([pa.array([values["window_end"][0].as_py().date()], pa.date32())])
    return values


def test_training_reads_a_backfilled_table(tmp_path: Path) -> None:
    view, happened = every_feature(SHAPES[0]), rides(100)
    topic = topic_of(view)
    filled(tmp_path, topic, view, table(Ride, happened))
    row = read_offline(tmp_path, topic.name).slice(3, 1).to_pylist()[0]
    asked = pa.table(
        {
            "tenant": [row["tenant"]],
            "city": [row["city"]],
            "event_time": pa.array([row["window_end"] + SECOND], pa.timestamp("us", tz="UTC")),
        }
    )
    rows = FeatureRows(view, DeltaTable(offline_path(tmp_path, topic.name)))
    assert training_set(asked, ["rides.count"], [rows])["rides__count"].to_pylist() == [row["count"]]


def test_of_two_backfills_at_a_time_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    view, happened = every_feature(SHAPES[0]), rides(100)
    topic = topic_of(view)
    add, raced = job._Target.add, []

    def overtaken(self: Any, connection: Any) -> int:
        if not raced:
            raced.append(True)
            filled(tmp_path, topic, view, table(Ride, happened))
        return add(self, connection)

    monkeypatch.setattr(job._Target, "add", overtaken)
    with pytest.raises(Unavailable) as refused:
        filled(tmp_path, topic, view, table(Ride, happened))
    assert refused.value.code == "commit_conflict"
    check(tmp_path, topic, view, happened)
    assert filled(tmp_path, topic, view, table(Ride, happened)).added == 0


def test_what_cannot_be_filled_is_said(tmp_path: Path) -> None:
    view = every_feature(SHAPES[0])
    topic = topic_of(view)
    open_ = Span(BEGIN, CLOCK.now() - view.disorder + timedelta(milliseconds=1))
    with pytest.raises(InvalidInput, match="not closed"):
        filled(tmp_path, topic, view, table(Ride, rides(5)), span=open_)
    with pytest.raises(DeclarationError, match="no rows of"):
        filled(tmp_path, Topic("test.rides.events.v1", Ride), view, table(Ride, rides(5)))
    large = [
        Ride(tenant="t", id=str(n), city="a", zone="", at=BEGIN + SECOND, fare=2**63 - 1) for n in (1, 2)
    ]
    with pytest.raises(InvalidInput, match="does not fit"):
        filled(tmp_path, topic, view, table(Ride, large))
    assert filled(tmp_path, topic, view).computed == 0


CHILD = """
    import sys
    from datetime import timedelta
    from pathlib import Path
    sys.path.insert(0, {repository!r})
    from features.offline import batch
    from tests.jobs.batch.test_backfill import SHAPES, every_feature, filled, rides, table, topic_of, Ride
    batch.SLICE = timedelta(minutes=5)
    view = every_feature(SHAPES[0])
    print("begun", flush=True)
    filled(Path(sys.argv[1]), topic_of(view), view, table(Ride, rides()))
"""


def test_kill_9_at_any_moment_and_the_next_one_finishes(tmp_path: Path) -> None:
    script = textwrap.dedent(CHILD.format(repository=str(Path(__file__).parents[3])))
    view, happened = every_feature(SHAPES[0]), rides()
    topic, rows = topic_of(view), []
    for round_number in range(3):
        child = subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        child.stdout.readline()
        log = offline_path(tmp_path, topic.name) / "_delta_log"
        versions = len(list(log.glob("*.json"))) if log.is_dir() else 0
        deadline = time.monotonic() + 60
        while len(list(log.glob("*.json"))) < versions + 3 and child.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.005 * (round_number + 1))
        os.kill(child.pid, signal.SIGKILL)
        child.wait(timeout=10)
        child.stdout.close()
        rows.append(read_offline(tmp_path, topic.name).num_rows)
    assert 0 < rows[0] < rows[1] < rows[2]
    found = read_offline(tmp_path, topic.name).to_pylist()
    assert max(Counter((row["tenant"], row["id"]) for row in found).values()) == 1
    done = filled(tmp_path, topic, view, table(Ride, happened))
    assert done.added == done.computed - rows[2] > 0
    check(tmp_path, topic, view, happened)


def test_events_from_files(tmp_path: Path) -> None:
    view, happened = every_feature(SHAPES[0]), rides(100)
    topic = topic_of(view)
    pq.write_table(table(Ride, happened), tmp_path / "events.parquet")
    filled(tmp_path, topic, view, tmp_path / "events.parquet")
    check(tmp_path, topic, view, happened)
