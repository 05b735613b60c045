"""Recorded events as a relation for DuckDB: those of a stretch of time, each (tenant, id) once, out of core.

Of repeats the first counts, as in the stream: by (kafka_partition, kafka_offset) where the tables have them
(`jobs.writer.sinks.offline`), else by the order of the rows. Which of two partitions had a message first is
not known: producers stamp events with their own time. Repeats are found by a hash of (tenant, id) over all
rows, far cheaper than to group the ids themselves, and are then told apart exactly: no event is lost to two
ids with one hash.
"""

from collections.abc import Sequence

import duckdb

from core.clock import from_millis
from features.compile.duckdb_values import TIME, quote
from features.kinds import COLUMN_KINDS
from features.offline.out_of_core import single_row
from features.offline.tabular import Columns, Tabular, register
from features.view import FeatureView

POSITION = ("kafka_partition", "kafka_offset")
_DATE = "date"
_HASH = "hash(tenant, id)"


class RecordedEvents:
    """The events of a view's source in `tables`, registered with the connection.

    carried: further columns that are wanted besides what the view computes with: fields, `POSITION`.
    name: what the relations in DuckDB begin with. only: a condition over the fields that leaves out others.
    Raises UnknownName for a column that is not there, InvalidInput for one of a wrong type.
    """

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        view: FeatureView,
        tables: Sequence[Tabular],
        *,
        carried: Sequence[str] = (),
        name: str = "__recorded",
        only: str | None = None,
    ) -> None:
        self._connection, self._view, self._only = connection, view, only
        self._twice, self._firsts = f"{name}_repeats", f"{name}_firsts"
        own = (name for name in view.entity_fields if "." not in name)
        self.names = tuple(dict.fromkeys(["tenant", "id", *own, *view.columns, *carried]))
        self._tables: list[tuple[str, Columns]] = []
        for number, table in enumerate(tables):
            relation = f"{name}_{number}"
            columns = register(connection, relation, table, where=f"events of {view.where}")
            self._check(columns)
            self._tables.append((relation, columns))
        self._repeats = self._find_repeats()

    def between(self, begin_ms: int, end_ms: int) -> str:
        """The query of the events with begin <= time < end: `names` and `at_ms`."""
        items = ", ".join([*map(quote, self.names), quote(TIME)])
        query = self._rows(begin_ms, end_ms)
        if self._repeats:
            query = (
                f"SELECT {items} FROM ({query}) WHERE {_HASH} NOT IN (SELECT h FROM {self._twice})\n"
                f"UNION ALL\nSELECT {items} FROM {self._firsts} "
                f"WHERE {TIME} >= {begin_ms} AND {TIME} < {end_ms}"
            )
        return query if self._only is None else f"SELECT {items} FROM ({query}) WHERE {self._only}"

    def begins(self) -> dict[int, int]:
        """The earliest event time in ms of each Kafka partition, where the tables know of partitions."""
        time, partition = quote(self._view.time), POSITION[0]
        parts = " UNION ALL ".join(
            f"SELECT {partition} AS p, epoch_ms({time}) AS earliest FROM {quote(name)}"
            for name, columns in self._tables
            if partition in columns.types
        )
        if not parts:
            return {}
        query = f"SELECT p, min(earliest) FROM ({parts}) WHERE p IS NOT NULL GROUP BY p"
        return dict(self._connection.execute(query).fetchall())

    def bounds(self) -> tuple[int, int] | None:
        """The earliest and the latest event time in ms; None without events."""
        time = quote(self._view.time)
        parts = " UNION ALL ".join(
            f"SELECT epoch_ms(min({time})) AS a, epoch_ms(max({time})) AS b FROM {quote(name)}"
            for name, _ in self._tables
        )
        if not parts:
            return None
        first, last = single_row(self._connection, f"SELECT min(a), max(b) FROM ({parts})")
        return None if first is None else (first, last)

    def _check(self, columns: Columns) -> None:
        columns.require_time(self._view.time)
        for name in self.names:
            if name in POSITION:
                columns.require(name, "long")
                continue
            kind = COLUMN_KINDS.get(self._view.source.spec().field(name).kind)
            if kind is not None:
                columns.require(name, kind)
            elif name not in columns.types:
                columns.require(name, "string")  # it is not there: say so

    def _rows(self, begin_ms: int, end_ms: int) -> str:
        """All rows of a stretch of time, repeats too."""
        parts = []
        for name, columns in self._tables:
            time = quote(self._view.time)
            items = [*map(quote, self.names), f"epoch_ms({time}) AS {TIME}"]
            query = f"SELECT {', '.join(items)} FROM {quote(name)}"
            query += f" WHERE {time} >= {_instant(begin_ms)} AND {time} < {_instant(end_ms)}"
            if _dated(columns, self._view):
                days = [from_millis(at).date().isoformat() for at in (begin_ms, end_ms)]
                query += f" AND {_DATE} BETWEEN '{days[0]}' AND '{days[1]}'"
            parts.append(query)
        nothing = [f"NULL AS {quote(name)}" for name in self.names] + [f"0 AS {TIME}"]
        return " UNION ALL ".join(parts) or f"SELECT {', '.join(nothing)} WHERE false"

    def _find_repeats(self) -> bool:
        """Makes the tables of what is there more than once; whether anything is."""
        if not self._tables:
            return False
        hashes = " UNION ALL ".join(f"SELECT {_HASH} AS h FROM {quote(name)}" for name, _ in self._tables)
        self._connection.execute(
            f"CREATE OR REPLACE TEMP TABLE {self._twice} AS "
            f"SELECT h FROM ({hashes}) GROUP BY h HAVING count(*) > 1"
        )
        if single_row(self._connection, f"SELECT count(*) FROM {self._twice}") == (0,):
            return False
        parts = []
        for number, (name, columns) in enumerate(self._tables):
            given = all(column in columns.types for column in POSITION)
            order = [quote(column) for column in POSITION] if given else ["NULL", "NULL"]
            items = [
                *map(quote, self.names),
                f"epoch_ms({quote(self._view.time)}) AS {TIME}",
                f"{number} AS o0",
            ]
            items += [f"{column} AS o{n}" for n, column in enumerate(order, 1)]
            items.append("row_number() OVER () AS o3")
            parts.append(
                f"SELECT * FROM (SELECT {', '.join(items)} FROM {quote(name)}) "
                f"WHERE {_HASH} IN (SELECT h FROM {self._twice})"
            )
        arrival = "o1 NULLS LAST, o2, o0, o3"
        self._connection.execute(
            f"CREATE OR REPLACE TEMP TABLE {self._firsts} AS SELECT * EXCLUDE (o0, o1, o2, o3) "
            f"FROM ({' UNION ALL '.join(parts)}) "
            f"QUALIFY row_number() OVER (PARTITION BY tenant, id ORDER BY {arrival}) = 1"
        )
        return True


def _dated(columns: Columns, view: FeatureView) -> bool:
    """Whether the table is partitioned by the date of the event, as the offline store's are."""
    return _DATE in columns.types and POSITION[-1] in columns.types and _DATE not in view.source.spec().names


def _instant(at_ms: int) -> str:
    return f"make_timestamp({at_ms * 1000})::TIMESTAMPTZ"
