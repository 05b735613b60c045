"""Make the online store of a view again, after Redis has lost it, from what is recorded.

May run beside the writer and any number of times: values of windows and whole entities of a rolling view are
written under compare-and-set. Rows are read with DuckDB in bounded memory and written so many at a time.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

import duckdb
import pyarrow as pa
from redis.exceptions import RedisError

from core.clock import Clock, to_millis
from core.errors import DeclarationError, InvalidInput, Unavailable
from features.compile.duckdb_values import quote
from features.feature_rows import ENTITY, SEQUENCE, WINDOW_END
from features.offline.out_of_core import DEFAULT, Limits, connected
from features.offline.recorded_events import RecordedEvents
from features.offline.tabular import Tabular, register
from features.online.packed_writer import PackedRow, PackedWriter
from features.online.rolling import Event, events_of
from features.online.rolling_restore import Key, RollingRestore
from features.view import FeatureView
from features.windows import Rolling

ROWS_AT_ONCE = 8_192
ATTEMPTS = 10
_AGAIN = "__again"
_MS = timedelta(milliseconds=1)

Newer = Callable[[], Sequence[Tabular]]
"""Rows that have come since it was last called."""


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
    store: RollingRestore,
    *,
    clock: Clock,
    newer: Newer | None = None,
    limits: Limits = DEFAULT,
) -> Rebuilt:
    """The recent rows of each entity of a rolling view: those within the view's time to live before its
    newest, of entities that have one within that time before the newest of all.

    events: rows of the enriched topic or its offline table, or of the source. newer: what has come since it
    was last asked, or since `events`; needed beside a running writer: an entity that the writer has folded is
    restored with the rows that came before that, as `features.online.rolling_restore` says. Where an entity
    has more rows than the store keeps apart, tiles may end elsewhere than before the loss.

    Raises Unavailable while Redis is away, and when after ten times entities are still folded faster than
    they are restored: call again.
    """
    begun = clock.monotonic()
    tables, restored = list(events), 0
    folded: dict[Key, bytes] = {}
    again: list[Key] = []
    try:
        for attempt in range(ATTEMPTS):
            if attempt:
                folded = store.folded(again)
                tables += newer() if newer is not None else ()
            with connected(limits, where="rebuild") as connection:
                rows, again = store.restore(_events(connection, view, tables, again), folded)
            restored += rows
            if not again:
                return Rebuilt(restored, restored, 0, 0, clock.monotonic() - begun)
    except RedisError as problem:
        line = (str(problem) or type(problem).__name__).splitlines()[0]
        raise Unavailable(f"Redis: {line}", code="redis_unavailable") from problem
    raise Unavailable(
        f"{len(again)} entities of {view.name} are written faster than they are restored",
        where=f"{again[0][1]!r} of tenant {again[0][0]!r}",
        mend="run it again; all others are restored",
        code="rebuild_overtaken",
    )


def _events(
    connection: duckdb.DuckDBPyConnection, view: FeatureView, tables: Sequence[Tabular], only: Sequence[Key]
) -> Iterator[list[Event]]:
    """The recent rows, of these entities where there are any, by entity and time."""
    among = None
    if only:
        tenants, entities = zip(*only, strict=True)
        connection.register(_AGAIN, pa.table({"tenant": tenants, "entity": entities}))
        among = f"(tenant, {quote(view.single_entity)}) IN (SELECT (tenant, entity) FROM {_AGAIN})"
    recorded = RecordedEvents(connection, view, tables, only=among)
    bounds = recorded.bounds()
    if bounds is not None:
        for batch in _batches(connection, _recent(view, recorded, bounds[1])):
            yield events_of(view, batch)


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
