"""The feature rows of a stretch of time from recorded events, slice by slice, out of core.

Windows are aggregated from the events of their slice; derived features then read the windows of this slice
and of as much before it as they look back (`features.offline.reach`), so that every event is read about once
however long that is. A rolling view reads the longest window of events before its slice again.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import duckdb
import pyarrow as pa

from core.clock import to_millis
from core.errors import InvalidInput
from features.compile import duckdb as compiled
from features.compile.duckdb import WINDOW_END, WINDOW_START
from features.compile.duckdb_values import TIME, quote
from features.feature_rows import ENTITY, SEQUENCE, field_name
from features.offline.history import reference
from features.offline.reach import look_back
from features.offline.recorded_events import RecordedEvents
from features.view import FeatureView
from features.windows import Rolling
from schemas.keys import entity_sql

SLICE = timedelta(days=1)
"""The least that is computed at once. It is longer where windows or looking back are: a slice reads what
lies before it again, at most half as much as its own."""

_EVENTS, _WINDOWS = "__slice_events", "__aggregated"


@dataclass(frozen=True)
class Span:
    """Windows that end in (begin, end], or events with begin <= time < end; whole milliseconds, UTC."""

    begin: datetime
    end: datetime

    def __post_init__(self) -> None:
        if not self.begin < self.end:
            raise InvalidInput(
                f"from {self.begin} to {self.end} is no stretch of time", mend="give a later end"
            )


def register_lookups(
    connection: duckdb.DuckDBPyConnection, view: FeatureView, lookups: Mapping[str, pa.Table]
) -> None:
    """Makes the reference tables readable. Raises UnknownName and InvalidInput as `history.compute` does."""
    for lookup in view.lookups:
        connection.register(lookup.name, reference(view, lookup, lookups))


def window_slices(
    connection: duckdb.DuckDBPyConnection, view: FeatureView, events: RecordedEvents, span: Span
) -> Iterator[str]:
    """Queries that together give every row of the windows that end in `span`, in order of time: the rows of
    `features.compile.duckdb.select`. Each is good until the next is asked for."""
    if isinstance(view.window, Rolling):
        raise InvalidInput(f"{view.name} has no windows", where=view.where, mend="ask for its event rows")
    size, back = _ms(view.window.size), _ms(look_back(view))
    begin, end, bounds = to_millis(span.begin), to_millis(span.end), events.bounds()
    if bounds is None:
        return
    length = max(_ms(SLICE), 2 * size, 2 * back)
    low = max(begin - back, bounds[0])
    last = min(end, bounds[1] + size)
    connection.execute(f"DROP TABLE IF EXISTS {_WINDOWS}")
    while low < last:
        high = min(low + length, last)
        query = events.between(low - size, high)
        connection.execute(f"CREATE OR REPLACE TEMP VIEW {_EVENTS} AS {query}")
        rows = f"SELECT * FROM ({compiled.aggregated(view, _EVENTS)}) WHERE {_ends(low, high)}"
        if not view.derived_levels:
            yield f"{rows} AND {_ends(begin, end)}"
        else:
            made = f"CREATE TEMP TABLE IF NOT EXISTS {_WINDOWS} AS FROM ({rows}) LIMIT 0"
            connection.execute(made)
            connection.execute(f"INSERT INTO {_WINDOWS} {rows}")
            if high > begin:
                wanted = _ends(max(low, begin), high)
                yield f"SELECT * FROM ({compiled.derived(view, _WINDOWS)}) WHERE {wanted}"
            connection.execute(f"DELETE FROM {_WINDOWS} WHERE {quote(WINDOW_END)} <= {high - back}")
        low = high


def event_slices(
    connection: duckdb.DuckDBPyConnection, view: FeatureView, events: RecordedEvents, span: Span
) -> Iterator[str]:
    """Queries that together give a row for every event in `span`, of a rolling view: the fields that
    `events` carries, then the features. Each is good until the next is asked for."""
    longest = _ms(view.windows[-1])
    begin, end, bounds = to_millis(span.begin), to_millis(span.end), events.bounds()
    if bounds is None:
        return
    length = max(_ms(SLICE), 2 * longest)
    low, last = max(begin, bounds[0]), min(end, bounds[1] + 1)
    while low < last:
        high = min(low + length, last)
        query = events.between(low - longest, high)
        connection.execute(f"CREATE OR REPLACE TEMP VIEW {_EVENTS} AS {query}")
        rows = compiled.select(view, _EVENTS, carried=(*events.names, TIME))
        yield f"SELECT * EXCLUDE ({TIME}) FROM ({rows}) WHERE {TIME} >= {low} AND {TIME} < {high}"
        low = high


def feature_rows(view: FeatureView, rows: str, sequence: str) -> str:
    """The query of the records of `features.feature_rows.feature_record`, over a query of a view's rows.
    sequence: an expression over those."""
    fields = list(view.entity_fields)
    entity = entity_sql([quote(name) for name in fields])
    instant = f"make_timestamp({quote(WINDOW_END)} * 1000)"
    items = {
        "tenant": "tenant",
        "id": f"{entity} || '|' || strftime({instant}, '%Y-%m-%d %H:%M:%S.%g') || '|' || ({sequence})",
        ENTITY: entity,
    }
    items |= {field_name(name): quote(name) for name in fields if field_name(name) != ENTITY}
    items |= {
        name: f"make_timestamp({quote(name)} * 1000)::TIMESTAMPTZ" for name in (WINDOW_START, WINDOW_END)
    }
    items |= {SEQUENCE: f"({sequence})::BIGINT"} | {name: quote(name) for name in view.feature_names}
    columns = ", ".join(f"{value} AS {quote(name)}" for name, value in items.items())
    return f"SELECT {columns} FROM ({rows})"


def _ends(after_ms: int, until_ms: int) -> str:
    return f"{quote(WINDOW_END)} > {after_ms} AND {quote(WINDOW_END)} <= {until_ms}"


def _ms(span: timedelta) -> int:
    return span // timedelta(milliseconds=1)
