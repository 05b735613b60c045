"""Features over recorded events: the same view, computed by DuckDB over a table."""

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from core.errors import InvalidInput, UnknownName
from features.compile import duckdb as compiled
from features.times import millis
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
