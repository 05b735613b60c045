"""Compact the tables of the offline store that no writer looks after, and remove what a crash left behind."""

from collections.abc import Sequence
from pathlib import Path

from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from core.errors import Unavailable
from pipelines.compaction import SMALL_FILES, Compacted, compact
from pipelines.offline import offline_path
from pipelines.offline_catalog import table_names


def compact_tables(
    root: Path, tables: Sequence[str] = (), *, more_than: int = SMALL_FILES
) -> dict[str, Compacted]:
    """Compact these tables, or all, every partition of them. Safe beside writers and readers.

    Raises UnknownName for a table that is not there, Unavailable where a folder cannot be written or another
    compaction was faster; what was merged by then stays merged.
    """
    done = {}
    for name in table_names(root, tables):
        path = offline_path(root, name)
        try:
            done[name] = compact(DeltaTable(path), more_than=more_than, most_partitions=None, everything=True)
        except (DeltaError, OSError) as problem:
            raise Unavailable(f"Delta table {path}: {problem}", code="offline_unavailable") from problem
    return done
