"""Point-in-time training sets: for each entity row the feature values that could be read at its time.

A feature row takes part where its time is at or before the entity row's; of those the newest counts. Its
time is, of a windowed view, the end of the window plus the view's disorder bound: before that the stream
has not closed the window. Of a rolling view it is the time of the event whose row it is: a read at that
time has that event merged in.

A value is good as long as its age (the entity row's time minus the end of the window, or minus the time of
the event) is at most the feature's time to live. In a rolling view it is also only good as long as the event
is within the feature's window (derived features: the view's longest), after which nothing is left in it.
After that, and where there is no feature row at all, the value is the feature's `empty`.

Between two events a rolling value stays what it was at the earlier one, although events leave its window
meanwhile: exact at the times of events, which is where entity rows that are events lie.

A correction of a window (same end, higher sequence) counts in place of what it corrects, also for entity
rows before it was made: history as it is known now, of events that happened before the row's time.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from core.errors import InvalidInput, UnknownName
from features.compile.conditions import literal
from features.compile.duckdb import WINDOW_END
from features.compile.duckdb_values import SQL_TYPES, quote
from features.offline.out_of_core import DEFAULT, Limits, connected
from features.offline.tabular import Columns, Tabular, register
from features.view import Feature, FeatureView
from features.windows import Rolling

__all__ = ["FeatureRows", "Limits", "column_of", "training_set", "write_training_set"]

_ENTITIES, _ROWS, _FOUND = "__entities", "__rows", "__found"
_COMMA = ",\n  "
_WHERE = "training set"
_LATE, _SEQUENCE, _TIME = "late", "sequence", "time"
_SEQUENCES = 2**65  # room for every sequence, and for none below them all, within a microsecond


@dataclass(frozen=True)
class FeatureRows:
    """The history of a view: its feature rows, in any order.

    rows: tenant (string), the fields of the entity (strings), a time, and the features that are wanted. The
        time is `window_end` in a windowed view, the event time of the source in a rolling one: a timestamp in
        UTC, in microseconds or coarser. Rows without tenant, entity or time take no part.
        Windowed: a window may be there more than once if there is a column `sequence` (integer): the row with
        the highest counts, one without any least.
        Rolling: rows where the column `late` (boolean), if there, is true take no part: they have none.
        Rows of an entity at the same time agree in a rolling view; if they do not, any one of them counts.
        Several tables are one history: an offline table and what its topic has beyond it.
    """

    view: FeatureView
    rows: Tabular | Sequence[Tabular]

    @property
    def tables(self) -> tuple[Tabular, ...]:
        if isinstance(self.rows, Sequence) and not isinstance(self.rows, str):
            return tuple(self.rows)
        return (self.rows,)


def training_set(
    entities: Tabular,
    features: Sequence[str],
    sources: Sequence[FeatureRows],
    *,
    time: str = "event_time",
    times: bool = False,
    limits: Limits = DEFAULT,
) -> pa.Table:
    """The entity rows, all of them, in their order, with the features that were readable at their times.

    entities: tenant (string), the entity fields of every view that is asked (strings), `time` (timestamp in
        UTC), none of them null; and any other columns. They come back as they are if they are an Arrow table,
        and with DuckDB's types (timestamps in microseconds) from files.
    features: `view.feature`, of the views in `sources`. A column `view__feature` each, in this order: int64,
        float64, string or bool; null where the value or the `empty` of the feature is.
    times: also `view__time` per view (timestamp in microseconds, UTC): the end of the window, or the time of
        the event, whose row was used; null where none was good enough for any of the wanted features.

    Raises UnknownName for a view, feature or column that is not there (the nearest is suggested),
    InvalidInput for columns of a wrong type, nulls, columns that would be there twice or files that cannot
    be read, TooLarge where the limits do not suffice.
    """
    plan = _Plan(features, sources, time=time, times=times)
    with connected(limits, where=_WHERE) as connection:
        query = plan.prepare(connection, entities)
        if isinstance(entities, pa.Table):
            found: pa.Table = connection.sql(query).to_arrow_table()
            columns = dict(zip(entities.column_names, entities.columns, strict=True))
            return pa.table(columns | dict(zip(found.column_names, found.columns, strict=True)))
        return connection.sql(_beside(connection, query)).to_arrow_table()


def write_training_set(
    entities: Tabular,
    features: Sequence[str],
    sources: Sequence[FeatureRows],
    *,
    to: Path,
    time: str = "event_time",
    times: bool = False,
    limits: Limits = DEFAULT,
) -> int:
    """Writes the training set (see `training_set`) to a Parquet file and says how many rows it has.

    Entities from files need no more memory than the limits allow. The file appears when it is complete.
    """
    partial = to.with_name(f"{to.name}.partial")
    try:
        if isinstance(entities, pa.Table):
            rows = training_set(entities, features, sources, time=time, times=times, limits=limits)
            pq.write_table(rows, partial)
        else:
            plan = _Plan(features, sources, time=time, times=times)
            with connected(limits, where=_WHERE) as connection:
                query = _beside(connection, plan.prepare(connection, entities))
                connection.execute(f"COPY ({query}) TO {literal(str(partial))} (FORMAT parquet)")
        os.replace(partial, to)
    finally:
        partial.unlink(missing_ok=True)
    return int(pq.read_metadata(to).num_rows)


def _beside(connection: duckdb.DuckDBPyConnection, query: str) -> str:
    """The entities and the features found for them, side by side: both are in the entities' order."""
    connection.execute(f"CREATE TEMP TABLE {_FOUND} AS {query}")
    return f"SELECT * FROM {_ENTITIES} POSITIONAL JOIN {_FOUND}"


