"""A windowed view to Flink SQL: a window function, its aggregates, and derived features level by level.

    events ─ watermark, late or not ─ first per (tenant, id) ─┬─ in time: lookups ─ windows ─ OVERs ─> rows
                                                              └─ late, as it was ──────────> late events

What comes before the windows is that of `features.compile.flink`. A row that is in time there is ahead of the
watermark, so that no window it is in has been closed: every event is in all of its windows or among the late
ones, never in some of them. A window comes out once, when the watermark has passed its end; one without an
event does not come out. A quiet stream's last window waits for an event after its end.

A lookup is of the row as it is when the event comes by; before the first one the whole table has been read.

Flink's integers wrap around beyond 64 bits, where DuckDB raises. A moving average of doubles takes leaving
values out of its sum: after values of very different size it keeps their rounding.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cached_property

from core.errors import DeclarationError
from features.aggregates import First, Last, simple_parts
from features.compile.flink import (
    AT,
    FIRST,
    KEY,
    LATE,
    Connection,
    Script,
    check_source,
    disorder_bound,
    first_view,
    lineage_of,
    reference_name,
    reference_table,
    sink_table,
    source_table,
)
from features.compile.flink_columns import interval, quote
from features.compile.flink_window_values import (
    ORDER,
    aggregate_sql,
    derived_sql,
    frame,
    order_sql,
    time_name,
    time_sql,
)
from features.derived import Ago, Arithmetic, Coalesce, Derived, MovingAverage
from features.feature_rows import ENTITY, SEQUENCE, WINDOW_END, WINDOW_START, field_name
from features.lookups import MOST_ROWS, Lookup
from features.view import Feature, FeatureView
from features.windowed import FLINKS_OWN, check_windowed
from features.windows import Cumulating, Hopping, Windowed
from schemas.keys import entity_sql, key_sql
from schemas.topic import Topic

ROWS, LATE_EVENTS = "feature_rows", "late_events"
NEEDED, LOOKED_UP, WINDOWED, FEATURES = "needed", "looked_up", "windowed", "features"
EVENT, NOW = "__event", "__now"
ENGINE = "the Flink job"


@dataclass(frozen=True)
class WindowedStream:
    """A windowed view of a pipeline over its source, in one job. A `FlinkStream`.

    rows: a topic of `features.feature_rows.feature_record(view)`. late: a topic of the source's record.
    """

    pipeline: str
    source: Topic
    view: FeatureView
    rows: Topic
    late: Topic

    def __post_init__(self) -> None:
        check_windowed(self.view, ENGINE)
        check_source(self)
        for topic, names in ((self.rows, _row(self.view)), (self.late, self.view.source.spec().names)):
            if topic.record is None or set(topic.record.spec().names) != set(names):
                raise DeclarationError(
                    f"topic {topic.name} has another record than what is written to it",
                    where=f"pipeline {self.pipeline}",
                    mend="make the topics with features.feature_rows: features_topic and late_topic",
                )
            if topic.partitions != self.source.partitions:
                raise DeclarationError(
                    f"topic {topic.name} has {topic.partitions} partitions, {self.source.name} has "
                    f"{self.source.partitions}",
                    where=f"pipeline {self.pipeline}",
                    mend="give the topics of one path equal partition counts",
                )

    @property
    def references(self) -> tuple[Topic, ...]:
        """The topics of the lookups' tables; they need no certain number of partitions."""
        topics = [lookup.topic for lookup in self.view.lookups if lookup.topic is not None]
        return tuple(dict.fromkeys(topics))

    @cached_property
    def lineage(self) -> str:
        # A table that outgrew its bound is given another one; the job goes on with its state.
        lookups = tuple(replace(lookup, most_rows=MOST_ROWS) for lookup in self.view.lookups)
        return lineage_of(replace(self, view=replace(self.view, lookups=lookups)))

    def compile(
        self,
        connection: Connection,
        *,
        disorder: timedelta | None = None,
        since: Mapping[int, int] | None = None,
    ) -> Script:
        bound = disorder_bound(self.view, disorder)
        tables = [
            source_table(self, connection, bound, since),
            sink_table(ROWS, self.rows, connection),
            sink_table(LATE_EVENTS, self.late, connection),
            *(reference_table(lookup, connection) for lookup in self.view.lookups),
            first_view(self.view),
            *views(self.view, FIRST, AT, LATE),
        ]
        return Script.of(tables, [insert_rows(self), _insert_late(self)])


