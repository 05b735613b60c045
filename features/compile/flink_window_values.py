"""Aggregates and derived features of windowed views as Flink expressions.

The value of a row's aggregate is over the group of its window. `First` and `Last` are the least and the
greatest of `__order || value`, where `__order` sorts like (time, id): Flink's own FIRST_VALUE and LAST_VALUE
go by the order of arrival.

The standard deviation of doubles is `sqrt(sum(x^2) - sum(x)^2 / n) / sqrt(n)`, as Flink's own is, but 0 where
all values are equal, and never below 0 by rounding. It loses digits where the mean is far above it: two for
each factor of ten. That of integers is exact.
"""

from datetime import timedelta

from core.errors import DeclarationError
from features.aggregates import (
    Aggregate,
    Count,
    CountDistinct,
    First,
    Last,
    Max,
    Mean,
    Min,
    Quantile,
    Ratio,
    Simple,
    Std,
    Sum,
    column_of,
)
from features.compile.conditions import condition_sql, literal
from features.compile.flink_columns import interval, quote, text
from features.derived import Ago, Arithmetic, Coalesce, Derived, FeatureValue, Literally, MovingAverage
from features.kinds import ValueKind, aggregate_kind, is_exact
from features.view import Feature, FeatureView
from features.windows import Windowed

ORDER = "__order"
_MARK = ","
"""Ends the order; below every digit, so that an id comes before those that begin with it."""
_WIDE = "DECIMAL(19, 0)"
_TYPES: dict[ValueKind, str] = {
    "long": "BIGINT",
    "double": "DOUBLE",
    "string": "STRING",
    "boolean": "BOOLEAN",
}
_MILLI = timedelta(milliseconds=1)


def order_sql(at: str) -> str:
    """Text that sorts, byte by byte, as (time, id) do: 23 characters of the time, the id's UTF-8 in hex."""
    return f"CAST({quote(at)} AS STRING) || HEX(`id`) || {text(_MARK)}"


def aggregate_sql(view: FeatureView, feature: Feature, aggregate: Aggregate) -> str:
    """The value of an aggregate over the rows of a group."""
    if isinstance(aggregate, Ratio):
        above, below = _simple(view, aggregate.numerator), _simple(view, aggregate.denominator)
        return _or_empty(feature, _divided(above, below))
    value = _simple(view, aggregate)
    return value if isinstance(aggregate, Count | CountDistinct) else _or_empty(feature, value)


def _simple(view: FeatureView, aggregate: Simple) -> str:
    if isinstance(aggregate, Count):
        return "COUNT(*)" if aggregate.where is None else f"COUNT({_taken('1', aggregate)})"
    column = _typed(view, aggregate)
    taken = _taken(column, aggregate)
    number = f"COUNT({taken})"
    match aggregate:
        case CountDistinct():
            return f"COUNT(DISTINCT {taken})"
        case Sum():
            return f"SUM({taken})"
        case Min():
            return f"MIN({taken})"
        case Max():
            return f"MAX({taken})"
        case First():
            return _unpacked(view, aggregate, f"MIN({_taken(_packed(view, aggregate), aggregate)})")
        case Last():
            return _unpacked(view, aggregate, f"MAX({_taken(_packed(view, aggregate), aggregate)})")
        case Quantile():
            return (
                f"PERCENTILE({_taken(f'CAST({column} AS DOUBLE)', aggregate)}, {literal(float(aggregate.p))})"
            )
        case Mean():
            return f"CAST(SUM({taken}) AS DOUBLE) / NULLIF({number}, 0)"
        case Std() if is_exact(aggregate, view.field):
            wide = _taken(f"CAST({column} AS {_WIDE})", aggregate)
            squares = _taken(f"CAST({column} AS {_WIDE}) * CAST({column} AS {_WIDE})", aggregate)
            spread = f"CAST({number} AS {_WIDE}) * SUM({squares}) - SUM({wide}) * SUM({wide})"
            return f"SQRT(CAST({spread} AS DOUBLE)) / NULLIF({number}, 0)"
        case Std():
            squares = f"SUM({_taken(f'{column} * {column}', aggregate)})"
            spread = f"{squares} - SUM({taken}) * SUM({taken}) / NULLIF({number}, 0)"
            value = f"SQRT(GREATEST({spread}, 0e0) / NULLIF({number}, 0))"
            return f"CASE WHEN MIN({taken}) = MAX({taken}) THEN 0e0 ELSE {value} END"