class _Plan:
    """What is wanted, checked as far as the declarations tell."""

    def __init__(
        self, features: Sequence[str], sources: Sequence[FeatureRows], *, time: str, times: bool
    ) -> None:
        self.time, self.times = time, times
        given: dict[str, FeatureRows] = {}
        for source in sources:
            if source.view.name in given:
                raise InvalidInput(
                    f"view {source.view.name!r} is there twice", where=_WHERE, mend="give one source per view"
                )
            given[source.view.name] = source
        self.wanted = [_resolved(reference, given) for reference in features]
        self.columns = [column_of(view, feature.name) for view, feature in self.wanted]
        views = list(dict.fromkeys(view.name for view, _ in self.wanted))
        self.sources = {
            name: _Source(given[name], tuple(f for view, f in self.wanted if view.name == name))
            for name in views
        }
        if times:
            self.columns += [column_of(source.view, _TIME) for source in self.sources.values()]
        if not features:
            raise InvalidInput("no feature is wanted", where=_WHERE, mend="name some, as view.feature")

    def prepare(self, connection: duckdb.DuckDBPyConnection, entities: Tabular) -> str:
        """The query of the features, in the order of the entities."""
        self._register_entities(connection, entities)
        span = self._span(connection)
        numbers: dict[tuple[str, ...], str] = {}
        for source in self.sources.values():
            fields = source.view.entity_fields
            if fields not in numbers:
                numbers[fields] = _number(connection, fields, len(numbers))
        entity_of = ", ".join(f"{name}.__entity AS {name}" for name in numbers.values())
        rows = f"SELECT r.__row, r.__at_us, {entity_of} FROM {_ROWS} r" + "".join(
            f" JOIN {name} ON {_same('r', name, fields)}" for fields, name in numbers.items()
        )
        joins = []
        for source in self.sources.values():
            columns, name = source.register(connection), numbers[source.view.entity_fields]
            joins.append(source.join(columns, source.rows(columns, name, span), name))
        items = [self.sources[view.name].value(feature) for view, feature in self.wanted]
        if self.times:
            items += [source.used() for source in self.sources.values()]
        return "\n".join([f"SELECT\n  {_COMMA.join(items)}", f"FROM ({rows}) r", *joins, "ORDER BY r.__row"])

    def _register_entities(self, connection: duckdb.DuckDBPyConnection, entities: Tabular) -> None:
        """Their keys and times as a table, numbered in their order."""
        where = f"{_WHERE}, entities"
        fields = (name for source in self.sources.values() for name in source.view.entity_fields)
        keys = tuple(dict.fromkeys(("tenant", *fields)))
        if isinstance(entities, pa.Table):  # DuckDB need not know the types of the other columns
            self._check_names(entities.column_names, keys, where)
            entities = entities.select([*keys, self.time])
            columns = register(connection, _ENTITIES, entities, where=where)
        else:
            columns = register(connection, _ENTITIES, entities, where=where)
            self._check_names(list(columns.types), keys, where)
        for name in keys:
            columns.require(name, "string")
        columns.require_time(self.time, nanoseconds=True)
        items = ", ".join(f"{quote(name)}::VARCHAR AS {quote(name)}" for name in keys)
        connection.execute(
            f"CREATE TEMP TABLE {_ROWS} AS SELECT row_number() OVER () AS __row, {items}, "
            f"{columns.micros(self.time)} AS __at_us FROM {_ENTITIES}"
        )
        for name, column in [*zip(keys, keys, strict=True), (self.time, "__at_us")]:
            query = f"SELECT min(__row) FROM {_ROWS} WHERE {quote(column)} IS NULL"
            row = connection.execute(query).fetchone()
            if row and row[0] is not None:
                raise InvalidInput(
                    f"column {name!r} is null in row {row[0] - 1}", where=where, mend="drop such rows"
                )

    def _check_names(self, names: list[str], keys: tuple[str, ...], where: str) -> None:
        for name in (*keys, self.time):
            if name not in names:
                raise UnknownName("column", name, names, where=where)
        every = [*names, *self.columns]
        for name in every:
            if every.count(name) > 1:
                raise InvalidInput(
                    f"column {name!r} would be there twice",
                    where=where,
                    mend="rename it in the entities, or ask for the feature once",
                )

    def _span(self, connection: duckdb.DuckDBPyConnection) -> tuple[int, int]:
        found = connection.execute(f"SELECT min(__at_us), max(__at_us) FROM {_ROWS}").fetchone()
        return (found[0], found[1]) if found and found[0] is not None else (0, 0)


