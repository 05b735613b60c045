"""The offline sink on a real Delta table in a folder: no service is needed.

The record of what should be there is the list of (partition, offset) that were handed out, each once.
"""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from core.clock import ManualClock
from core.errors import Unavailable, UnknownName
from jobs.writer.chunk import Chunk
from jobs.writer.errors import Rewind
from jobs.writer.sinks.offline import OfflineSink
from pipelines.compaction import compact
from pipelines.offline import DATE, application_id, offline_path, read_offline
from schemas.catalog.decisions import Verdict
from schemas.codec import arrow_schema
from schemas.topic import Topic
from tests.jobs.writer.samples import START, FakeMessage

TOPIC = Topic("fraud.transactions.enriched.v1", Verdict)
SCHEMA = arrow_schema(Verdict.spec())


def chunk(partition: int, offsets: Sequence[int], at: datetime = START) -> Chunk:
    rows = [
        {
            "tenant": "acme", "id": f"{partition}-{offset}", "entity": "card", "occurred_at": at,
            "pipeline": "fraud", "verdict": "fraud", "reviewer": "ann", "decided_at": at,
        }
        for offset in offsets
    ]  # fmt: skip
    messages = tuple(FakeMessage(offset, at_partition=partition, on_topic=TOPIC.name) for offset in offsets)
    return Chunk(TOPIC, pa.RecordBatch.from_pylist(rows, schema=SCHEMA), messages)


def sink(root: Path, clock: ManualClock | None = None) -> OfflineSink:
    return OfflineSink(TOPIC, "occurred_at", root, clock or ManualClock(), interval_s=10.0)


def stored(root: Path) -> Counter[tuple[int, int]]:
    table = read_offline(root, TOPIC.name)
    pairs = zip(table["kafka_partition"].to_pylist(), table["kafka_offset"].to_pylist(), strict=True)
    return Counter(pairs)


def once(*ranges: tuple[int, range]) -> Counter[tuple[int, int]]:
    return Counter((partition, offset) for partition, offsets in ranges for offset in offsets)


def opened(root: Path, partitions: Sequence[int] = (0,)) -> tuple[OfflineSink, dict[tuple[str, int], int]]:
    made = sink(root)
    return made, made.positions([(TOPIC.name, partition) for partition in partitions])


def test_rows_and_offsets_are_in_one_commit(tmp_path: Path) -> None:
    made, starts = opened(tmp_path, [0, 1])
    assert starts == {}
    made.write(chunk(0, range(5)))
    made.write(chunk(1, range(10, 12)))
    made.commit()
    table = DeltaTable(offline_path(tmp_path, TOPIC.name))
    assert table.transaction_version(application_id(TOPIC.name, TOPIC.name, 0)) == 5
    assert table.transaction_version(application_id(TOPIC.name, TOPIC.name, 1)) == 12
    assert stored(tmp_path) == once((0, range(5)), (1, range(10, 12)))
    _, starts = opened(tmp_path, [0, 1, 2])
    assert starts == {(TOPIC.name, 0): 5, (TOPIC.name, 1): 12}


def test_the_table_is_partitioned_by_the_date_of_the_event(tmp_path: Path) -> None:
    made, _ = opened(tmp_path)
    made.write(chunk(0, [0], datetime(2026, 1, 1, 23, 59, 59, tzinfo=UTC)))
    made.write(chunk(0, [1], datetime(2026, 1, 2, tzinfo=UTC)))
    made.commit()
    folders = {path.name for path in offline_path(tmp_path, TOPIC.name).iterdir()}
    assert {"date=2026-01-01", "date=2026-01-02"} <= folders


def test_it_commits_when_the_interval_is_over_and_not_before(tmp_path: Path) -> None:
    clock = ManualClock()
    made = sink(tmp_path, clock)
    made.positions([(TOPIC.name, 0)])
    made.write(chunk(0, range(3)))
    clock.advance(timedelta(seconds=9.9))
    made.tick()
    with pytest.raises(UnknownName):
        read_offline(tmp_path, TOPIC.name)
    clock.advance(timedelta(seconds=0.1))
    made.tick()
    assert stored(tmp_path) == once((0, range(3)))


def test_a_graceful_end_commits_what_is_held(tmp_path: Path) -> None:
    made, _ = opened(tmp_path)
    made.write(chunk(0, range(3)))
    made.close()
    assert stored(tmp_path) == once((0, range(3)))


def test_a_fresh_second_writer_that_reads_the_same_again_doubles_nothing(tmp_path: Path) -> None:
    first, _ = opened(tmp_path)
    second, _ = opened(tmp_path)  # both saw an empty table
    first.write(chunk(0, range(8)))
    first.commit()
    second.write(chunk(0, range(5)))
    second.commit()
    second.write(chunk(0, range(5, 10)))
    second.commit()
    assert stored(tmp_path) == once((0, range(10)))


