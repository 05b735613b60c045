"""Features over recorded events: the same view, computed by DuckDB over a table."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from core.errors import InvalidInput, UnknownName
from features.compile import duckdb as compiled
from features.compile.duckdb_values import TIME
from features.lookups import Lookup
from features.times import millis
from features.view import FeatureView
from features.windows import Rolling

_ROW = "row_number_"
_EVENTS = "__events"
_TIMES = pa.timestamp("ms", tz="UTC")


def compute(view: FeatureView, table: pa.Table, *, lookups: Mapping[str, pa.Table] | None = None) -> pa.Table:
    """The features of a view over `table`, and the reference tables of its lookups by name.

    `table` has tenant, id, the fields of the entity, the event time (timestamp, or int64 milliseconds) and
    the view's columns; every row counts, so drop repeats by (tenant, id) first (`first_per_id`). A reference
    table has tenant, the columns it is found by and those the view uses, and a key at most once.

    A rolling view gives a row per row of `table`, in its order: tenant, id, then the features. A windowed one
    gives a row per (tenant, entity, window) with an event in it, in that order: tenant, the fields of the
    entity, window_start and window_end (timestamps in ms, UTC; the end is not in the window), the features.
    Features are int64, float64, string or bool; null where there is no value and no `empty` is declared.

    Raises UnknownName for a missing column or reference table, InvalidInput for a null time, a reference key
    that is there twice, or an integer that does not fit into 64 bits.
    """
    for name in ("tenant", "id", *(n for n in view.entity_fields if "." not in n), view.time, *view.columns):
        if name not in table.column_names:
            raise UnknownName("column", name, table.column_names, where=view.where)
    at = millis(table.column(view.time))
    if at.null_count:
        raise InvalidInput(
            f"{at.null_count} rows without {view.time}", where=view.where, mend="drop them first"
        )
    needed = ("tenant", "id", *(name for name in view.entity_fields if "." not in name), *view.columns)
    events = {name: table.column(name) for name in needed} | {TIME: at}
    with duckdb.connect() as connection:
        for lookup in view.lookups:
            connection.register(lookup.name, reference(view, lookup, lookups or {}))
        if isinstance(view.window, Rolling):
            row = {_ROW: pa.array(range(table.num_rows), pa.int64())}
            query = compiled.select(view, _EVENTS, carried=(_ROW,)) + f"\nORDER BY {_ROW}"
            values = _run(view, connection, pa.table(events | row), query)
            ids = {"tenant": table.column("tenant"), "id": table.column("id")}
            return pa.table(ids | {name: values.column(name) for name in view.feature_names})
        keys = ("tenant", *view.entity_fields, compiled.WINDOW_END)
        query = f"{compiled.select(view, _EVENTS)}\nORDER BY " + ", ".join(f'"{key}"' for key in keys)
        values = _run(view, connection, pa.table(events), query)
        for name in (compiled.WINDOW_START, compiled.WINDOW_END):
            place = values.schema.get_field_index(name)
            values = values.set_column(place, name, values.column(name).cast(_TIMES))
        return values


def first_per_id(table: pa.Table) -> pa.Table:
    """The first row per (tenant, id), in row order: what the stream keeps of repeats."""
    numbered = table.select(["tenant", "id"]).append_column(_ROW, pa.array(range(table.num_rows), pa.int64()))
    firsts = numbered.group_by(["tenant", "id"]).aggregate([(_ROW, "min")])
    rows = firsts.column(f"{_ROW}_min")
    return table.take(rows.take(pc.array_sort_indices(rows.combine_chunks())))


def _run(view: FeatureView, connection: duckdb.DuckDBPyConnection, events: pa.Table, query: str) -> pa.Table:
    connection.register(_EVENTS, events)
    with integers_fit(view):
        return connection.sql(query).to_arrow_table()


@contextmanager
def integers_fit(view: FeatureView) -> Iterator[None]:
    """Raises InvalidInput where DuckDB has no room for an integer of the view."""
    try:
        yield
    except (duckdb.OutOfRangeException, duckdb.ConversionException) as error:
        raise InvalidInput(
            f"an integer does not fit: {error}",
            where=view.where,
            mend="see the bounds in features.aggregates; compute with smaller values or with doubles",
        ) from error


def reference(view: FeatureView, lookup: Lookup, given: Mapping[str, pa.Table]) -> pa.Table:
    """The reference table of a lookup, checked: see `compute`."""
    if lookup.name not in given:
        raise UnknownName("lookup", lookup.name, given, where=view.where)
    table, keys = given[lookup.name], ["tenant", *lookup.on.values()]
    used = [name.removeprefix(f"{lookup.name}.") for name in view.inputs if name in lookup.columns]
    for name in (*keys, *used):
        if name not in table.column_names:
            raise UnknownName("column", name, table.column_names, where=f"{view.where}, lookup {lookup.name}")
    counted = table.group_by(keys).aggregate([([], "count_all")])
    twice = counted.filter(pc.greater(counted.column("count_all"), 1))
    if twice.num_rows:
        key = {name: twice.column(name)[0].as_py() for name in keys}
        raise InvalidInput(
            f"{twice.num_rows} keys are there more than once, e.g. {key}",
            where=f"{view.where}, lookup {lookup.name}",
            mend="give the reference one row per key",
        )
    return table
