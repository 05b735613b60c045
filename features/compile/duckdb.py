"""Views to DuckDB SQL: training sets, backfills, and the independent judge of the stream.

Works on a table with the columns tenant, the fields of the entity, the view's columns, id where the view
has First or Last, and `at_ms` (event time in milliseconds as BIGINT, so that windows are integer arithmetic
and no time zone takes part). A lookup is a table of the lookup's name with the reference record's columns.

Names that begin with two underscores are the compiler's own.
"""

from collections.abc import Iterator
from datetime import timedelta

from core.errors import DeclarationError
from features.aggregates import First, Last, simple_parts
from features.compile.duckdb_values import (
    TIME,
    aggregate_sql,
    ago_label,
    derived_sql,
    label,
    last_label,
    quote,
)
from features.derived import Derived, times_of
from features.lookups import Lookup
from features.view import Feature, FeatureView
from features.windows import Cumulating, Rolling, Tumbling, Windowed

WINDOW_START, WINDOW_END = "window_start", "window_end"
_JOINED, _WINDOWED, _LEVEL = "__joined", "__windowed", "__level"
_COMMA = ",\n  "


def select(view: FeatureView, table: str, *, carried: tuple[str, ...] = ()) -> str:
    """The query of a view over `table`; its rows are in no particular order.

    Rolling: one row per row of `table`, the `carried` columns of the table, then the features.
    Windowed: one row per (tenant, entity, window): tenant, the fields of the entity, `window_start` and
    `window_end` (milliseconds as BIGINT), then the features. Nothing can be carried.
    """
    if isinstance(view.window, Rolling):
        return _rolling(view, table, carried)
    if carried:
        raise DeclarationError(f"{', '.join(carried)} carried by windows", where=view.where)
    return _windowed(view, table)


def _rolling(view: FeatureView, table: str, carried: tuple[str, ...]) -> str:
    with_, source = {}, table
    if view.lookups:
        with_[_JOINED], source = _joined(view, table, carried), _JOINED
    items = [*map(quote, carried), *_aggregates(view)]
    frames = [
        f"{label(over)} AS (PARTITION BY {_keys(view)} ORDER BY {TIME} "
        f"RANGE BETWEEN {_ms(over)} PRECEDING AND CURRENT ROW)"
        for over in view.windows
    ]
    base = f"{_select(items, source)}\nWINDOW\n  {_COMMA.join(frames)}"
    return _text(with_, _derived(view, base, with_, carried))


def aggregated(view: FeatureView, table: str) -> str:
    """Of a windowed view the aggregates alone: the rows of `select`, with those features only."""
    with_, base = _windows(view, table)
    return _text(with_, base)


def derived(view: FeatureView, table: str) -> str:
    """The rows of `select`, from a table that has those of `aggregated`. A row needs those of its entity in
    the windows that its derived features look back at (`features.offline.reach`)."""
    return _with_derived(view, f"SELECT * FROM {quote(table)}", {})


def _windowed(view: FeatureView, table: str) -> str:
    with_, base = _windows(view, table)
    return _with_derived(view, base, with_)


def _with_derived(view: FeatureView, base: str, with_: dict[str, str]) -> str:
    keys = ("tenant", *view.entity_fields, WINDOW_START, WINDOW_END)
    return _text(with_, _derived(view, base, with_, keys))


def _windows(view: FeatureView, table: str) -> tuple[dict[str, str], str]:
    """The windows with their aggregates, and what that query is `with`."""
    if isinstance(view.window, Rolling):
        raise DeclarationError(f"{view.name} has no windows of its own", where=view.where)
    window, with_, source = view.window, dict[str, str](), table
    if view.lookups:
        with_[_JOINED], source = _joined(view, table, ()), _JOINED
    needed = _needed(view, ())
    looked_up = [quote(name) for name in view.entity_fields if "." in name]
    with_[_WINDOWED] = _select([*map(quote, needed), f"{_end(window)} AS {quote(WINDOW_END)}"], source)
    if looked_up:
        with_[_WINDOWED] += "\nWHERE " + " AND ".join(f"{name} IS NOT NULL" for name in looked_up)
    base = _select(
        [_keys(view), f"{_start(window)} AS {quote(WINDOW_START)}", quote(WINDOW_END), *_aggregates(view)],
        _WINDOWED,
    )
    return with_, base + f"\nGROUP BY {_keys(view)}, {quote(WINDOW_END)}"