def test_a_stale_second_writer_is_refused_and_then_adds_only_what_is_new(tmp_path: Path) -> None:
    first, _ = opened(tmp_path)
    first.write(chunk(0, range(3)))
    first.commit()
    second, _ = opened(tmp_path)
    second.write(chunk(0, range(3, 7)))
    first.write(chunk(0, range(3, 6)))
    append = second._append

    def overtaken(*arguments: object) -> None:  # the other commits between the comparison and this commit
        first.commit()
        append(*arguments)  # type: ignore[arg-type]

    second._append = overtaken  # type: ignore[method-assign, assignment]
    with pytest.raises(Unavailable) as refused:
        second.commit()
    assert refused.value.code == "commit_conflict"
    second._append = append  # type: ignore[method-assign]
    second.commit()
    assert stored(tmp_path) == once((0, range(7)))


def test_a_partition_that_goes_away_takes_only_its_own_rows(tmp_path: Path) -> None:
    made, _ = opened(tmp_path, [0, 1])
    made.write(chunk(0, range(4)))
    made.write(chunk(1, range(4)))
    made.revoked([(TOPIC.name, 1)])
    made.commit()
    assert stored(tmp_path) == once((0, range(4)))


def test_a_table_that_was_replaced_is_read_into_again(tmp_path: Path) -> None:
    made, _ = opened(tmp_path)
    made.write(chunk(0, range(4)))
    made.commit()
    offline_path(tmp_path, TOPIC.name).rename(tmp_path / "away")
    made.write(chunk(0, range(4, 6)))
    with pytest.raises(Rewind):
        made.commit()
    assert made.positions([(TOPIC.name, 0)]) == {}
    made.write(chunk(0, range(6)))
    made.commit()
    assert stored(tmp_path) == once((0, range(6)))


def test_an_older_table_takes_a_newer_record(tmp_path: Path) -> None:
    old, _ = opened(tmp_path)
    narrow = chunk(0, range(2))
    kept = [name for name in SCHEMA.names if name != "note"]
    old.write(Chunk(TOPIC, narrow.batch.select(kept), narrow.messages))
    old.commit()
    new, _ = opened(tmp_path)
    new.write(chunk(0, range(2, 4)))
    new.commit()
    assert stored(tmp_path) == once((0, range(4)))
    assert "note" in read_offline(tmp_path, TOPIC.name).column_names


def test_compaction_keeps_every_row_and_the_offsets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.writer.sinks.offline.COMPACT_EVERY", 3)
    monkeypatch.setattr("jobs.writer.sinks.offline.compact", lambda table: compact(table, more_than=2))
    made, _ = opened(tmp_path)
    for start in range(0, 12, 2):
        made.write(chunk(0, range(start, start + 2)))
        made.commit()
    assert stored(tmp_path) == once((0, range(12)))
    assert len(DeltaTable(offline_path(tmp_path, TOPIC.name)).file_uris()) < 6
    assert opened(tmp_path)[1] == {(TOPIC.name, 0): 12}


CHILD = """
    import sys
    from pathlib import Path
    sys.path.insert(0, {repository!r})
    from tests.jobs.writer.test_offline import TOPIC, chunk, sink
    made = sink(Path(sys.argv[1]))
    offset = made.positions([(TOPIC.name, 0)]).get((TOPIC.name, 0), 0)
    while True:
        made.write(chunk(0, range(offset, offset + 7)))
        offset += 7
        made.commit()
        print(offset, flush=True)
"""


def test_kill_9_at_any_moment_loses_and_doubles_nothing(tmp_path: Path) -> None:
    script = textwrap.dedent(CHILD.format(repository=str(Path(__file__).parents[3])))
    for round_number in range(4):
        child = subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        child.stdout.readline()  # at least one commit
        time.sleep(0.013 * round_number)  # where in the next commits the kill lands
        os.kill(child.pid, signal.SIGKILL)
        child.wait(timeout=10)
        child.stdout.close()
    _, starts = opened(tmp_path)
    end = starts[TOPIC.name, 0]
    assert end >= 4 * 7
    assert stored(tmp_path) == once((0, range(end)))


def test_a_table_without_rows_reads_as_one_without_rows(tmp_path: Path) -> None:
    schema = pa.schema([("id", pa.string()), ("at", pa.timestamp("us", tz="UTC")), (DATE, pa.date32())])
    DeltaTable.create(offline_path(tmp_path, "empty"), schema=schema, partition_by=[DATE])
    found = read_offline(tmp_path, "empty")
    assert (found.num_rows, found.column_names) == (0, ["id", "at"])
