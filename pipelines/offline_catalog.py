"""The catalog of the offline store: of each table its schema, and statistics of each column.

Statistics are of one version of a table and are kept beside the tables, in `<data>/catalog`, so that asking
again costs nothing until the table has a new version.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from core.errors import Unavailable, UnknownName
from features.compile.duckdb_values import quote
from features.offline.out_of_core import DEFAULT, Limits, connected, single_row
from features.offline.tabular import register
from pipelines.offline import DATE, offline_path

Shown = str | int | float | bool | None

FORMAT = 1
"""Of the kept files; another one is computed anew."""
_LONGEST = 80
_ORDERED = ("INT", "FLOAT", "DOUBLE", "DECIMAL", "VARCHAR", "BOOLEAN", "DATE", "TIME")


@dataclass(frozen=True)
class ColumnStatistics:
    """type: DuckDB's. minimum, maximum: None without a value, or where values have no order (lists, structs);
    times in ISO 8601, texts cut after 80 characters. distinct: approximate (HyperLogLog, a few per cent), at
    most the number of values; null is none of them."""

    name: str
    type: str
    nulls: int
    minimum: Shown
    maximum: Shown
    distinct: int


@dataclass(frozen=True)
class TableStatistics:
    """One version of a table. first_date, last_date: the partitions there are, None without rows."""

    table: str
    version: int
    rows: int
    files: int
    bytes: int
    first_date: str | None
    last_date: str | None
    columns: tuple[ColumnStatistics, ...]


def table_names(root: Path, asked: Sequence[str] = ()) -> list[str]:
    """The tables there are, in order, or those asked for; raises UnknownName for one that is not there."""
    folder = offline_path(root, "x").parent
    known = sorted(path.parent.name for path in folder.glob("*/_delta_log"))
    for name in asked:
        if name not in known:
            raise UnknownName("offline table", name, known, where=str(folder))
    return list(dict.fromkeys(asked)) if asked else known


def statistics(root: Path, table: str, *, limits: Limits = DEFAULT) -> TableStatistics:
    """Of the newest version of the topic's table, kept or computed from its files with DuckDB.

    Raises UnknownName for a table that is not there, Unavailable where its folder cannot be read.
    """
    table_names(root, [table])
    path = offline_path(root, table)
    try:
        newest = DeltaTable(path)
        kept = _kept(root, table, newest)
        if kept is not None:
            return kept
        found = _computed(newest, table, limits)
    except (DeltaError, OSError) as problem:
        raise Unavailable(f"Delta table {path}: {problem}", code="offline_unavailable") from problem
    _keep(root, found, str(newest.metadata().id))
    return found


def table_rows(root: Path, tables: Sequence[str] = (), *, limits: Limits = DEFAULT) -> list[dict[str, Any]]:
    """A row per table: name, version, rows, files, bytes, dates, columns; for a list of tables."""
    rows = []
    for name in table_names(root, tables):
        row = asdict(statistics(root, name, limits=limits))
        rows.append(row | {"columns": len(row["columns"])})
    return rows


def column_rows(root: Path, table: str, *, limits: Limits = DEFAULT) -> list[dict[str, Any]]:
    """A row per column of one table: name, type, rows, nulls, minimum, maximum, distinct (approximate)."""
    found = statistics(root, table, limits=limits)
    rows = []
    for column in found.columns:
        row = asdict(column)
        name, type_ = row.pop("name"), row.pop("type")
        distinct = row.pop("distinct")
        rows.append(
            {"column": name, "type": type_, "rows": found.rows, **row, "distinct (approximate)": distinct}
        )
    return rows


def _computed(table: DeltaTable, name: str, limits: Limits) -> TableStatistics:
    files = pa.table(table.get_add_actions(flatten=True))
    dates = sorted(map(str, files.column(f"partition.{DATE}").to_pylist())) if files.num_rows else []
    with connected(limits, where="offline catalog") as connection:
        columns = register(connection, "rows", table, where=f"offline table {name}")
        types = {column: type_ for column, type_ in columns.types.items() if column != DATE}
        items = ["count(*)"]
        for column, type_ in types.items():
            value = quote(column)
            items.append(f"count({value})")
            ordered = type_.startswith(_ORDERED) or type_.endswith("INT")
            items += [f"min({value})", f"max({value})"] if ordered and "[" not in type_ else ["NULL", "NULL"]
            items.append(f"approx_count_distinct({value})")
        found = single_row(connection, f"SELECT {', '.join(items)} FROM rows")
    rows = found[0]
    statistics = []
    for number, (column, type_) in enumerate(types.items()):
        present, least, most, distinct = found[1 + 4 * number : 5 + 4 * number]
        statistics.append(
            ColumnStatistics(
                column, type_, rows - present, _shown(least), _shown(most), min(distinct, present)
            )
        )
    return TableStatistics(
        table=name,
        version=table.version(),
        rows=rows,
        files=files.num_rows,
        bytes=sum(files.column("size_bytes").to_pylist()) if files.num_rows else 0,
        first_date=dates[0] if dates else None,
        last_date=dates[-1] if dates else None,
        columns=tuple(statistics),
    )


def _shown(value: Any) -> Shown:
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, str):
        return value if len(value) <= _LONGEST else f"{value[: _LONGEST - 3]}..."
    if value is None or isinstance(value, bool | int | float):
        return value
    return str(value)


def _file(root: Path, table: str) -> Path:
    return root / "catalog" / f"{table}.json"


def _kept(root: Path, name: str, table: DeltaTable) -> TableStatistics | None:
    try:
        given = json.loads(_file(root, name).read_text(encoding="utf-8"))
        of = (given.pop("format"), given.pop("id"), given["version"])
        if of != (FORMAT, str(table.metadata().id), table.version()):
            return None
        columns = tuple(ColumnStatistics(**column) for column in given.pop("columns"))
        return TableStatistics(**given, columns=columns)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _keep(root: Path, found: TableStatistics, id: str) -> None:
    file = _file(root, found.table)
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.{os.getpid()}")
    partial.write_text(json.dumps({"format": FORMAT, "id": id, **asdict(found)}), encoding="utf-8")
    partial.replace(file)
