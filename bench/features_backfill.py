"""How fast history is computed: `jobs.batch.backfill` of a 1-minute tumbling view, to the table it ends in.

The events lie in a Delta table as the writer leaves them: in commits of some hundred thousand, partitioned by
date, with their Kafka positions. Each run fills an empty offline store. That its rows are right is told by
what is known of the events: how many there are of each kind, and how many windows have one.
"""

import statistics
import sys
import tempfile
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable, write_deltalake

from bench.features_events import BEGIN_MS, DEMAND, SPACING_MS, events, topics
from bench.harness import require_equal
from core.clock import SystemClock, from_millis
from features.offline.batch import Span
from jobs.batch.backfill import Backfilled, backfill
from pipelines.offline import DATE, POSITION_COLUMNS, read_offline

EVENTS, COMMIT = 5_000_000, 250_000
RUNS = 3
KINDS = {"bookings": "booking", "searches": "search", "cancels": "cancel"}
GOAL = 500_000
_MINUTE_MS = 60_000


def backfill_figures(count: int = EVENTS) -> dict[str, float]:
    """Events a second, the median of three runs, everything from reading to the last commit included."""
    with tempfile.TemporaryDirectory(prefix="millstream-bench-") as folder:
        root = Path(folder)
        recorded, right = _record(root / "events", count)
        rates = []
        for run in range(RUNS):
            done = _backfilled(recorded, root / f"run-{run}", count)
            _require_right(done, root / f"run-{run}", right)
            rates.append(count / done.seconds)
    return {f"backfill events/s (goal {GOAL:,})": statistics.median(rates), "backfill events": count}


def _backfilled(recorded: DeltaTable, root: Path, count: int) -> Backfilled:
    begin = from_millis(BEGIN_MS)
    last = begin + timedelta(milliseconds=SPACING_MS * count + _MINUTE_MS)
    rows = topics("bench")["rows"]
    return backfill(DEMAND, rows, Span(begin, last), [recorded], root=root, clock=SystemClock())


def _record(path: Path, count: int) -> tuple[DeltaTable, dict[str, int]]:
    """The table of the events, and what its features add up to."""
    right = dict.fromkeys([*KINDS, "fare_sum"], 0)
    windows = 0
    for first in range(0, count, COMMIT):
        batch = events(first, min(COMMIT, count - first))
        for feature, kind in KINDS.items():
            right[feature] += pc.sum(pc.equal(batch.column("kind"), kind)).as_py()
        right["fare_sum"] += pc.sum(batch.column("fare")).as_py()
        windows += _windows(batch)
        write_deltalake(path, _stored(batch, first), mode="append", partition_by=[DATE])
    return DeltaTable(path), right | {"windows": windows}


def _windows(batch: pa.RecordBatch) -> int:
    """Windows with an event in the batch; batches begin and end with a minute."""
    minutes = batch.column("at").cast(pa.int64()).to_numpy() // _MINUTE_MS
    whose = [batch.column(name).dictionary_encode().indices.to_numpy() for name in ("tenant", "region")]
    return len(np.unique(np.stack([minutes, *whose]), axis=1).T)


def _stored(batch: pa.RecordBatch, first: int) -> pa.Table:
    """The columns of the writer's table."""
    count = batch.num_rows
    positions = (
        pa.array(np.zeros(count, np.int32)),
        pa.array(np.arange(first, first + count)),
        batch.column("at"),
    )
    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    columns |= dict(zip(POSITION_COLUMNS, positions, strict=True))
    return pa.table(columns | {DATE: batch.column("at").cast(pa.date32())})


def _require_right(done: Backfilled, root: Path, right: dict[str, int]) -> None:
    found = read_offline(root, topics("bench")["rows"].name)
    require_equal("windows of the backfill", (done.computed, done.added), (right["windows"],) * 2)
    require_equal("rows of the backfill", found.num_rows, right["windows"])
    sums = {name: pc.sum(found.column(name)).as_py() for name in right if name != "windows"}
    require_equal("sums of the backfill", sums | {"windows": right["windows"]}, right)


if __name__ == "__main__":
    for name, value in backfill_figures().items():
        sys.stdout.write(f"{name:<40}{value:14,.1f}\n")
