"""Make the online store of a view again, after Redis has lost it, from what is recorded.

May run beside the writer and any number of times: values of windows are written under compare-and-set, rows
of events once per id. Rows are read with DuckDB in bounded memory and written so many at a time.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
from redis.exceptions import RedisError

from core.clock import Clock, to_millis
from core.errors import DeclarationError, InvalidInput, Unavailable
from features.compile.duckdb_values import quote
from features.feature_rows import ENTITY, SEQUENCE, WINDOW_END
from features.offline.out_of_core import DEFAULT, Limits, connected
from features.offline.recorded_events import RecordedEvents
from features.offline.tabular import Tabular, register
from features.online.packed_writer import PackedRow, PackedWriter
from features.online.rolling import RollingStore
from features.view import FeatureView
from features.windows import Rolling

ROWS_AT_ONCE = 8_192
_MS = timedelta(milliseconds=1)


@dataclass(frozen=True)
class Rebuilt:
    """rows: read and given to the store. written: values of windows that are there now, or rows of events.
    older: the store had a newer value. refused: a value that can never be stored, e.g. an infinite one."""

    rows: int
    written: int
    older: int
    refused: int
    seconds: float


def rebuild_windows(
    view: FeatureView,
    rows: Sequence[Tabular],
    writer: PackedWriter,
    *,
    clock: Clock,
    limits: Limits = DEFAULT,
) -> Rebuilt:
    """The newest row of each (tenant, entity), by (end of the window, sequence), as its packed value.

    rows: of the view's features topic, or of its offline table (`pipelines.recorded` gives both as one).
    Those older than the view's time to live are left out: Redis would have forgotten them. Raises what
    `features.offline.tabular` does, and Unavailable while Redis is away: call again.
    """
    begun = clock.monotonic()
    if isinstance(view.window, Rolling):
        raise DeclarationError(
            f"{view.name} has no packed values", where=view.where, mend="use rebuild_events"
        )
    oldest = to_millis(clock.now() - view.ttl)
    counts = {"written": 0, "older": 0, "conflict": 0}
    read = refused = 0
    with connected(limits, where="rebuild") as connection:
        names = []
        for number, table in enumerate(rows):
            names.append(f"__feature_rows_{number}")
            columns = register(connection, names[-1], table, where=f"rows of {view.where}")
            for name in ("tenant", ENTITY):
                columns.require(name, "string")
            columns.require_time(WINDOW_END)
            columns.require(SEQUENCE, "long")
            for feature in view.features:
                columns.require(feature.name, view.kind(feature))
        for batch in _batches(connection, _newest(view, names, oldest)) if names else ():
            outcomes = writer.write(_packed(batch))
            read += batch.num_rows
            for outcome in outcomes:
                if isinstance(outcome, InvalidInput):
                    refused += 1
                else:
                    counts[outcome] += 1
    return Rebuilt(
        read, counts["written"], counts["older"] + counts["conflict"], refused, clock.monotonic() - begun
    )


def rebuild_events(
    view: FeatureView,
    events: Sequence[Tabular],
    store: RollingStore,
    *,
    clock: Clock,
    limits: Limits = DEFAULT,
) -> Rebuilt:
    """The recent rows of each entity of a rolling view: those within the view's time to live before its
    newest, of entities that have one within that time before the newest of all.

    events: rows of the enriched topic or its offline table, or of the source. An entity's rows are written in
    order of time and rows of one time together, since what is at or before the time up to which rows were
    folded into tiles counts as a repeat. For that reason rows are missed if meanwhile a running writer adds
    more than half of the store's cap to one entity. Where an entity has more rows than the store keeps apart,
    tiles may end elsewhere than before the loss. Raises Unavailable while Redis is away: call again.
    """
    begun = clock.monotonic()
    given = 0
    with connected(limits, where="rebuild") as connection:
        recorded = RecordedEvents(connection, view, events)
        bounds = recorded.bounds()
        if bounds is not None:
            try:
                for batch in _whole_times(view, _batches(connection, _recent(view, recorded, bounds[1]))):
                    store.write(batch)
                    given += batch.num_rows
            except RedisError as problem:
                line = (str(problem) or type(problem).__name__).splitlines()[0]
                raise Unavailable(f"Redis: {line}", code="redis_unavailable") from problem
    return Rebuilt(given, given, 0, 0, clock.monotonic() - begun)


def _newest(view: FeatureView, tables: Sequence[str], oldest_ms: int) -> str:
    """tenant, entity, event time in ms, sequence, the features; a row per (tenant, entity)."""
    features = ", ".join(map(quote, view.feature_names))
    columns = f"tenant, {ENTITY}, epoch_ms({WINDOW_END}) AS at_ms, {SEQUENCE}, {features}"
    parts = " UNION ALL ".join(f"SELECT {columns} FROM {quote(table)}" for table in tables)
    values = ", ".join(f"{quote(name)} := {quote(name)}" for name in view.feature_names)
    newest = f"arg_max(struct_pack({values}), ROW(at_ms, {SEQUENCE}))"
    return (
        f"SELECT tenant, {ENTITY}, last.t AS at_ms, last.s AS {SEQUENCE}, UNNEST(last.v) FROM (\n"
        f"SELECT tenant, {ENTITY}, struct_pack(t := max(at_ms), "
        f"s := arg_max({SEQUENCE}, ROW(at_ms, {SEQUENCE})), v := {newest}) AS last\n"
        f"FROM ({parts}) WHERE at_ms >= {oldest_ms} GROUP BY tenant, {ENTITY})"
    )


def _packed(batch: pa.RecordBatch) -> list[PackedRow]:
    tenants, entities, times, sequences, *features = (column.to_pylist() for column in batch.columns)
    values = list(zip(*features, strict=True))
    return [PackedRow(*row) for row in zip(tenants, entities, times, sequences, values, strict=True)]


def _recent(view: FeatureView, events: RecordedEvents, newest_ms: int) -> str:
    """The columns that the store wants, in order of entity and time."""
    ttl, entity, time = view.ttl // _MS, quote(view.single_entity), quote(view.time)
    names = [name for name in events.names if name != view.time]
    items = ", ".join([*map(quote, names), f"at_ms AS {time}"])
    return (
        f"SELECT {items} FROM ({events.between(newest_ms - 2 * ttl, newest_ms + 1)})\n"
        f"QUALIFY max(at_ms) OVER (PARTITION BY tenant, {entity}) >= {newest_ms - ttl}\n"
        f"AND at_ms >= max(at_ms) OVER (PARTITION BY tenant, {entity}) - {ttl}\n"
        f"ORDER BY tenant, {entity}, at_ms, id"
    )


def _batches(connection: duckdb.DuckDBPyConnection, query: str) -> Iterator[pa.RecordBatch]:
    yield from connection.sql(query).to_arrow_reader(ROWS_AT_ONCE)


def _whole_times(view: FeatureView, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The same rows in batches that part none of one entity and time."""
    keys = ("tenant", view.single_entity, view.time)
    held: pa.Table | None = None
    for batch in batches:
        rows = pa.Table.from_batches([batch])
        held = rows if held is None else pa.concat_tables([held, rows])
        same = None
        for key in keys:
            column = held.column(key)
            equal = pc.equal(column, column[-1])
            same = equal if same is None else pc.and_(same, equal)
        begin = held.num_rows - int(pc.sum(same).as_py())
        if begin:
            yield _one(held.slice(0, begin))
            held = held.slice(begin)
    if held is not None and held.num_rows:
        yield _one(held)


def _one(rows: pa.Table) -> pa.RecordBatch:
    (batch,) = rows.combine_chunks().to_batches()
    return batch
