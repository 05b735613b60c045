"""DuckDB with a bound on its memory: what does not fit is written to disk, in a folder of its own."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from core.errors import TooLarge


@dataclass(frozen=True)
class Limits:
    """memory: what DuckDB may hold before it writes to disk, e.g. "500MB"; Arrow tables given and returned
    are not in it. folder: where it writes, in a folder of its own that is removed; None: the system's.
    threads: None for one per core."""

    memory: str = "4GB"
    folder: Path | None = None
    threads: int | None = None


DEFAULT = Limits()


@contextmanager
def connected(limits: Limits, *, where: str) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection in UTC. Raises TooLarge where the limits do not suffice; `where` names the caller."""
    with tempfile.TemporaryDirectory(prefix=f"{where.replace(' ', '-')}-", dir=limits.folder) as folder:
        settings: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": limits.memory,
            "temp_directory": folder,
        }
        if limits.threads is not None:
            settings["threads"] = limits.threads
        try:
            with duckdb.connect(config=settings) as connection:
                connection.execute("SET TimeZone = 'UTC'")
                yield connection
        except duckdb.OutOfMemoryException as error:
            raise TooLarge(
                f"more memory or disk needed than allowed: {error}",
                where=where,
                mend="allow more memory, or give a folder with more space",
            ) from error


def single_row(connection: duckdb.DuckDBPyConnection, query: str) -> tuple[Any, ...]:
    """The one row of a query. All of the result is fetched: a connection with an unfinished one does nothing
    else."""
    (row,) = connection.execute(query).fetchall()
    return tuple(row)
