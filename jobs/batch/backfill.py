"""History of a view from recorded events, into the view's table of the offline store.

A windowed view gets the rows that the stream would have written (sequence 0), without what it knew only
later: all recorded events count, those that came late to the stream too. A rolling view gets a row per event,
as on the enriched topic, none of them late.

A row that the table has already stays as it is: a window by (tenant, entity, end), whatever its sequence; an
event by (tenant, id). So a second backfill of a stretch adds nothing, one that was killed is finished by the
next, and what the stream wrote is left to corrections (`jobs.batch.correct`). Each slice is one commit. Of
two backfills of one table at a time one is refused at its next commit. A stream that writes a window at the
very moment may leave it there twice, with sequence 0 both times: any one counts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError

from core.clock import Clock, to_millis
from core.errors import DeclarationError, InvalidInput, Unavailable
from features.compile.conditions import literal
from features.compile.duckdb_values import quote
from features.enriched import PROVENANCE
from features.offline.batch import Span, event_slices, feature_rows, register_lookups, window_slices
from features.offline.history import integers_fit
from features.offline.out_of_core import DEFAULT, Limits, connected, single_row
from features.offline.recorded_events import RecordedEvents
from features.offline.tabular import Tabular, register
from features.view import FeatureView
from features.windows import Rolling
from pipelines.offline import DATE, POSITION_COLUMNS, application_id, offline_path
from schemas.codec import arrow_schema
from schemas.topic import Topic

ROWS_AT_ONCE = 50_000
_MADE, _THERE = "__made", "__there"
_POSITIONS = (pa.int32(), pa.int64(), pa.timestamp("ms", tz="UTC"))


@dataclass(frozen=True)
class Backfilled:
    """computed: rows of the stretch. added: those of them that the table had not. seconds: all of it."""

    computed: int
    added: int
    seconds: float


def backfill(
    view: FeatureView,
    topic: Topic,
    span: Span,
    events: Sequence[Tabular],
    *,
    root: Path,
    clock: Clock,
    lookups: Mapping[str, pa.Table] | None = None,
    limits: Limits = DEFAULT,
) -> Backfilled:
    """Compute the view's rows of `span` from `events` and add them to the table of `topic`: the view's
    features topic, of a rolling view its enriched topic. The events begin as long before the span as the
    view looks back; of `pipelines.recorded`, or files of any kind.

    Raises InvalidInput for a span whose windows may still be open (its end plus the disorder bound is not
    past), for an integer beyond 64 bits, and for what `features.offline.recorded_events` refuses; TooLarge
    where the limits do not suffice; Unavailable where another backfill was faster or the folder is away: call
    again.
    """
    begun = clock.monotonic()
    if span.end + view.disorder > clock.now():
        raise InvalidInput(
            f"windows until {span.end} are not closed yet", where=view.where, mend="give an earlier end"
        )
    target = _Target(view, topic, root)
    rolling = isinstance(view.window, Rolling)
    carried = view.source.spec().names if rolling else ()
    computed = added = 0
    with connected(limits, where="backfill") as connection, integers_fit(view):
        register_lookups(connection, view, lookups or {})
        recorded = RecordedEvents(connection, view, events, carried=carried)
        target.register(connection)
        now = f"make_timestamp({to_millis(clock.now()) * 1000})::TIMESTAMPTZ"
        slices = event_slices if rolling else window_slices
        for query in slices(connection, view, recorded, span):
            rows = target.rows(query, now)
            connection.execute(f"CREATE OR REPLACE TEMP TABLE {_MADE} AS {rows}")
            computed += _count(connection, _MADE)
            added += target.add(connection)
    return Backfilled(computed, added, clock.monotonic() - begun)


class _Target:
    """The table of the offline store that rows are added to."""

    def __init__(self, view: FeatureView, topic: Topic, root: Path) -> None:
        if topic.record is None or not set(view.feature_names) <= set(topic.record.spec().names):
            raise DeclarationError(
                f"topic {topic.name} has no rows of {view.name}",
                where=view.where,
                mend="give the view's features topic, of a rolling view its enriched topic",
            )
        self._view, self._record = view, topic.record.spec()
        self._rolling = isinstance(view.window, Rolling)
        self._path = offline_path(root, topic.name)
        self._application = application_id(self._path.name, "backfill", 0)
        columns = [(field.name, field.type) for field in arrow_schema(self._record)]
        columns += [*zip(POSITION_COLUMNS, _POSITIONS, strict=True), (DATE, pa.date32())]
        try:
            self._path.mkdir(parents=True, exist_ok=True)
            if not DeltaTable.is_deltatable(str(self._path)):
                schema = pa.schema(columns)
                DeltaTable.create(self._path, schema=schema, partition_by=[DATE], mode="ignore")
            self._table = DeltaTable(self._path)
        except (DeltaError, OSError) as problem:
            raise self._away(problem) from problem
        self._names = [name for name, _ in columns]

    def register(self, connection: duckdb.DuckDBPyConnection) -> None:
        """The rows that are there, as of now."""
        register(connection, _THERE, self._table, where=f"offline table {self._path.name}")

    def rows(self, query: str, now: str) -> str:
        """The rows of the table, over a query of the view's rows."""
        time = quote(str(self._record.time))
        if self._rolling:
            nothing = dict.fromkeys(PROVENANCE, "NULL") | {"late": "false"}
            given = [*self._view.source.spec().names, *self._view.feature_names]
            items = [quote(name) for name in given]
            items += [f"{nothing[name]} AS {quote(name)}" for name in PROVENANCE]
            query = f"SELECT {', '.join(items)} FROM ({query})"
        else:
            query = feature_rows(self._view, query, "0")
        return (
            f"SELECT *, NULL::INTEGER AS {POSITION_COLUMNS[0]}, NULL::BIGINT AS {POSITION_COLUMNS[1]}, "
            f"{now} AS {POSITION_COLUMNS[2]}, {time}::DATE AS {DATE} FROM ({query})"
        )

    def add(self, connection: duckdb.DuckDBPyConnection) -> int:
        """One commit of what is new; how many rows."""
        keys = ("tenant", "id") if self._rolling else ("tenant", "entity", str(self._record.time))
        first, last = self._days(connection)
        same = " AND ".join(f"t.{quote(key)} = m.{quote(key)}" for key in keys)
        within = "" if self._rolling else f"AND t.{DATE} BETWEEN {first} AND {last}"
        new = (
            f"SELECT {', '.join(map(quote, self._names))} FROM {_MADE} m "
            f"WHERE NOT EXISTS (SELECT 1 FROM {_THERE} t WHERE {same} {within})"
        )
        connection.execute(f"CREATE OR REPLACE TEMP TABLE __new AS {new}")
        count = _count(connection, "__new")
        if count:
            order = ", ".join(map(quote, (DATE, *keys)))
            reader = connection.sql(f"SELECT * FROM __new ORDER BY {order}").to_arrow_reader(ROWS_AT_ONCE)
            self._commit(reader)
        return count

    def _days(self, connection: duckdb.DuckDBPyConnection) -> tuple[str, str]:
        found = single_row(connection, f"SELECT min({DATE}), max({DATE}) FROM {_MADE}")
        first, last = (literal(str(day)) for day in found)
        return first, last

    def _commit(self, rows: pa.RecordBatchReader) -> None:
        number = (self._table.transaction_version(self._application) or 0) + 1
        known = {field.name for field in self._table.schema().fields}
        try:
            write_deltalake(
                self._table,
                rows,
                mode="append",
                schema_mode="merge" if set(self._names) - known else None,
                commit_properties=CommitProperties(app_transactions=[Transaction(self._application, number)]),
            )
        except CommitFailedError as problem:
            raise Unavailable(
                f"another backfill was faster: {problem}",
                where=str(self._path),
                mend="run it again when that one has ended",
                code="commit_conflict",
            ) from problem
        except (DeltaError, OSError) as problem:
            raise self._away(problem) from problem

    def _away(self, problem: Exception) -> Unavailable:
        return Unavailable(f"Delta table {self._path}: {problem}", code="offline_unavailable")


def _count(connection: duckdb.DuckDBPyConnection, table: str) -> int:
    return int(single_row(connection, f"SELECT count(*) FROM {table}")[0])
