"""Aggregates and derived features as DuckDB expressions."""

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
)
from features.compile.conditions import condition_sql, literal
from features.derived import Ago, Arithmetic, Coalesce, Derived, FeatureValue, Literally, MovingAverage
from features.kinds import ValueKind, aggregate_kind, is_exact
from features.view import Feature, FeatureView
from features.windows import Windowed

TIME = "at_ms"
SQL_TYPES: dict[ValueKind, str] = {
    "long": "BIGINT",
    "double": "DOUBLE",
    "string": "VARCHAR",
    "boolean": "BOOLEAN",
}


def quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def label(over: timedelta) -> str:
    """The name of a rolling window in SQL, e.g. `w600s`."""
    return f"w{over // timedelta(seconds=1)}s"


def ago_label(by: timedelta) -> str:
    """The name of the frame that holds the one window that ended so much earlier."""
    return f"ago_{by // timedelta(seconds=1)}s"


def last_label(over: timedelta) -> str:
    """The name of the frame of the windows that ended in so long a time."""
    return f"last_{over // timedelta(seconds=1)}s"


def aggregate_sql(view: FeatureView, feature: Feature, aggregate: Aggregate) -> str:
    """The value of an aggregate: over the named window in a rolling view, of the group in a windowed one."""
    over = "" if aggregate.over is None else f" OVER {label(aggregate.over)}"
    if isinstance(aggregate, Ratio):
        above = _simple(view, aggregate.numerator, over)
        below = _simple(view, aggregate.denominator, over)
        value = f"CAST({above} AS DOUBLE) / NULLIF(CAST({below} AS DOUBLE), 0)"
    else:
        value = _simple(view, aggregate, over)
        if isinstance(aggregate, Count | CountDistinct):
            return value  # never null
    return _or_empty(feature, value)


def _simple(view: FeatureView, aggregate: Simple, over: str) -> str:
    if isinstance(aggregate, Count):
        return f"COUNT({_taken('1', view, aggregate) if aggregate.where is not None else '*'}){over}"
    column = _taken(quote(aggregate.column), view, aggregate)
    type_ = SQL_TYPES[aggregate_kind(aggregate, view.field)]
    number = f"COUNT({column}){over}"
    match aggregate:
        case CountDistinct():
            return f"COUNT(DISTINCT {column}){over}"
        case Sum():
            return f"CAST(SUM({column}){over} AS {type_})"
        case Min():
            return f"CAST(MIN({column}){over} AS {type_})"
        case Max():
            return f"CAST(MAX({column}){over} AS {type_})"
        case First():
            return f"CAST(ARG_MIN({column}, ROW({TIME}, {quote('id')})){over} AS {type_})"
        case Last():
            return f"CAST(ARG_MAX({column}, ROW({TIME}, {quote('id')})){over} AS {type_})"
        case Quantile():
            return f"QUANTILE_CONT(CAST({column} AS DOUBLE), {literal(float(aggregate.p))}){over}"
        case Mean():
            return f"CAST(SUM({column}){over} AS DOUBLE) / NULLIF({number}, 0)"
        case Std() if is_exact(aggregate, view.field):
            wide = f"CAST({column} AS HUGEINT)"
            total, squares = f"SUM({wide}){over}", f"SUM({wide} * {wide}){over}"
            return f"SQRT(CAST({number} * {squares} - {total} * {total} AS DOUBLE)) / NULLIF({number}, 0)"
        case Std():
            return f"STDDEV_POP({column}){over}"


def _taken(value: str, view: FeatureView, aggregate: Simple) -> str:
    """The value in the rows that the filter takes, null in others."""
    if aggregate.where is None:
        return value
    return f"CASE WHEN {condition_sql(aggregate.where, quote)} THEN {value} END"


def derived_sql(view: FeatureView, feature: Feature, derived: Derived) -> str:
    """The value of a derived feature, over rows that have the features it reads."""
    value = _expression(view, derived)
    return value if _always(view, derived) else _or_empty(feature, value)


def _always(view: FeatureView, derived: Derived) -> bool:
    """Whether the expression is never null."""
    match derived:
        case FeatureValue(name):
            feature = view.feature(name)
            return feature.empty is not None or isinstance(feature.definition, Count | CountDistinct)
        case Ago(name) | MovingAverage(name):
            return view.feature(name).empty is not None
        case Arithmetic(sign, left, right):
            return sign != "/" and _always(view, left) and _always(view, right)
        case Coalesce(parts):
            return any(_always(view, part) for part in parts)
        case _:
            return isinstance(derived, Literally)


def _expression(view: FeatureView, derived: Derived) -> str:
    match derived:
        case FeatureValue(name):
            return quote(name)
        case Literally(value):
            return literal(value)
        case Arithmetic("/", left, right):
            above, below = _expression(view, left), _expression(view, right)
            return f"(CAST({above} AS DOUBLE) / NULLIF(CAST({below} AS DOUBLE), 0))"
        case Arithmetic(sign, left, right):
            return f"({_expression(view, left)} {sign} {_expression(view, right)})"
        case Coalesce(parts):
            return f"COALESCE({', '.join(_expression(view, part) for part in parts)})"
        case Ago(name, by):
            return _or_empty(view.feature(name), f"FIRST_VALUE({quote(name)}) OVER {ago_label(by)}")
        case MovingAverage(name, over):
            return _average(view, view.feature(name), over)
    raise DeclarationError(f"{derived!r} is no derived feature", where=view.where)


def _average(view: FeatureView, feature: Feature, over: timedelta) -> str:
    frame = f"OVER {last_label(over)}"
    total, number = f"SUM({quote(feature.name)}) {frame}", f"COUNT({quote(feature.name)}) {frame}"
    if feature.empty is None:
        return f"(CAST({total} AS DOUBLE) / NULLIF({number}, 0))"
    windows = over // _every(view)
    absent = "" if feature.empty == 0 else f" + ({windows} - {number}) * {literal(feature.empty)}"
    return f"(CAST({total}{absent} AS DOUBLE) / {windows})"


def _every(view: FeatureView) -> timedelta:
    if not isinstance(view.window, Windowed):
        raise DeclarationError("a moving average in a rolling view", where=view.where)
    return view.window.every


def _or_empty(feature: Feature, value: str) -> str:
    return value if feature.empty is None else f"COALESCE({value}, {literal(feature.empty)})"
