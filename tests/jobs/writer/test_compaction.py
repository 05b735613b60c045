"""Compaction of a real Delta table, beside a writer and readers, and killed halfway."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from core.errors import UnknownName
from jobs.batch.compact import compact_tables
from pipelines.compaction import compact
from pipelines.offline import offline_path, read_offline
from tests.jobs.writer.samples import START
from tests.jobs.writer.test_offline import TOPIC, chunk, once, opened, sink, stored

DAY = timedelta(days=1)


def small_commits(root: Path, number: int, *, first: int = 0) -> None:
    """So many commits of three rows, over two days."""
    made = sink(root)
    made.positions([(TOPIC.name, 0)])
    for n in range(first, first + number):
        made.write(chunk(0, range(3 * n, 3 * n + 3), START + (n % 2) * DAY))
        made.commit()


def table(root: Path) -> DeltaTable:
    return DeltaTable(offline_path(root, TOPIC.name))


def parquet_files(root: Path) -> set[str]:
    return {path.name for path in offline_path(root, TOPIC.name).rglob("*.parquet") if path.is_file()}


def test_only_crowded_partitions_are_merged_and_no_row_or_offset_is_lost(tmp_path: Path) -> None:
    small_commits(tmp_path, 11)  # six files on the first day, five on the second
    before = read_offline(tmp_path, TOPIC.name).sort_by("kafka_offset")
    done = compact(table(tmp_path), more_than=5)
    assert (done.partitions, done.files_before, done.files_after) == (("2026-03-04",), 11, 6)
    assert read_offline(tmp_path, TOPIC.name).sort_by("kafka_offset").equals(before)
    assert opened(tmp_path)[1] == {(TOPIC.name, 0): 33}
    assert compact(table(tmp_path), more_than=5).partitions == ()


def test_the_most_crowded_come_first_and_the_rest_the_next_time(tmp_path: Path) -> None:
    small_commits(tmp_path, 11)
    assert compact(table(tmp_path), more_than=1, most_partitions=1).partitions == ("2026-03-04",)
    assert compact(table(tmp_path), more_than=1, most_partitions=1).partitions == ("2026-03-05",)
    assert len(table(tmp_path).file_uris()) == 2


def test_old_files_stay_for_the_retention_and_no_longer(tmp_path: Path) -> None:
    small_commits(tmp_path, 6)
    old = table(tmp_path)
    listed = old.file_uris()
    assert compact(table(tmp_path), more_than=1).removed == 0
    assert sum(pq.read_metadata(path).num_rows for path in listed) == 18, "who has listed them can read them"
    small_commits(tmp_path, 4, first=6)
    assert compact(table(tmp_path), more_than=1, retention=timedelta(0)).removed >= 6
    assert not any(Path(path).exists() for path in listed)
    assert stored(tmp_path) == once((0, range(30)))
    assert opened(tmp_path)[1] == {(TOPIC.name, 0): 30}


def test_offsets_outlive_the_checkpoint_of_the_log(tmp_path: Path) -> None:
    small_commits(tmp_path, 6)
    compact(table(tmp_path), more_than=1)
    newest = table(tmp_path)
    newest.create_checkpoint()
    log = offline_path(tmp_path, TOPIC.name) / "_delta_log"
    for entry in log.glob("*.json"):
        if int(entry.stem) <= newest.version():
            entry.unlink()  # as the log's retention does
    assert opened(tmp_path)[1] == {(TOPIC.name, 0): 18}
    assert stored(tmp_path) == once((0, range(18)))


def test_readers_and_a_writer_go_on_during_it(tmp_path: Path) -> None:
    small_commits(tmp_path, 8)
    stop, problems, seen = threading.Event(), [], []

    def write() -> None:
        made = sink(tmp_path)
        made.positions([(TOPIC.name, 0)])
        offset = 24
        while not stop.is_set():
            made.write(chunk(0, range(offset, offset + 3)))
            made.commit()
            offset += 3
        seen.append(offset)

    def read() -> None:
        while not stop.is_set():
            counts = stored(tmp_path)
            ends = sorted(offset for _, offset in counts)
            if max(counts.values()) > 1 or ends != list(range(len(ends))) or len(ends) < 24:
                problems.append(counts)

    threads = [threading.Thread(target=write), threading.Thread(target=read)]
    for thread in threads:
        thread.start()
    merged = 0
    deadline = time.monotonic() + 60
    while merged < 4 and time.monotonic() < deadline:
        merged += len(compact(table(tmp_path), more_than=1).partitions)
    stop.set()
    for thread in threads:
        thread.join(30)
    assert merged >= 4
    assert not problems
    assert stored(tmp_path) == once((0, range(seen[0])))
    assert opened(tmp_path)[1] == {(TOPIC.name, 0): seen[0]}


CHILD = """
    import sys
    from pathlib import Path
    sys.path.insert(0, {repository!r})
    from pipelines.compaction import compact
    from tests.jobs.writer.test_compaction import small_commits, table
    root = Path(sys.argv[1])
    compact(table(root), more_than=1)
    n = 0
    print("begun", flush=True)
    while True:
        small_commits(root, 4, first=4 * (n + 1))
        compact(table(root), more_than=1)
        n += 1
"""


def test_kill_9_in_the_middle_leaves_a_table_that_reads_right(tmp_path: Path) -> None:
    script = textwrap.dedent(CHILD.format(repository=str(Path(__file__).parents[3])))
    for round_number in range(5):
        root = tmp_path / str(round_number)
        small_commits(root, 4)
        child = subprocess.Popen([sys.executable, "-c", script, str(root)], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(0.05 + 0.021 * round_number)  # where in writing and merging the kill lands
        os.kill(child.pid, signal.SIGKILL)
        child.wait(timeout=10)
        child.stdout.close()
        end = opened(root)[1][TOPIC.name, 0]
        assert stored(root) == once((0, range(end)))
        small_commits(root, 2, first=end // 3)
        done = compact_tables(root, more_than=1)[TOPIC.name]
        assert done.files_after == 2
        assert stored(root) == once((0, range(end + 6)))


def test_what_a_crash_left_behind_is_removed_after_the_retention(tmp_path: Path) -> None:
    small_commits(tmp_path, 4)
    left = offline_path(tmp_path, TOPIC.name) / "date=2026-03-04" / "part-left-behind.parquet"
    left.write_bytes(b"half a file")
    compact_tables(tmp_path)
    assert left.exists(), "it may be of a commit that is under way"
    week = time.time() - 8 * 86_400
    os.utime(left, (week, week))
    compact_tables(tmp_path)
    assert not left.exists()
    assert Counter(stored(tmp_path).values()) == {1: 12}


def test_every_table_or_those_named(tmp_path: Path) -> None:
    assert compact_tables(tmp_path) == {}
    small_commits(tmp_path, 3)
    assert set(compact_tables(tmp_path)) == set(compact_tables(tmp_path, [TOPIC.name])) == {TOPIC.name}
    with pytest.raises(UnknownName, match=TOPIC.name):
        compact_tables(tmp_path, [TOPIC.name.replace("v1", "v2")])