def _needed(view: FeatureView, carried: tuple[str, ...]) -> list[str]:
    """The columns of the joined events, each once."""
    ids = [
        "id"
        for _, aggregate in view.aggregates
        if any(isinstance(part, First | Last) for part in simple_parts(aggregate))
    ]
    return list(dict.fromkeys([*carried, "tenant", *view.entity_fields, TIME, *ids, *view.inputs]))


def _joined(view: FeatureView, table: str, carried: tuple[str, ...]) -> str:
    """The events with the columns of their lookups, which are named `lookup.column`."""
    items = []
    for name in _needed(view, carried):
        lookup, dot, column = name.partition(".")
        items.append(
            f"{quote(lookup)}.{quote(column)} AS {quote(name)}" if dot else f"{quote(table)}.{quote(name)}"
        )
    return _select(items, table) + "".join(_join(lookup, table) for lookup in view.lookups)


def _join(lookup: Lookup, table: str) -> str:
    if lookup.name == table:
        raise DeclarationError(f"events and lookup are both in table {table!r}", mend="give one another name")
    pairs = {"tenant": "tenant", **lookup.on}
    equal = [
        f"{quote(lookup.name)}.{quote(theirs)} = {quote(table)}.{quote(ours)}"
        for ours, theirs in pairs.items()
    ]
    return f"\nLEFT JOIN {quote(lookup.name)} ON {' AND '.join(equal)}"


def _end(window: Windowed) -> str:
    """The ends of the windows that an event is in; more than one multiply the row."""
    if isinstance(window, Tumbling):
        return f"{_floor(TIME, window.size)} + {_ms(window.size)}"
    first = f"{_floor(TIME, window.every)} + {_ms(window.every)}"
    if isinstance(window, Cumulating):
        last = f"{_floor(TIME, window.size)} + {_ms(window.size)}"
    else:
        last = f"{TIME} + {_ms(window.size)}"
    return f"UNNEST(RANGE({first}, {last} + 1, {_ms(window.every)}))"


def _start(window: Windowed) -> str:
    end = quote(WINDOW_END)
    if isinstance(window, Cumulating):
        return _floor(f"({end} - 1)", window.size)
    return f"{end} - {_ms(window.size)}"


def _floor(value: str, unit: timedelta) -> str:
    """The largest multiple of the unit that is not above the value, below zero too."""
    ms = _ms(unit)
    return f"{value} - ({value} % {ms} + {ms}) % {ms}"


def _aggregates(view: FeatureView) -> Iterator[str]:
    for feature, aggregate in view.aggregates:
        yield f"{aggregate_sql(view, feature, aggregate)} AS {quote(feature.name)}"


def _derived(view: FeatureView, base: str, with_: dict[str, str], keys: tuple[str, ...]) -> str:
    """The last query: `base`, and above it a level of derived features after the other."""
    for number, level in enumerate(view.derived_levels):
        with_[f"{_LEVEL}_{number}"] = base
        values = [
            f"{derived_sql(view, feature, derived)} AS {quote(feature.name)}" for feature, derived in level
        ]
        base = _select(["*", *values], f"{_LEVEL}_{number}")
        frames = list(_frames(view, level))
        if frames:
            base += f"\nWINDOW\n  {_COMMA.join(frames)}"
    if not view.derived_levels:
        return base
    last = f"{_LEVEL}_{len(view.derived_levels)}"
    with_[last] = base
    return _select([quote(name) for name in (*keys, *view.feature_names)], last)


def _frames(view: FeatureView, level: tuple[tuple[Feature, Derived], ...]) -> Iterator[str]:
    """The frames of the functions of time; a window's end names it, so they are ranges of ends."""
    by_end = f"PARTITION BY {_keys(view)} ORDER BY {quote(WINDOW_END)}"
    for function, span in dict.fromkeys(time for _, derived in level for time in times_of(derived)):
        ms = _ms(span)
        if function == "ago":
            yield f"{ago_label(span)} AS ({by_end} RANGE BETWEEN {ms} PRECEDING AND {ms} PRECEDING)"
        else:
            yield f"{last_label(span)} AS ({by_end} RANGE BETWEEN {ms - 1} PRECEDING AND CURRENT ROW)"


def _keys(view: FeatureView) -> str:
    return ", ".join(map(quote, ("tenant", *view.entity_fields)))


def _select(items: list[str], source: str) -> str:
    return f"SELECT\n  {_COMMA.join(items)}\nFROM {quote(source)}"


def _text(with_: dict[str, str], query: str) -> str:
    if not with_:
        return query
    return (
        "WITH " + ", ".join(f"{quote(name)} AS (\n{inner}\n)" for name, inner in with_.items()) + f"\n{query}"
    )


def _ms(span: timedelta) -> int:
    return span // timedelta(milliseconds=1)