def _typed(view: FeatureView, aggregate: Simple) -> str:
    """The column in the type of its values: BIGINT for integers, DOUBLE for floats."""
    name = column_of(aggregate)
    if name is None:
        raise DeclarationError(f"{aggregate!r} has no column", where=view.where)
    match view.field(name).kind:
        case "int":
            return f"CAST({quote(name)} AS BIGINT)"
        case "float":
            return f"CAST({quote(name)} AS DOUBLE)"
        case _:
            return quote(name)


def _taken(value: str, aggregate: Simple) -> str:
    """The value in the rows that the filter takes, null in others."""
    if aggregate.where is None:
        return value
    return f"CASE WHEN {condition_sql(aggregate.where, quote)} THEN {value} END"


def _packed(view: FeatureView, aggregate: First | Last) -> str:
    """`__order` and the value as text, from which it comes back as it was; null for a null."""
    column = _typed(view, aggregate)
    if aggregate_kind(aggregate, view.field) != "string":
        column = f"CAST({column} AS STRING)"
    return f"{quote(ORDER)} || {column}"


def _unpacked(view: FeatureView, aggregate: First | Last, packed: str) -> str:
    value = f"SUBSTRING({packed} FROM POSITION({text(_MARK)} IN {packed}) + 1)"
    kind = aggregate_kind(aggregate, view.field)
    return value if kind == "string" else f"CAST({value} AS {_TYPES[kind]})"


def derived_sql(view: FeatureView, feature: Feature, derived: Derived) -> str:
    """The value of a derived feature, over rows that have the features it reads and the columns of
    `time_values`."""
    return _or_empty(feature, _expression(view, derived))


def _expression(view: FeatureView, derived: Derived) -> str:
    match derived:
        case FeatureValue(name):
            return quote(name)
        case Literally(value):
            return literal(value)
        case Arithmetic("/", left, right):
            return f"({_divided(_expression(view, left), _expression(view, right))})"
        case Arithmetic(sign, left, right):
            return f"({_expression(view, left)} {sign} {_expression(view, right)})"
        case Coalesce(parts):
            return f"COALESCE({', '.join(_expression(view, part) for part in parts)})"
        case Ago() | MovingAverage():
            return quote(time_name(derived))
    raise DeclarationError(f"{derived!r} is no derived feature", where=view.where)


def time_name(derived: Ago | MovingAverage) -> str:
    """The column of a function of time."""
    if isinstance(derived, Ago):
        return f"__ago_{derived.by // timedelta(seconds=1)}s_{derived.feature}"
    return f"__last_{derived.over // timedelta(seconds=1)}s_{derived.feature}"


def frame(derived: Ago | MovingAverage) -> timedelta:
    """How far before a window's end the ends lie that a function of time looks at, itself inclusive."""
    return derived.by if isinstance(derived, Ago) else derived.over - _MILLI


def time_sql(view: FeatureView, derived: Ago | MovingAverage, end: str) -> str:
    """The value of a function of time over the rows of the OVER window `w`, which is `frame` long.

    A value so much earlier is that of the first row, if that is the window which ended then. FIRST_VALUE
    passes nulls over: whether the value there is one is asked for by itself.
    """
    feature = view.feature(derived.feature)
    value = quote(feature.name)
    if isinstance(derived, Ago):
        there = f"FIRST_VALUE({quote(end)}) OVER w = {quote(end)} - {interval(derived.by)}"
        if feature.empty is None:
            there += f" AND NOT FIRST_VALUE({value} IS NULL) OVER w"
        return _or_empty(feature, f"CASE WHEN {there} THEN FIRST_VALUE({value}) OVER w END")
    total, number = f"SUM({value}) OVER w", f"COUNT({value}) OVER w"
    if feature.empty is None:
        return f"CAST({total} AS DOUBLE) / NULLIF({number}, 0)"
    if not isinstance(view.window, Windowed):
        raise DeclarationError("a moving average in a rolling view", where=view.where)
    windows = derived.over // view.window.every
    absent = "" if feature.empty == 0 else f" + ({windows} - {number}) * {literal(feature.empty)}"
    return f"CAST({total}{absent} AS DOUBLE) / {windows}"


def _divided(above: str, below: str) -> str:
    return f"CAST({above} AS DOUBLE) / NULLIF(CAST({below} AS DOUBLE), 0e0)"


def _or_empty(feature: Feature, value: str) -> str:
    return value if feature.empty is None else f"COALESCE({value}, {literal(feature.empty)})"