def views(view: FeatureView, events: str, at: str, late: str) -> list[str]:
    """CREATE VIEW statements; the last view is named `features`: tenant, the fields of the entity,
    window_start, window_end, the features. Rows of `events` that are `late` are left out.

    Raises DeclarationError for a view that `check_windowed` refuses.
    """
    window = check_windowed(view, ENGINE)
    keys = ["tenant", *view.entity_fields]
    own = list(dict.fromkeys([*(name for name in keys if "." not in name), *view.columns, at]))
    needed = [quote(name) for name in own]
    if _has_order(view):
        own.append(ORDER)
        needed.append(f"{order_sql(at)} AS {quote(ORDER)}")
    if view.lookups:
        needed.append(f"PROCTIME() AS {quote(NOW)}")
    out = [_view(NEEDED, f"{_select(needed)}\nFROM {quote(events)}\nWHERE NOT {quote(late)}")]
    if view.lookups:
        out.append(_view(LOOKED_UP, _joined(view, own)))
    group = _names([*keys, WINDOW_START, WINDOW_END, FLINKS_OWN])
    aggregates = [f"{aggregate_sql(view, f, a)} AS {quote(f.name)}" for f, a in view.aggregates]
    table = _function(window, LOOKED_UP if view.lookups else NEEDED, at)
    out.append(_view(WINDOWED, f"{_select([group, *aggregates])}\nFROM TABLE({table})\nGROUP BY {group}"))
    have = [*keys, WINDOW_START, WINDOW_END, FLINKS_OWN, *(feature.name for feature, _ in view.aggregates)]
    below = WINDOWED
    for number, level in enumerate(view.derived_levels, 1):
        helpers: list[str] = []
        for span, functions in _frames(level).items():
            name = f"level_{number}_{span // timedelta(milliseconds=1)}ms"
            made = [f"{time_sql(view, one, WINDOW_END)} AS {quote(time_name(one))}" for one in functions]
            out.append(
                _view(
                    name,
                    f"{_select([_names([*have, *helpers]), *made])}\nFROM {quote(below)}\n"
                    f"WINDOW w AS (PARTITION BY {_names(keys)} ORDER BY {quote(FLINKS_OWN)} "
                    f"RANGE BETWEEN {interval(span)} PRECEDING AND CURRENT ROW)",
                )
            )
            below, helpers = name, [*helpers, *map(time_name, functions)]
        values = [f"{derived_sql(view, f, derived)} AS {quote(f.name)}" for f, derived in level]
        out.append(_view(f"level_{number}", f"{_select([_names(have), *values])}\nFROM {quote(below)}"))
        below, have = f"level_{number}", [*have, *(feature.name for feature, _ in level)]
    last = [*keys, WINDOW_START, WINDOW_END, *view.feature_names]
    out.append(_view(FEATURES, f"SELECT {_names(last)}\nFROM {quote(below)}"))
    return out


def _has_order(view: FeatureView) -> bool:
    return any(isinstance(part, First | Last) for _, a in view.aggregates for part in simple_parts(a))


def _joined(view: FeatureView, own: list[str]) -> str:
    """The events with the columns of their lookups; without a value in the entity one is in no window."""
    items = [f"{quote(EVENT)}.{quote(name)}" for name in own]
    items += [f"{_looked_up(name)} AS {quote(name)}" for name in view.inputs if "." in name]
    there = [f"{_looked_up(name)} IS NOT NULL" for name in view.entity_fields if "." in name]
    text = f"{_select(items)}\nFROM {quote(NEEDED)} AS {quote(EVENT)}"
    text += "".join(_join(lookup) for lookup in view.lookups)
    return text + (f"\nWHERE {' AND '.join(there)}" if there else "")