def column_of(view: FeatureView, name: str) -> str:
    """The name of a column of a view in a training set."""
    return f"{view.name}__{name}"


def _resolved(reference: str, given: Mapping[str, FeatureRows]) -> tuple[FeatureView, Feature]:
    name, dot, feature = reference.partition(".")
    if not dot:
        raise InvalidInput(f"{reference!r} names no feature", where=_WHERE, mend="write it as view.feature")
    if name not in given:
        raise UnknownName("view", name, given, where=_WHERE)
    view = given[name].view
    return view, view.feature(feature)


def _number(connection: duckdb.DuckDBPyConnection, fields: tuple[str, ...], number: int) -> str:
    """A number per entity of the rows: joins by it are far cheaper than by tenant and names, and feature rows
    of other entities are gone before they are sorted."""
    name, keys = f"__numbers_{number}", ", ".join(map(quote, ("tenant", *fields)))
    connection.execute(
        f"CREATE TEMP TABLE {name} AS SELECT *, row_number() OVER () AS __entity "
        f"FROM (SELECT DISTINCT {keys} FROM {_ROWS})"
    )
    return name


def _same(left: str, right: str, fields: tuple[str, ...]) -> str:
    return " AND ".join(f"{_label(left, name)} = {_label(right, name)}" for name in ("tenant", *fields))


def _raw(view: FeatureView) -> str:
    return f"__raw_{view.name}"


def _alias(view: FeatureView) -> str:
    return quote(f"__of_{view.name}")


def _label(table: str, column: str) -> str:
    return f"{table}.{quote(column)}"


def _instant(at_us: int) -> str:
    return f"make_timestamp({at_us})::TIMESTAMPTZ"


def _us(span: timedelta) -> int:
    return span // timedelta(microseconds=1)


