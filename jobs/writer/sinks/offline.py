"""The offline store: the records of a topic to a Delta table, with their Kafka offsets in the same commit."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError

from core.clock import Clock
from core.errors import Unavailable
from core.telemetry.log import logger
from jobs.writer.chunk import Chunk
from jobs.writer.errors import Rewind
from pipelines.compaction import compact
from pipelines.offline import DATE, application_id, offline_path, positioned
from schemas.topic import Topic

MOST_ROWS = 50_000  # rows held between two commits; at 500 bytes a row about 25 MB
COMPACT_EVERY = 60  # commits; at one each 10 s, every 10 minutes


class OfflineSink:
    """Done when the Delta commit is. The commit carries, per partition, the next offset to read; on
    assignment reading starts from there, so the consumer group's offsets do not matter.

    Before each commit the table is brought up to date and rows below the stored offset are dropped, then
    the commit goes through the same handle: of two writers the one with the older view is refused, and a
    fresh one finds the other's offsets. Neither doubles a row.
    """

    wait_s = 0.2
    commits = False

    def __init__(
        self,
        topic: Topic,
        time: str,
        root: Path,
        clock: Clock,
        *,
        interval_s: float,
        name: str = "offline",
        dead_letters: bool = False,
    ) -> None:
        self.name, self.dead_letters = name, dead_letters
        self.topics: Sequence[Topic] = (topic,)
        self._topic = topic.name
        self._time = time
        self._path = offline_path(root, topic.name)
        self._clock = clock
        self._interval_s = interval_s
        self._table: DeltaTable | None = None
        self._known: dict[int, int] = {}
        self._held: dict[int, list[pa.RecordBatch]] = {}
        self._rows = 0
        self._since: float | None = None
        self._commits = 0
        self._log = logger("writer.offline", topic=topic.name)

    def open(self) -> None:
        self._fresh(None)

    def positions(self, partitions: Sequence[tuple[str, int]]) -> dict[tuple[str, int], int]:
        """The stored next offset of each partition that has one."""
        table = self._fresh(None)
        found: dict[tuple[str, int], int] = {}
        for topic, partition in partitions:
            stored = None if table is None else table.transaction_version(self._application(partition))
            self._known[partition] = stored or 0
            if stored is not None:
                found[topic, partition] = stored
        return found

    def revoked(self, partitions: Sequence[tuple[str, int]]) -> None:
        for _, partition in partitions:
            self._held.pop(partition, None)
        self._rows = sum(batch.num_rows for batches in self._held.values() for batch in batches)
        if not self._rows:
            self._since = None

    def _forget(self) -> None:
        self._held.clear()
        self._rows = 0
        self._since = None

    def write(self, chunk: Chunk) -> None:
        if self._rows >= MOST_ROWS:
            self.commit()
        batch = positioned(chunk.batch, chunk.messages, self._time)
        partitions = batch.column("kafka_partition").to_numpy()
        for partition in np.unique(partitions).tolist():
            rows = batch.filter(pa.array(partitions == partition))
            self._held.setdefault(partition, []).append(rows)
        self._rows += len(chunk)
        if self._since is None:
            self._since = self._clock.monotonic()

    def tick(self) -> None:
        if self._since is not None and self._clock.monotonic() - self._since >= self._interval_s:
            self.commit()

    def close(self) -> None:
        if self._rows:
            self.commit()

    def commit(self) -> None:
        """Commit what is held. Raises Unavailable when another writer was faster or the folder is away
        (call again), Rewind when the table has less than this sink has written (it was replaced)."""
        if not self._rows:
            return
        schema = next(iter(self._held.values()))[0].schema
        table = self._fresh(schema)
        if table is None:  # only without a schema
            return
        fresh: list[pa.RecordBatch] = []
        marks: list[Transaction] = []
        known = dict(self._known)
        for partition, batches in sorted(self._held.items()):
            stored = table.transaction_version(self._application(partition)) or 0
            if stored < self._known.get(partition, 0):
                self._forget()
                raise Rewind(f"{self._path} ends at offset {stored} of partition {partition}")
            rows = pa.Table.from_batches(batches)
            rows = rows.filter(pc.greater_equal(rows.column("kafka_offset"), stored))
            if rows.num_rows:
                fresh.extend(rows.to_batches())
                following = int(pc.max(rows.column("kafka_offset")).as_py()) + 1
                marks.append(Transaction(self._application(partition), following))
                known[partition] = following
            else:
                known[partition] = stored
        if fresh:
            self._append(table, pa.Table.from_batches(fresh, schema=schema), marks)
        self._known = known
        self._forget()
        self._maintain(table)

    def _append(self, table: DeltaTable, rows: pa.Table, marks: list[Transaction]) -> None:
        known = {field.name for field in table.schema().fields}
        try:
            write_deltalake(
                table,
                rows,
                mode="append",
                schema_mode="merge" if set(rows.column_names) - known else None,
                commit_properties=CommitProperties(app_transactions=marks),
            )
        except CommitFailedError as problem:
            raise Unavailable(f"another writer was faster: {problem}", code="commit_conflict") from problem
        except (DeltaError, OSError) as problem:
            self._table = None
            raise Unavailable(f"Delta table {self._path}: {problem}", code="offline_unavailable") from problem
        self._commits += 1

    def _fresh(self, schema: pa.Schema | None) -> DeltaTable | None:
        """The table at its newest version; made with `schema` when there is none and a schema is given."""
        try:
            if not DeltaTable.is_deltatable(str(self._path)):
                self._table = None
                if schema is None:
                    return None
                self._path.mkdir(parents=True, exist_ok=True)
                DeltaTable.create(self._path, schema=schema, partition_by=[DATE], mode="ignore")
            if self._table is None:
                self._table = DeltaTable(self._path)
            else:
                self._table.update_incremental()
        except (DeltaError, OSError) as problem:
            self._table = None
            raise Unavailable(f"Delta table {self._path}: {problem}", code="offline_unavailable") from problem
        return self._table

    def _maintain(self, table: DeltaTable) -> None:
        """Now and then, bounded in time: few large files instead of many small ones. Here, and not in a job
        of its own, because who makes the small files knows how many there are, and nothing needs to be set
        up for it; `jobs.batch.compact` is for tables that nobody writes any more."""
        if self._commits < COMPACT_EVERY:
            return
        self._commits = 0
        try:
            compact(table)
        except (DeltaError, OSError) as problem:
            self._table = None
            self._log.warning("compaction failed; the next one will do it", error=str(problem))

    def _application(self, partition: int) -> str:
        return application_id(self._path.name, self._topic, partition)
