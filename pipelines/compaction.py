"""Few large files instead of many small ones, in the tables of the offline store.

A partition of a table is the events of one day; a commit each ten seconds leaves 8,640 files in it. Delta
commits are optimistic: that files were merged takes nothing from a writer that appends meanwhile, nor from a
reader that has listed the files before, since the old ones stay for the retention. What the log keeps of
Kafka offsets is not touched. A process that dies halfway leaves files that no version names; they are
removed after the retention by `everything`.
"""

from collections import Counter
from dataclasses import dataclass
from datetime import timedelta

import pyarrow as pa
from deltalake import DeltaTable

from pipelines.offline import DATE

SMALL_FILES = 32
"""A partition with more small files than this is merged. Opening a file costs DuckDB about what reading
50,000 rows of it does: below this the gain is not worth writing the rows again."""
TARGET_BYTES = 32 * 2**20
"""Files from this size on are left alone. A file that grows by merging is written again at each merge until
then: with 128 MB a day of small commits would write four times as much."""
MOST_PARTITIONS = 8
"""Merged in one call, those with the most small files first: a writer that calls this between two commits
stays well within its heartbeat."""
RETENTION = timedelta(days=7)
"""Old files are kept for the longest that a reader may take."""


@dataclass(frozen=True)
class Compacted:
    """What one call did: the partitions merged, the files before and after it, the old ones removed."""

    partitions: tuple[str, ...]
    files_before: int
    files_after: int
    removed: int


def compact(
    table: DeltaTable,
    *,
    more_than: int = SMALL_FILES,
    most_partitions: int | None = MOST_PARTITIONS,
    retention: timedelta = RETENTION,
    everything: bool = False,
) -> Compacted:
    """Merge the small files of partitions that have more than so many, then remove what is past the
    retention. The handle is at the newest version afterwards.

    everything: also look for files that no version names, which lists the whole folder. Raises deltalake's
    errors; the table is right whatever happens, and the next call does the rest.
    """
    table.update_incremental()
    before = len(table.file_uris())
    small = _small_files(table)
    crowded = [day for day, count in small.most_common(most_partitions) if count > more_than]
    for day in crowded:
        table.optimize.compact(
            partition_filters=[(DATE, "=", day)], target_size=TARGET_BYTES, max_concurrent_tasks=1
        )
    removed: list[str] = []
    if crowded or everything:
        hours = retention // timedelta(hours=1)
        removed = table.vacuum(hours, dry_run=False, enforce_retention_duration=False, full=everything)
    table.update_incremental()
    return Compacted(tuple(crowded), before, len(table.file_uris()), len(removed))


def _small_files(table: DeltaTable) -> Counter[str]:
    """Per day how many files are below the target."""
    files = pa.table(table.get_add_actions(flatten=True))
    if not files.num_rows:
        return Counter()
    days, sizes = files.column(f"partition.{DATE}").to_pylist(), files.column("size_bytes").to_pylist()
    return Counter(str(day) for day, size in zip(days, sizes, strict=True) if size < TARGET_BYTES)
