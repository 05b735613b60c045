"""What type a feature's value has, from its declaration and the columns it reads."""

from collections.abc import Callable, Mapping
from typing import Literal

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
from features.derived import Ago, Arithmetic, Coalesce, Derived, FeatureValue, Literally, MovingAverage
from features.filters import Scalar
from schemas.record import FieldSpec, Kind

ValueKind = Literal["long", "double", "string", "boolean"]
"""long: 64 bits; double: finite, never NaN."""

COLUMN_KINDS: Mapping[Kind, ValueKind] = {
    "int": "long",
    "long": "long",
    "float": "double",
    "double": "double",
    "string": "string",
    "boolean": "boolean",
}
"""The columns that can be aggregated and compared, and the type of their values."""


def value_kind(value: Scalar) -> ValueKind:
    """The type of a constant."""
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, str):
        return "string"
    return "long" if isinstance(value, int) else "double"


def aggregate_kind(aggregate: Aggregate, field: Callable[[str], FieldSpec]) -> ValueKind:
    """The type of an aggregate, given the columns."""
    match aggregate:
        case Count() | CountDistinct():
            return "long"
        case Mean() | Std() | Quantile() | Ratio():
            return "double"
        case Sum(column) | Min(column) | Max(column) | First(column) | Last(column):
            return COLUMN_KINDS[field(column).kind]


def is_exact(aggregate: Simple, field: Callable[[str], FieldSpec]) -> bool:
    """Whether an aggregate is built from integers only (see `features.aggregates`)."""
    if isinstance(aggregate, Count | CountDistinct):
        return True
    return COLUMN_KINDS[field(aggregate.column).kind] == "long"


def derived_kind(derived: Derived, kind_of: Callable[[str], ValueKind], where: str) -> ValueKind:
    """The type of an expression, given its features. Raises DeclarationError where types do not fit."""

    def refuse(what: str, mend: str) -> DeclarationError:
        return DeclarationError(what, where=where, mend=mend)

    match derived:
        case FeatureValue(name) | Ago(name):
            return kind_of(name)
        case Literally(value):
            return value_kind(value)
        case MovingAverage(name):
            if kind_of(name) not in ("long", "double"):
                raise refuse(f"the average of {name!r}, a {kind_of(name)}", "average a number")
            return "double"
        case Arithmetic(sign, left, right):
            if isinstance(left, Literally) and isinstance(right, Literally):
                raise refuse(f"{left.value!r} {sign} {right.value!r}", "write the result")
            kinds = {derived_kind(left, kind_of, where), derived_kind(right, kind_of, where)}
            if not kinds <= {"long", "double"}:
                raise refuse(f"{sign} of {' and '.join(sorted(kinds))}", "compute with numbers")
            return "double" if sign == "/" or "double" in kinds else "long"
        case Coalesce(parts):
            kinds = {derived_kind(part, kind_of, where) for part in parts}
            if all(isinstance(part, Literally) for part in parts):
                raise refuse("coalesce of constants", "write the first of them")
            if kinds == {"long", "double"}:
                return "double"
            if len(kinds) > 1:
                raise refuse(f"coalesce of {' and '.join(sorted(kinds))}", "use parts of one type")
            return kinds.pop()
    raise refuse(f"{derived!r} is no derived feature", "build it with feature(...)")
