"""What late events change: the rows of a windowed view that have to be sent again, and with which values.

A late event changes the windows that it is in, and those whose derived features look back at them
(`features.offline.reach`). Their rows are computed from all recorded events, and are sent where they differ
from the newest that is known (integers exactly, doubles beyond the view's tolerance), with the next higher
sequence.
So what was corrected already is left alone, however often a late event is looked at.

A window is due once a row of a window that ends later is known: the stream's clock has then passed its end,
and all of its events in time are recorded. Before that the stream would send a row without the late event, or
has yet to send one that looks back at it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

import duckdb

from core.clock import from_millis
from core.errors import DeclarationError, InvalidInput
from features.compile import duckdb as compiled
from features.compile.duckdb import WINDOW_END, WINDOW_START
from features.compile.duckdb_values import TIME, quote
from features.feature_rows import ENTITY, SEQUENCE
from features.offline.batch import Span, feature_rows, window_slices
from features.offline.out_of_core import single_row
from features.offline.reach import look_back, reach
from features.offline.recorded_events import POSITION, RecordedEvents
from features.offline.tabular import Tabular, register
from features.view import Feature, FeatureView
from features.windows import Rolling, Windowed
from schemas.keys import entity_sql

_LATE, _KNOWN, _CHANGED, _COMPUTED = "__late", "__known", "__changed", "__computed"


@dataclass(frozen=True)
class Due:
    """changed: windows that late events change and that are due; they end in [first_ms, last_ms].
    reads_ms: the earliest event time that their rows are made of. waiting: per partition of the late topic
    the offset of the first event that changes a window which is not due yet."""

    changed: int
    first_ms: int
    last_ms: int
    reads_ms: int
    waiting: Mapping[int, int]


NOTHING = Due(0, 0, 0, 0, {})


class Corrections:
    """Over one connection: `due`, then `rows` with the events, which are to be read after `known` was."""

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        view: FeatureView,
        late: Sequence[Tabular],
        known: Sequence[Tabular],
    ) -> None:
        if isinstance(view.window, Rolling):
            raise DeclarationError(
                f"{view.name} has no windows to correct",
                where=view.where,
                mend="a late row of a rolling view gets its features when it is scored",
            )
        self._connection, self._view = connection, view
        self._window: Windowed = view.window
        self._keys = ("tenant", *view.entity_fields)
        self._late = RecordedEvents(connection, view, late, carried=POSITION, name=_LATE)
        self._register_known(known)

    def due(self) -> Due:
        """What the late events change."""
        bounds = self._late.bounds()
        if bounds is None:
            return NOTHING
        keys, step = ", ".join(map(quote, self._keys)), _ms(self._window.every)
        late = self._late.between(bounds[0], bounds[1] + 1)
        self._connection.execute(f"CREATE OR REPLACE TEMP VIEW {_LATE} AS {late}")
        (closed,) = single_row(self._connection, f"SELECT max(epoch_ms({WINDOW_END})) FROM {_KNOWN}")
        closed = bounds[0] if closed is None else closed  # without any row no window is due
        shifts = " UNION ALL ".join(
            f"SELECT {keys}, {WINDOW_END} + UNNEST(range({_ms(near)}, {_ms(far) + step}, {step})) "
            "AS changed_end "
            f"FROM ({compiled.aggregated(self._view, _LATE)})"
            for near, far in reach(self._view)
        )
        self._connection.execute(
            f"CREATE OR REPLACE TEMP TABLE {_CHANGED} AS "
            f"SELECT DISTINCT {keys}, changed_end FROM ({shifts}) WHERE changed_end < {closed}"
        )
        found = f"SELECT count(*), min(changed_end), max(changed_end) FROM {_CHANGED}"
        number, first, last = single_row(self._connection, found)
        partition, offset = POSITION
        last_end = f"{TIME} + {_ms(self._window.size) + _ms(look_back(self._view))}"
        waiting = self._connection.execute(
            f"SELECT {partition}, min({offset}) FROM {_LATE} "
            f"WHERE {last_end} >= {closed} GROUP BY {partition}"
        ).fetchall()
        if not number:
            return Due(0, 0, 0, 0, dict(waiting))
        reads = _ms(self._window.size) + _ms(look_back(self._view))
        return Due(number, first, last, first - reads, dict(waiting))

    def rows(self, due: Due, events: Sequence[Tabular]) -> str:
        """The query of the feature rows to be sent: the fields of `features.feature_rows.feature_record`."""
        own = [name for name in self._keys if "." not in name]
        names = ", ".join(map(quote, own))
        recorded = RecordedEvents(
            self._connection, self._view, events, only=f"({names}) IN (SELECT {names} FROM {_CHANGED})"
        )
        self._connection.execute(f"DROP TABLE IF EXISTS {_COMPUTED}")
        keys, made = ", ".join(map(quote, self._keys)), False
        span = Span(from_millis(due.first_ms - 1), from_millis(due.last_ms))
        for query in window_slices(self._connection, self._view, recorded, span):
            changed = f"SELECT {keys}, changed_end FROM {_CHANGED}"
            wanted = f"SELECT * FROM ({query}) WHERE ({keys}, {WINDOW_END}) IN ({changed})"
            verb = f"INSERT INTO {_COMPUTED}" if made else f"CREATE TEMP TABLE {_COMPUTED} AS"
            self._connection.execute(f"{verb} {wanted}")
            made = True
        if not made:
            raise InvalidInput(
                f"no event between {span.begin} and {span.end} is recorded, but late ones are",
                where=self._view.where,
                mend="give all recorded events, the late ones among them",
            )
        return feature_rows(self._view, self._different(), "1 + coalesce(__known_sequence, 0)")

    def _register_known(self, known: Sequence[Tabular]) -> None:
        """All rows, of every sequence."""
        columns = ["tenant", ENTITY, WINDOW_END, SEQUENCE, *self._view.feature_names]
        parts = []
        for number, table in enumerate(known):
            name = f"{_KNOWN}_{number}"
            given = register(self._connection, name, table, where=f"rows of {self._view.where}")
            given.require_time(WINDOW_END)
            given.require(SEQUENCE, "long")
            for feature in self._view.features:
                given.require(feature.name, self._view.kind(feature))
            parts.append(f"SELECT {', '.join(map(quote, columns))} FROM {quote(name)}")
        if not parts:
            nothing = [f"NULL AS {quote(name)}" for name in self._view.feature_names]
            own = f"NULL AS tenant, NULL AS {ENTITY}, NULL::TIMESTAMPTZ AS {WINDOW_END}, NULL AS {SEQUENCE}"
            parts = [f"SELECT {own}, {', '.join(nothing)} WHERE false"]
        self._connection.execute(f"CREATE OR REPLACE TEMP VIEW {_KNOWN} AS {' UNION ALL '.join(parts)}")

    def _different(self) -> str:
        """The rows computed that are not known, or known with other values, and the sequence known."""
        entity = entity_sql([quote(name) for name in self._view.entity_fields])
        values = ", ".join(f"{quote(name)} := {quote(name)}" for name in self._view.feature_names)
        newest = (
            f"SELECT tenant, {ENTITY}, epoch_ms({WINDOW_END}) AS known_end, "
            f"max({SEQUENCE}) AS __known_sequence, "
            f"arg_max(struct_pack({values}), {SEQUENCE}) AS known FROM {_KNOWN} "
            f"WHERE epoch_ms({WINDOW_END}) IN (SELECT {WINDOW_END} FROM {_COMPUTED}) "
            f"GROUP BY tenant, {ENTITY}, {WINDOW_END}"
        )
        differ = " OR ".join(self._differs(feature) for feature in self._view.features)
        columns = ", ".join(
            f"c.{quote(name)}" for name in (*self._keys, WINDOW_START, WINDOW_END, *self._view.feature_names)
        )
        return (
            f"SELECT {columns}, k.__known_sequence "
            f"FROM (SELECT *, {entity} AS __entity FROM {_COMPUTED}) c LEFT JOIN ({newest}) k "
            f"ON c.tenant = k.tenant AND c.__entity = k.{ENTITY} AND c.{WINDOW_END} = k.known_end "
            f"WHERE k.known IS NULL OR {differ}"
        )

    def _differs(self, feature: Feature) -> str:
        mine, other = f"c.{quote(feature.name)}", f"k.known.{quote(feature.name)}"
        if self._view.kind(feature) != "double":
            return f"{mine} IS DISTINCT FROM {other}"
        close = f"abs({mine} - {other}) <= {self._view.tolerance!r} * greatest(abs({mine}), abs({other}))"
        return f"(({mine} IS NULL) <> ({other} IS NULL) OR NOT ({close}))"


def _ms(span: timedelta) -> int:
    return span // timedelta(milliseconds=1)