def _join(lookup: Lookup) -> str:
    name = quote(lookup.name)
    equal = [
        f"{quote(EVENT)}.{quote(ours)} = {name}.{quote(theirs)}"
        for ours, theirs in {"tenant": "tenant", **lookup.on}.items()
    ]
    return (
        f"\nLEFT JOIN {quote(reference_name(lookup))} FOR SYSTEM_TIME AS OF {quote(EVENT)}.{quote(NOW)} "
        f"AS {name}\nON {' AND '.join(equal)}"
    )


def _looked_up(name: str) -> str:
    lookup, _, column = name.partition(".")
    return f"{quote(lookup)}.{quote(column)}"


def _function(window: Windowed, table: str, at: str) -> str:
    events = f"TABLE {quote(table)}, DESCRIPTOR({quote(at)})"
    match window:
        case Hopping(size, every):
            return f"HOP({events}, {interval(every)}, {interval(size)})"
        case Cumulating(size, every):
            return f"CUMULATE({events}, {interval(every)}, {interval(size)})"
        case _:
            return f"TUMBLE({events}, {interval(window.size)})"


def _frames(level: tuple[tuple[Feature, Derived], ...]) -> dict[timedelta, list[Ago | MovingAverage]]:
    """The functions of time of a level by the length of their OVER, the longest first: one OVER per level of
    SQL, and the rows that are kept longest the narrowest."""
    found = dict.fromkeys(function for _, derived in level for function in _functions(derived))
    spans = sorted({frame(function) for function in found}, reverse=True)
    return {span: [function for function in found if frame(function) == span] for span in spans}


def _functions(derived: Derived) -> Iterator[Ago | MovingAverage]:
    match derived:
        case Ago() | MovingAverage():
            yield derived
        case Arithmetic(_, left, right):
            yield from _functions(left)
            yield from _functions(right)
        case Coalesce(parts):
            for part in parts:
                yield from _functions(part)


def _row(view: FeatureView) -> dict[str, str]:
    """The fields of a feature row, and where they come from in `features`."""
    entity = entity_sql([quote(name) for name in view.entity_fields])
    own = {
        "tenant": quote("tenant"),
        "id": f"{entity} || '|' || CAST({quote(WINDOW_END)} AS STRING) || '|0'",
        ENTITY: entity,
    }
    given = [*view.entity_fields, WINDOW_START, WINDOW_END]
    own |= {field_name(name): quote(name) for name in given}
    return own | {SEQUENCE: "CAST(0 AS BIGINT)"} | {name: quote(name) for name in view.feature_names}


def insert_rows(stream: WindowedStream) -> str:
    row, entity = _row(stream.view), [quote(name) for name in stream.view.entity_fields]
    items = {KEY: key_sql(quote("tenant"), entity_sql(entity))} | row
    return _insert(ROWS, stream.rows, items) + f"\nFROM {quote(FEATURES)}"


def _insert_late(stream: WindowedStream) -> str:
    """Keyed as the rows are, or by the record's own entity where that takes a lookup."""
    spec, fields = stream.view.source.spec(), stream.view.entity_fields
    if any("." in name for name in fields):
        fields = (spec.entity or "id",)
    names, entity = spec.names, [quote(name) for name in fields]
    items = {KEY: key_sql(quote("tenant"), entity_sql(entity))} | {name: quote(name) for name in names}
    return _insert(LATE_EVENTS, stream.late, items) + f"\nFROM {quote(FIRST)}\nWHERE {quote(LATE)}"


def _insert(sink: str, topic: Topic, items: Mapping[str, str]) -> str:
    """The values in the order of the topic's columns, which an INSERT goes by."""
    names = () if topic.record is None else topic.record.spec().names
    values = [f"{items[name]} AS {quote(name)}" for name in (KEY, *names)]
    return f"INSERT INTO {quote(sink)}\n{_select(values)}"


def _view(name: str, query: str) -> str:
    return f"CREATE TEMPORARY VIEW {quote(name)} AS\n{query}"


def _select(items: list[str]) -> str:
    return "SELECT\n  " + ",\n  ".join(items)


def _names(names: list[str]) -> str:
    return ", ".join(quote(name) for name in names)
