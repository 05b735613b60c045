"""Filter expressions to Python functions over a record."""

import operator
from collections.abc import Callable
from typing import Any

from core.errors import DeclarationError
from features.filters import And, Column, Comparison, Condition, In, IsNull, Not, Operator, Or
from schemas.record import Record

Predicate = Callable[[Record], bool | None]
"""True, false or, where SQL's answer is unknown, None."""

_COMPARE: dict[Operator, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "<>": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def predicate(condition: Condition) -> Predicate:
    """The condition over a record's own fields, with the logic of `features.filters`."""
    match condition:
        case Comparison(column, sign, Column(other)):
            return _compared(sign, operator.attrgetter(column), operator.attrgetter(other))
        case Comparison(column, sign, value):
            return _compared(sign, operator.attrgetter(column), lambda record: value)
        case In(column, values):
            return _member(operator.attrgetter(column), frozenset(values))
        case IsNull(column):
            read = operator.attrgetter(column)
            return lambda record: read(record) is None
        case And(left, right):
            return _both(predicate(left), predicate(right))
        case Or(left, right):
            return _either(predicate(left), predicate(right))
        case Not(inner):
            return _not(predicate(inner))
    raise DeclarationError(f"{condition!r} is no filter", mend="build it with field(...)")


def _compared(sign: Operator, left: Callable[[Record], Any], right: Callable[[Record], Any]) -> Predicate:
    compare = _COMPARE[sign]

    def holds(record: Record) -> bool | None:
        one, other = left(record), right(record)
        return None if one is None or other is None else compare(one, other)

    return holds


def _member(read: Callable[[Record], Any], values: frozenset[Any]) -> Predicate:
    def holds(record: Record) -> bool | None:
        value = read(record)
        return None if value is None else value in values

    return holds


def _both(left: Predicate, right: Predicate) -> Predicate:
    def holds(record: Record) -> bool | None:
        one, other = left(record), right(record)
        if one is False or other is False:
            return False
        return None if one is None or other is None else True

    return holds


def _either(left: Predicate, right: Predicate) -> Predicate:
    def holds(record: Record) -> bool | None:
        one, other = left(record), right(record)
        if one or other:
            return True
        return None if one is None or other is None else False

    return holds


def _not(inner: Predicate) -> Predicate:
    def holds(record: Record) -> bool | None:
        known = inner(record)
        return None if known is None else not known

    return holds
