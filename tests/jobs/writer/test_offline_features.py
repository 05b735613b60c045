"""The offline sink on a features topic: rows of windows, in the partition of the day their window ends.

Two writers of one topic, in one process and in two, one of them killed: nothing is lost, nothing is doubled.
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

from core.clock import ManualClock
from core.errors import Unavailable
from features.catalog.regional_demand import REGIONAL_DEMAND
from features.feature_rows import features_topic, row_id
from jobs.writer.chunk import Chunk
from jobs.writer.sinks.offline import OfflineSink
from pipelines.offline import offline_path, read_offline
from schemas.catalog.user_events import USER_EVENTS, UserEvent
from schemas.codec import arrow_schema
from tests.jobs.writer.samples import FakeMessage

TOPIC = features_topic("demand", REGIONAL_DEMAND, partitions=2, retention=timedelta(days=7))
MIDNIGHT = datetime(2026, 3, 5, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def rows(offsets: Sequence[int], partition: int = 0) -> Chunk:
    """Two rows of each window, the second a correction; that of offset 0 ends at midnight."""
    assert TOPIC.record is not None
    made = []
    for offset in offsets:
        end, sequence = MIDNIGHT + offset // 2 * MINUTE, offset % 2
        made.append(
            {
                "tenant": "t", "id": row_id(f"r{partition}", end, sequence), "entity": f"r{partition}",
                "region": f"r{partition}", "window_start": end - MINUTE, "window_end": end,
                "sequence": sequence, "bookings": offset, "searches": 0, "cancels": 0, "conversion": None,
                "rolling_avg": offset / 3, "trend": 0.0, "seasonality_day": 0, "seasonality_week": 0,
            }
        )  # fmt: skip
    batch = pa.RecordBatch.from_pylist(made, schema=arrow_schema(TOPIC.record.spec()))
    messages = tuple(FakeMessage(offset, at_partition=partition, on_topic=TOPIC.name) for offset in offsets)
    return Chunk(TOPIC, batch, messages)


def sink(root: Path) -> OfflineSink:
    return OfflineSink(TOPIC, "window_end", root, ManualClock(), interval_s=10.0)


def opened(root: Path, partitions: Sequence[int] = (0,)) -> tuple[OfflineSink, dict[tuple[str, int], int]]:
    made = sink(root)
    made.open()
    return made, made.positions([(TOPIC.name, partition) for partition in partitions])


def check(root: Path, end: int, partition: int = 0) -> None:
    """Each row of the offsets up to `end`, once, with its values."""
    found = read_offline(root, TOPIC.name).to_pylist()
    mine = {row["kafka_offset"]: row for row in found if row["kafka_partition"] == partition}
    assert sorted(mine) == list(range(end))
    assert max(Counter((row["kafka_partition"], row["id"]) for row in found).values()) == 1
    for offset, row in mine.items():
        assert (row["bookings"], row["sequence"], row["conversion"]) == (offset, offset % 2, None)
        assert (row["rolling_avg"], row["window_end"]) == (offset / 3, MIDNIGHT + offset // 2 * MINUTE)


def test_rows_lie_in_the_partition_of_the_day_their_window_ends(tmp_path: Path) -> None:
    made, _ = opened(tmp_path, [0, 1])
    made.write(rows(range(4)))
    made.write(rows(range(2_878, 2_884), partition=1))
    made.commit()
    folders = {path.name for path in offline_path(tmp_path, TOPIC.name).glob("date=*")}
    assert folders == {"date=2026-03-05", "date=2026-03-06"}
    check(tmp_path, 4)
    assert opened(tmp_path, [0, 1])[1] == {(TOPIC.name, 0): 4, (TOPIC.name, 1): 2_884}


def test_the_source_s_events_have_a_table_too(tmp_path: Path) -> None:
    made = OfflineSink(USER_EVENTS, "occurred_at", tmp_path, ManualClock(), interval_s=10.0)
    made.positions([(USER_EVENTS.name, 0)])
    event: dict[str, object] = {"tenant": "t", "id": "1", "user_id": "u", "region": "n", "kind": "search"}
    event |= {"occurred_at": MIDNIGHT}
    batch = pa.RecordBatch.from_pylist([event], schema=arrow_schema(UserEvent.spec()))
    made.write(Chunk(USER_EVENTS, batch, (FakeMessage(7, on_topic=USER_EVENTS.name),)))
    made.close()
    (row,) = read_offline(tmp_path, USER_EVENTS.name).to_pylist()
    assert {name: row[name] for name in event} == event
    assert row["kafka_offset"] == 7


def test_a_fresh_second_writer_at_a_lower_offset_takes_nothing_back(tmp_path: Path) -> None:
    first, _ = opened(tmp_path)
    first.write(rows(range(9)))
    first.commit()
    fresh = sink(tmp_path)  # begins where its group was, without asking for the stored offset
    for start in (0, 3, 6, 9):
        fresh.write(rows(range(start, start + 3)))
        fresh.commit()
    first.write(rows(range(9, 15)))
    first.commit()
    check(tmp_path, 15)
    assert opened(tmp_path)[1] == {(TOPIC.name, 0): 15}


def test_a_stale_second_writer_is_refused_and_then_adds_only_what_is_new(tmp_path: Path) -> None:
    stale, _ = opened(tmp_path)
    stale.write(rows(range(2)))
    stale.commit()
    fast, _ = opened(tmp_path)
    stale.write(rows(range(2, 8)))
    append = stale._append

    def overtaken(*arguments: object) -> None:
        fast.write(rows(range(2, 6)))
        fast.commit()
        append(*arguments)  # type: ignore[arg-type]

    stale._append = overtaken  # type: ignore[method-assign, assignment]
    with pytest.raises(Unavailable) as refused:
        stale.commit()
    assert refused.value.code == "commit_conflict"
    stale._append = append  # type: ignore[method-assign]
    stale.commit()
    check(tmp_path, 8)


CHILD = """
    import sys
    from pathlib import Path
    sys.path.insert(0, {repository!r})
    from core.errors import Unavailable
    from tests.jobs.writer.test_offline_features import opened, rows, TOPIC
    made, starts = opened(Path(sys.argv[1]))
    offset = starts.get((TOPIC.name, 0), 0)
    end = int(sys.argv[2])
    while offset < end:
        made.write(rows(range(offset, min(offset + 7, end))))
        offset = min(offset + 7, end)
        while True:
            try:
                made.commit()
                break
            except Unavailable as refused:
                assert refused.code == "commit_conflict", refused
        print(offset, flush=True)
"""


def start(root: Path, end: int) -> "subprocess.Popen[str]":
    script = textwrap.dedent(CHILD.format(repository=str(Path(__file__).parents[3])))
    return subprocess.Popen(
        [sys.executable, "-c", script, str(root), str(end)], stdout=subprocess.PIPE, text=True
    )


def test_two_processes_at_once_and_one_killed_between_commits(tmp_path: Path) -> None:
    end = 7 * 40
    for round_number in range(3):
        root = tmp_path / str(round_number)
        both = [start(root, end), start(root, end)]
        assert both[0].stdout is not None
        both[0].stdout.readline()
        time.sleep(0.017 * round_number)  # where in the next commits the kill lands
        os.kill(both[0].pid, signal.SIGKILL)
        out, _ = both[1].communicate(timeout=120)
        both[0].communicate(timeout=10)
        assert both[1].returncode == 0
        assert out.split()[-1] == str(end)
        check(root, end)
        assert opened(root)[1] == {(TOPIC.name, 0): end}
