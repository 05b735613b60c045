"""Aggregates as running state of constant size: one value in, and the aggregate of all so far out.

What has such a state is what engines call mergeable. Over integers it is exact (see `features.aggregates`);
a sum, mean or deviation of doubles has the rounding of additions in order of arrival.
"""

import math
from collections.abc import Callable
from operator import gt, lt
from typing import Any, Protocol

from features.aggregates import Count, CountDistinct, First, Last, Max, Mean, Min, Quantile, Simple, Std, Sum

Value = int | float | str | bool
Order = tuple[int, str]
"""Where an event stands: event time in milliseconds, then its id by code point."""
Mergeable = Count | Sum | Mean | Std | Min | Max | First | Last


class Accumulator(Protocol):
    def add(self, value: Any, order: Order) -> None:
        """Take in a value, never null, of the column's kind."""
        ...

    def value(self) -> Value | None:
        """The aggregate of the values so far; None without one. A count has always a value."""
        ...


class _Count:
    def __init__(self) -> None:
        self._number = 0

    def add(self, value: Any, order: Order) -> None:
        self._number += 1

    def value(self) -> int:
        return self._number


class _Sum:
    def __init__(self) -> None:
        self._total: int | float | None = None

    def add(self, value: Any, order: Order) -> None:
        self._total = value if self._total is None else self._total + value

    def value(self) -> int | float | None:
        return self._total


class _Mean:
    def __init__(self) -> None:
        self._number, self._total = 0, 0

    def add(self, value: Any, order: Order) -> None:
        self._number += 1
        self._total += value

    def value(self) -> float | None:
        return float(self._total) / self._number if self._number else None


class _ExactStd:
    """Of integers."""

    def __init__(self) -> None:
        self._number = self._total = self._squares = 0

    def add(self, value: Any, order: Order) -> None:
        self._number += 1
        self._total += value
        self._squares += value * value

    def value(self) -> float | None:
        if not self._number:
            return None
        return math.sqrt(self._number * self._squares - self._total * self._total) / self._number


class _Std:
    """Of doubles: Welford's update (Technometrics 4:419, 1962), which loses no digits to a large mean."""

    def __init__(self) -> None:
        self._number, self._mean, self._spread = 0, 0.0, 0.0

    def add(self, value: Any, order: Order) -> None:
        self._number += 1
        off = value - self._mean
        self._mean += off / self._number
        self._spread += off * (value - self._mean)

    def value(self) -> float | None:
        return math.sqrt(self._spread / self._number) if self._number else None


class _Extreme:
    """The value that is ahead of all others by `ahead`."""

    def __init__(self, ahead: Callable[[Any, Any], bool]) -> None:
        self._ahead = ahead
        self._value: int | float | None = None

    def add(self, value: Any, order: Order) -> None:
        if self._value is None or self._ahead(value, self._value):
            self._value = value

    def value(self) -> int | float | None:
        return self._value


class _Placed:
    """The value whose event is ahead of all others by `ahead`."""

    def __init__(self, ahead: Callable[[Order, Order], bool]) -> None:
        self._ahead = ahead
        self._order: Order | None = None
        self._value: Value | None = None

    def add(self, value: Any, order: Order) -> None:
        if self._order is None or self._ahead(order, self._order):
            self._order, self._value = order, value

    def value(self) -> Value | None:
        return self._value


def why_not_mergeable(aggregate: Simple) -> str | None:
    """Why an aggregate has no state of constant size; None for one that has."""
    match aggregate:
        case CountDistinct():
            return "is a CountDistinct, which keeps every different value"
        case Quantile():
            return "is a Quantile, which keeps every value"
        case _:
            return None


def accumulator(aggregate: Mergeable, *, exact: bool) -> Callable[[], Accumulator]:
    """What makes an empty state. exact: the column holds integers (`features.kinds.is_exact`)."""
    match aggregate:
        case Count():
            return _Count
        case Sum():
            return _Sum
        case Mean():
            return _Mean
        case Std():
            return _ExactStd if exact else _Std
        case Min():
            return lambda: _Extreme(lt)
        case Max():
            return lambda: _Extreme(gt)
        case First():
            return lambda: _Placed(lt)
        case Last():
            return lambda: _Placed(gt)
