"""Features over recorded events: the same view, computed by DuckDB over a table."""

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from core.errors import InvalidInput, UnknownName
from features.compile import duckdb as compiled
from features.view import FeatureView

_ROW = "row_number_"


def compute(view: FeatureView, table: pa.Table) -> pa.Table:
    """The features of every row of `table`, in its row order.

    `table` has tenant, id, the entity, the event time (timestamp, or int64 milliseconds) and the
    aggregated columns; every row counts, so drop repeats by (tenant, id) first (`first_per_id`).
    Returns tenant, id, then the features (int64 or float64; null where a window has no value and the
    feature declares no `empty`). Raises UnknownName for a missing column, InvalidInput for a null time.
    """
    columns = ("tenant", "id", view.entity, view.time, *view.columns)
    for name in columns:
        if name not in table.column_names:
            raise UnknownName("column", name, table.column_names, where=view.where)
    at = millis(table.column(view.time))
    if at.null_count:
        raise InvalidInput(
            f"{at.null_count} rows without {view.time}", where=view.where, mend="drop them first"
        )
    events = pa.table(
        {
            "tenant": table.column("tenant"),
            view.entity: table.column(view.entity),
            compiled.TIME: at,
            **{name: table.column(name) for name in view.columns},
            _ROW: pa.array(range(table.num_rows), pa.int64()),
        }
    )
    query = compiled.select(view, "events", carried=(_ROW,))
    with duckdb.connect() as connection:
        connection.register("events", events)
        values = connection.sql(f"{query}\nORDER BY {_ROW}").to_arrow_table()
    ids = {"tenant": table.column("tenant"), "id": table.column("id")}
    return pa.table(ids | {name: values.column(name) for name in view.feature_names})


def first_per_id(table: pa.Table) -> pa.Table:
    """The first row per (tenant, id), in row order: what the stream keeps of repeats."""
    numbered = table.select(["tenant", "id"]).append_column(_ROW, pa.array(range(table.num_rows), pa.int64()))
    firsts = numbered.group_by(["tenant", "id"]).aggregate([(_ROW, "min")])
    rows = firsts.column(f"{_ROW}_min")
    return table.take(rows.take(pc.array_sort_indices(rows.combine_chunks())))


def millis(times: pa.ChunkedArray) -> pa.ChunkedArray:
    """Event times as int64 milliseconds since the epoch, rounded down."""
    if pa.types.is_integer(times.type):
        return times.cast(pa.int64())
    if not pa.types.is_timestamp(times.type):
        raise InvalidInput(f"event times of type {times.type}", mend="give timestamps or int64 milliseconds")
    if times.type.unit == "s":
        return pc.multiply(times.cast(pa.int64()), 1000)
    per_milli = {"ms": 1, "us": 1_000, "ns": 1_000_000}[times.type.unit]
    whole = times.cast(pa.int64())
    if per_milli == 1:
        return whole
    remainder = pc.subtract(whole, pc.multiply(pc.divide(whole, per_milli), per_milli))
    negative = pc.cast(pc.less(remainder, 0), pa.int64())
    return pc.subtract(pc.divide(whole, per_milli), negative)