@dataclass(frozen=True)
class _Source:
    """The feature rows of one view, and what is wanted of them."""

    given: FeatureRows
    wanted: tuple[Feature, ...]

    @property
    def view(self) -> FeatureView:
        return self.given.view

    @property
    def where(self) -> str:
        return f"{_WHERE}, rows of {self.view.where}"

    @property
    def rolling(self) -> bool:
        return isinstance(self.view.window, Rolling)

    @property
    def time(self) -> str:
        return self.view.time if self.rolling else WINDOW_END

    @property
    def delay_us(self) -> int:
        """How long after its time a feature row can be read."""
        return 0 if self.rolling else _us(self.view.disorder)

    def good_us(self, feature: Feature) -> int:
        """How old a value may be."""
        ttl = self.view.ttl_of(feature)
        return _us(min(ttl, feature.over or self.view.windows[-1]) if self.rolling else ttl)

    @property
    def longest_us(self) -> int:
        return max(map(self.good_us, self.wanted))

    def register(self, connection: duckdb.DuckDBPyConnection) -> Columns:
        name, tables = _raw(self.view), self.given.tables
        if not tables:
            raise InvalidInput(
                f"{self.view.name} has no feature rows", where=self.where, mend="give at least one table"
            )
        if len(tables) == 1:
            return self._checked(register(connection, name, tables[0], where=self.where))
        parts = []
        for number, table in enumerate(tables):
            part = f"{name}_{number}"
            columns = self._checked(register(connection, part, table, where=self.where))
            used = ["tenant", *self.view.entity_fields, self.time, *(feature.name for feature in self.wanted)]
            used += [_SEQUENCE] if self.corrected(columns) else []
            used += [_LATE] if self.marked(columns) else []
            parts.append(f"SELECT {', '.join(map(quote, dict.fromkeys(used)))} FROM {quote(part)}")
        connection.execute(f"CREATE TEMP VIEW {quote(name)} AS {' UNION ALL BY NAME '.join(parts)}")
        return Columns(connection, name, where=self.where)

    def _checked(self, columns: Columns) -> Columns:
        for name in ("tenant", *self.view.entity_fields):
            columns.require(name, "string")
        columns.require_time(self.time)
        for feature in self.wanted:
            columns.require(feature.name, self.view.kind(feature))
        if self.corrected(columns):
            columns.require(_SEQUENCE, "long")
        if self.marked(columns):
            columns.require(_LATE, "boolean")
        return columns

    def corrected(self, columns: Columns) -> bool:
        return not self.rolling and _SEQUENCE in columns.types.keys() - set(self.view.feature_names)

    def marked(self, columns: Columns) -> bool:
        return self.rolling and _LATE in columns.types.keys() - set(self.view.feature_names)

    def rows(self, columns: Columns, numbers: str, span: tuple[int, int]) -> str:
        """The feature rows of the entities in `numbers` that can count for entity rows of that span of time
        (microseconds, both ends in it)."""
        first, last = span[0] - self.longest_us, span[1] - self.delay_us
        time, at = _label("s", self.time), f"epoch_us({_label('s', self.time)})"
        order = f"{at}"
        if self.corrected(columns):
            rank = f"COALESCE(s.{_SEQUENCE}::HUGEINT + {2**63 + 1}, 0)"
            order = f"{at}::HUGEINT * {_SEQUENCES} + {rank}"
        items = [f"n.__entity, {time} AS __time, {at} AS __at_us, {order} AS __ordered"]
        items += [_label("s", feature.name) for feature in self.wanted]
        conditions = [f"{time} >= {_instant(first)}", f"{time} <= {_instant(last)}"]
        if self.marked(columns):
            conditions.append(f"s.{_LATE} IS NOT TRUE")
        return (
            f"SELECT {', '.join(items)}\nFROM {quote(_raw(self.view))} s JOIN {numbers} n "
            f"ON {_same('s', 'n', self.view.entity_fields)}\nWHERE {' AND '.join(conditions)}"
        )

    def join(self, columns: Columns, rows: str, entity: str) -> str:
        """The newest feature row that could be read at the time of the entity row, by sequence among those
        of one window."""
        asked = f"r.__at_us - {self.delay_us}"
        if self.corrected(columns):
            asked = f"({asked})::HUGEINT * {_SEQUENCES} + {_SEQUENCES - 1}"
        mine = _alias(self.view)
        return (
            f"ASOF LEFT JOIN ({rows}) {mine} ON r.{entity} = {mine}.__entity AND {asked} >= {mine}.__ordered"
        )

    def value(self, feature: Feature) -> str:
        mine = _alias(self.view)
        good = f"r.__at_us - {mine}.__at_us <= {self.good_us(feature)}"
        value = f"{_label(mine, feature.name)}::{SQL_TYPES[self.view.kind(feature)]}"
        value = f"CASE WHEN {good} THEN {value} END"
        if feature.empty is not None:
            value = f"COALESCE({value}, {literal(feature.empty)})"
        return f"{value} AS {quote(column_of(self.view, feature.name))}"

    def used(self) -> str:
        mine = _alias(self.view)
        good = f"r.__at_us - {mine}.__at_us <= {self.longest_us}"
        return f"CASE WHEN {good} THEN {mine}.__time END AS {quote(column_of(self.view, _TIME))}"
