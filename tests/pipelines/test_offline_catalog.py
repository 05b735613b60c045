"""The catalog of the offline store: figures by hand, and none of them computed twice."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from core.errors import UnknownName
from pipelines import offline_catalog
from pipelines.offline import offline_path
from pipelines.offline_catalog import column_rows, statistics, table_names, table_rows

NAME = "rides.events.enriched.v1"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def written(root: Path, number: int, *, day: int = 0) -> None:
    rows = [
        {
            "tenant": "t", "city": None if n % 4 == 0 else f"city-{n % 7}", "fare": n if n % 2 else None,
            "tip": n / 8, "shared": n > 2, "at": NOON + timedelta(days=day, seconds=n), "tags": ["a"] * n,
            "note": None, "long": "x" * (100 + n), "date": (NOON + timedelta(days=day)).date(),
        }
        for n in range(number)
    ]  # fmt: skip
    schema = pa.schema(
        [
            ("tenant", pa.string()), ("city", pa.string()), ("fare", pa.int64()), ("tip", pa.float64()),
            ("shared", pa.bool_()), ("at", pa.timestamp("ms", tz="UTC")), ("tags", pa.list_(pa.string())),
            ("note", pa.string()), ("long", pa.string()), ("date", pa.date32()),
        ]
    )  # fmt: skip
    table = pa.Table.from_pylist(rows, schema=schema)
    write_deltalake(offline_path(root, NAME), table, mode="append", partition_by=["date"])


def test_the_figures_of_a_table(tmp_path: Path) -> None:
    written(tmp_path, 40)
    written(tmp_path, 8, day=2)
    found = statistics(tmp_path, NAME)
    size = sum(path.stat().st_size for path in offline_path(tmp_path, NAME).rglob("*.parquet"))
    assert (found.table, found.version, found.rows, found.files) == (NAME, 1, 48, 2)
    assert (found.bytes, found.first_date, found.last_date) == (size, "2026-03-01", "2026-03-03")
    columns = {column.name: column for column in found.columns}
    assert list(columns) == ["tenant", "city", "fare", "tip", "shared", "at", "tags", "note", "long"]

    def figures(name: str) -> tuple[Any, ...]:
        column = columns[name]
        return column.nulls, column.minimum, column.maximum, column.distinct

    assert figures("city") == (12, "city-0", "city-6", 7)
    assert figures("fare")[:3] == (24, 1, 39)
    assert 18 <= figures("fare")[3] <= 22
    assert figures("tip")[:3] == (0, 0.0, 39 / 8)
    assert figures("shared") == (0, False, True, 2)
    assert figures("at")[:3] == (0, "2026-03-01T12:00:00+00:00", "2026-03-03T12:00:07+00:00")
    assert figures("tags")[:3] == (0, None, None)
    assert figures("note") == (48, None, None, 0)
    assert figures("long")[1] == "x" * 77 + "..."
    assert {columns["fare"].type, columns["at"].type} == {"BIGINT", "TIMESTAMP WITH TIME ZONE"}


def test_a_second_call_computes_nothing_until_there_is_a_new_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, 5)
    first = statistics(tmp_path, NAME)
    with monkeypatch.context() as patch:
        patch.delattr(offline_catalog, "_computed")
        assert statistics(tmp_path, NAME) == first
    written(tmp_path, 5)
    assert statistics(tmp_path, NAME).rows == 10
    offline_path(tmp_path, NAME).rename(tmp_path / "away")
    written(tmp_path, 1)
    written(tmp_path, 1)
    assert statistics(tmp_path, NAME).rows == 2, "another table of that name, at the same version"
    (tmp_path / "catalog" / f"{NAME}.json").write_text("{")
    assert statistics(tmp_path, NAME).rows == 2


def test_rows_to_show(tmp_path: Path) -> None:
    assert table_rows(tmp_path) == []
    written(tmp_path, 5)
    (row,) = table_rows(tmp_path)
    assert (row["table"], row["rows"], row["version"], row["columns"]) == (NAME, 5, 0, 9)
    city = column_rows(tmp_path, NAME)[1]
    assert city == {
        "column": "city", "type": "VARCHAR", "rows": 5, "nulls": 2, "minimum": "city-1",
        "maximum": "city-3", "distinct (approximate)": 3,
    }  # fmt: skip


def test_an_empty_table_and_none(tmp_path: Path) -> None:
    assert table_names(tmp_path) == []
    with pytest.raises(UnknownName):
        statistics(tmp_path, NAME)
    schema = pa.schema([("tenant", pa.string()), ("date", pa.date32())])
    DeltaTable.create(offline_path(tmp_path, NAME), schema=schema, partition_by=["date"])
    found = statistics(tmp_path, NAME)
    assert (found.rows, found.files, found.first_date, found.columns[0].minimum) == (0, 0, None, None)
    with pytest.raises(UnknownName, match="did you mean"):
        statistics(tmp_path, NAME.replace("v1", "v2"))
