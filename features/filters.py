"""Filter expressions: which rows an aggregate takes, as a small typed tree.

    Count(where=field("kind") == "booking")
    Sum("fare_cents", where=(field("kind") == "booking") & ~field("coupon").is_null())
    Mean("fare_cents", where=field("fare_cents") >= field("least_cents"))

The logic is SQL's, with three values: a comparison with a null is unknown, so is `is_in` of a null;
`is_null` is never unknown; not unknown is unknown; `&` is false where one side is false and `|` true where
one side is true, else unknown where one side is. An aggregate takes a row where its filter is true.

Strings compare by code point, equally in Flink, DuckDB and Python. A number is compared with numbers of its
own sort only (integers with integers, floats as doubles), so that no engine rounds on its own. Whether names
and types fit the record is checked where the view is built.
"""

from dataclasses import dataclass
from typing import Literal

from core.errors import DeclarationError

Scalar = str | int | float | bool
Operator = Literal["=", "<>", "<", "<=", ">", ">="]


class Condition:
    """True, false or unknown for a row. Combine with `&`, `|` and `~`."""

    def __and__(self, other: "Condition") -> "Condition":
        return And(self, other)

    def __or__(self, other: "Condition") -> "Condition":
        return Or(self, other)

    def __invert__(self) -> "Condition":
        return Not(self)

    def __bool__(self) -> bool:
        raise DeclarationError(
            "a filter is no Python truth value", mend="combine with &, | and ~; write a range as two filters"
        )


@dataclass(frozen=True)
class Column:
    """The value of a field of the record, or of `lookup.column`."""

    name: str


@dataclass(frozen=True)
class Comparison(Condition):
    column: str
    operator: Operator
    right: Scalar | Column


@dataclass(frozen=True)
class In(Condition):
    """Equal to one of the values, at least one."""

    column: str
    values: tuple[Scalar, ...]


@dataclass(frozen=True)
class IsNull(Condition):
    column: str


@dataclass(frozen=True)
class And(Condition):
    left: Condition
    right: Condition


@dataclass(frozen=True)
class Or(Condition):
    left: Condition
    right: Condition


@dataclass(frozen=True)
class Not(Condition):
    inner: Condition


class Field:
    """What `field` gives: comparing it makes a condition."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __eq__(self, other: object) -> Condition:  # type: ignore[override]
        return self._compare("=", other)

    def __ne__(self, other: object) -> Condition:  # type: ignore[override]
        return self._compare("<>", other)

    def __lt__(self, other: "Scalar | Field") -> Condition:
        return self._compare("<", other)

    def __le__(self, other: "Scalar | Field") -> Condition:
        return self._compare("<=", other)

    def __gt__(self, other: "Scalar | Field") -> Condition:
        return self._compare(">", other)

    def __ge__(self, other: "Scalar | Field") -> Condition:
        return self._compare(">=", other)

    def is_in(self, *values: Scalar) -> Condition:
        """Equal to one of the values."""
        for value in values:
            self._check(value)
        return In(self.name, values)

    def is_null(self) -> Condition:
        """Without a value."""
        return IsNull(self.name)

    def _compare(self, operator: Operator, other: object) -> Condition:
        if isinstance(other, Field):
            return Comparison(self.name, operator, Column(other.name))
        return Comparison(self.name, operator, self._check(other))

    def _check(self, other: object) -> Scalar:
        if isinstance(other, str | int | float):
            return other
        mend = "write is_null()" if other is None else "compare with a str, int, float, bool or field(...)"
        raise DeclarationError(f"field {self.name!r} compared with {other!r}", mend=mend)


def field(name: str) -> Field:
    """A field of the view's record, or `lookup.column`."""
    return Field(name)


def columns_of(condition: Condition) -> tuple[str, ...]:
    """The columns a condition reads, each once, from left to right."""
    match condition:
        case Comparison(column, _, Column(other)):
            found: tuple[str, ...] = (column, other)
        case Comparison(column) | In(column) | IsNull(column):
            found = (column,)
        case And(left, right) | Or(left, right):
            found = (*columns_of(left), *columns_of(right))
        case Not(inner):
            found = columns_of(inner)
        case _:
            raise DeclarationError(f"{condition!r} is no filter", mend="build it with field(...)")
    return tuple(dict.fromkeys(found))
