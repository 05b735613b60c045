"""Definitions in words: `count of rows where kind = 'booking'`, as `features describe` shows them."""

from datetime import timedelta

from core.errors import DeclarationError
from features.aggregates import Aggregate, Count, Quantile, Ratio, Simple, column_of
from features.derived import Ago, Arithmetic, Coalesce, Derived, FeatureValue, Literally, MovingAverage
from features.filters import And, Column, Comparison, Condition, In, IsNull, Not, Or, Scalar
from features.windows import Cumulating, Hopping, Rolling, Tumbling, Window

_NAMES = {
    "Sum": "sum", "Mean": "mean", "Std": "standard deviation", "Min": "smallest", "Max": "largest",
    "CountDistinct": "different values", "First": "first", "Last": "last",
}  # fmt: skip


def span(of: timedelta) -> str:
    """`5 min`, `7 d`, `1500 ms`: the largest unit that it is a whole number of."""
    millis = of // timedelta(milliseconds=1)
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1000)):
        if millis and millis % size == 0:
            return f"{millis // size} {unit}"
    return f"{millis} ms"


def window_words(window: Window) -> str:
    """The shape of a view."""
    match window:
        case Rolling():
            return "rolling: for every event"
        case Tumbling(size):
            return f"tumbling {span(size)}"
        case Hopping(size, every):
            return f"hopping {span(size)} each {span(every)}"
        case Cumulating(size, every):
            return f"cumulating {span(size)} each {span(every)}"


def definition_words(definition: Aggregate | Derived) -> str:
    """An aggregate or a derived feature."""
    if isinstance(definition, Derived):
        return _derived(definition)
    if isinstance(definition, Ratio):
        return f"({_simple(definition.numerator)}) / ({_simple(definition.denominator)})"
    return _simple(definition)


def condition_words(condition: Condition) -> str:
    """A filter."""
    match condition:
        case Comparison(column, operator, Column(other)):
            return f"{column} {operator} {other}"
        case Comparison(column, operator, value):
            return f"{column} {operator} {value if isinstance(value, Column) else _scalar(value)}"
        case In(column, values):
            return f"{column} in ({', '.join(map(_scalar, values))})"
        case IsNull(column):
            return f"{column} is null"
        case And(left, right):
            return f"({condition_words(left)} and {condition_words(right)})"
        case Or(left, right):
            return f"({condition_words(left)} or {condition_words(right)})"
        case Not(inner):
            return f"not {condition_words(inner)}"
    raise DeclarationError(f"{condition!r} is no filter", mend="build it with field(...)")


def features_read(derived: Derived) -> tuple[str, ...]:
    """The features of the view that a derived one reads itself, each once."""
    match derived:
        case FeatureValue(name) | Ago(name, _) | MovingAverage(name, _):
            found: tuple[str, ...] = (name,)
        case Arithmetic(_, left, right):
            found = (*features_read(left), *features_read(right))
        case Coalesce(parts):
            found = tuple(name for part in parts for name in features_read(part))
        case _:
            found = ()
    return tuple(dict.fromkeys(found))


def _simple(aggregate: Simple) -> str:
    if isinstance(aggregate, Count):
        words = "count of rows"
    elif isinstance(aggregate, Quantile):
        words = f"quantile {aggregate.p:g} of {aggregate.column}"
    else:
        words = f"{_NAMES[type(aggregate).__name__]} of {column_of(aggregate)}"
    if aggregate.over is not None:
        words += f" over {span(aggregate.over)}"
    if aggregate.where is not None:
        words += f" where {condition_words(aggregate.where)}"
    return words


def _derived(derived: Derived) -> str:
    match derived:
        case FeatureValue(name):
            return name
        case Literally(value):
            return _scalar(value)
        case Arithmetic(sign, left, right):
            return f"({_derived(left)} {sign} {_derived(right)})"
        case Coalesce(parts):
            return f"first known of ({', '.join(map(_derived, parts))})"
        case Ago(name, by):
            return f"{name} of the window that ended {span(by)} earlier"
        case MovingAverage(name, over):
            return f"moving average of {name} over {span(over)}"
    raise DeclarationError(f"{derived!r} is no derived feature", mend="build it with feature(...)")


def _scalar(value: Scalar) -> str:
    return (
        repr(value)
        if isinstance(value, str)
        else str(value).lower()
        if isinstance(value, bool)
        else f"{value}"
    )
