"""Tables wherever they lie (Arrow, Parquet, Delta), for DuckDB to read."""

from pathlib import Path
from typing import TypeAlias

import duckdb
import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import TableNotFoundError

from core.errors import InvalidInput, UnknownName
from features.compile.conditions import literal
from features.compile.duckdb_values import quote
from features.kinds import ValueKind

Tabular: TypeAlias = pa.Table | DeltaTable | str | Path
"""An Arrow table; a Delta table; or a path: of a Parquet file, of several by a glob, of a folder that has
Parquet files in it at any depth, or of a folder that is a Delta table (its newest version)."""

TIME_TYPE = "TIMESTAMP WITH TIME ZONE"
_FINER = "TIMESTAMPTZ_NS"
_INTEGERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER")
_ALLOWED: dict[ValueKind, tuple[str, ...]] = {
    "long": _INTEGERS,
    "double": (*_INTEGERS, "FLOAT", "DOUBLE"),
    "string": ("VARCHAR",),
    "boolean": ("BOOLEAN",),
}
_UNREADABLE = {"columnMapping", "deletionVectors"}


class Columns:
    """The columns of a table and their DuckDB types. `where` names the table in errors."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, name: str, *, where: str) -> None:
        relation = connection.sql(f"SELECT * FROM {quote(name)} LIMIT 0")
        self.types = {
            column: str(type_) for column, type_ in zip(relation.columns, relation.types, strict=True)
        }
        self.where = where

    def require(self, name: str, kind: ValueKind) -> None:
        """Raises UnknownName for a column that is not there, InvalidInput for one of another type.
        Integers are doubles too; dictionaries of strings are strings."""
        type_ = self._type(name)
        if type_ not in _ALLOWED[kind] and not (kind == "string" and type_.startswith("ENUM")):
            raise InvalidInput(
                f"column {name!r} is {type_}, not a {kind}", where=self.where, mend="cast it first"
            )

    def require_time(self, name: str, *, nanoseconds: bool = False) -> None:
        """Raises UnknownName for a column that is not there, InvalidInput for one that holds no instants, or
        holds them finer than microseconds unless that is allowed."""
        type_ = self._type(name)
        if type_ != TIME_TYPE and not (nanoseconds and type_ == _FINER):
            raise InvalidInput(
                f"column {name!r} is {type_}, not a timestamp in UTC",
                where=self.where,
                mend="cast it to a timestamp in microseconds with the time zone UTC",
            )

    def micros(self, name: str) -> str:
        """The instants of a column as microseconds since the epoch, rounded down."""
        if self._type(name) == _FINER:  # DuckDB's own cast rounds to the nearest: into the future
            nanos = f"epoch_ns({quote(name)})"
            return f"({nanos} - ({nanos} % 1000 + 1000) % 1000) // 1000"
        return f"epoch_us({quote(name)})"

    def _type(self, name: str) -> str:
        if name not in self.types:
            raise UnknownName("column", name, self.types, where=self.where)
        return self.types[name]


def register(connection: duckdb.DuckDBPyConnection, name: str, rows: Tabular, *, where: str) -> Columns:
    """Makes the rows readable under that name, in their order; they are not copied.

    Raises InvalidInput for a path without Parquet files, and for a Delta table with deletion vectors or
    mapped columns, whose files alone do not say what is in it.
    """
    if isinstance(rows, str | Path):
        rows = _at_path(rows, where)
    if isinstance(rows, DeltaTable):
        rows = _files(rows, where)
    if isinstance(rows, pa.Table):
        connection.register(name, rows)
    else:
        read = f"read_parquet([{', '.join(map(literal, rows))}], union_by_name = true"
        if len(rows) > 1 or "=" in rows[0]:
            read += ", hive_partitioning = true, hive_types_autocast = false"
        try:
            connection.execute(f"CREATE TEMP VIEW {quote(name)} AS SELECT * FROM {read})")
        except (duckdb.IOException, duckdb.InvalidInputException) as error:
            raise InvalidInput(
                f"{', '.join(rows[:3])} cannot be read: {error}",
                where=where,
                mend="give a path of Parquet files",
            ) from error
    return Columns(connection, name, where=where)


def _at_path(path: str | Path, where: str) -> DeltaTable | list[str]:
    folder = Path(path)
    if not folder.is_dir():
        return [str(path)]
    if (folder / "_delta_log").is_dir():
        try:
            return DeltaTable(str(folder))
        except TableNotFoundError as error:
            raise InvalidInput(
                f"{folder} is no Delta table: {error}", where=where, mend="give its root"
            ) from error
    return [str(folder / "**" / "*.parquet")]


def _files(table: DeltaTable, where: str) -> pa.Table | list[str]:
    unreadable = _UNREADABLE.intersection(table.protocol().reader_features or ())
    if unreadable:
        raise InvalidInput(
            f"{table.table_uri} has {', '.join(sorted(unreadable))}",
            where=where,
            mend="rewrite the table without",
        )
    files = list(table.file_uris())
    return files or pa.schema(table.schema().to_arrow()).empty_table()
