"""Derived features: computed from features of the same view, defined in time and never in rows.

    Feature("net", feature("bookings") - feature("cancels"), unit="bookings", empty=0)
    Feature("average", moving_average("bookings", timedelta(minutes=15)), unit="bookings/min", empty=0)
    Feature("growth", change("bookings", timedelta(hours=1)), unit="bookings", empty=0)

Arithmetic with a null is null; a division is between doubles, and one by zero is null. `+ - *` of integers
are integers, which have to fit into 64 bits. A feature that comes out null is its declared `empty`, as an
aggregate is.

The functions of time look at other windows of the same entity: a window without a row, and one in which the
feature has no value, counts as that feature's `empty`. They are for windowed views: a rolling view has a
value per event, and between events there is none to look back at.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, Union

from core.errors import DeclarationError

Constant = str | int | float | bool
Sign = Literal["+", "-", "*", "/"]
Term = Union["Derived", int, float]


class Derived:
    """An expression over features of the view."""

    def __add__(self, other: Term) -> "Derived":
        return Arithmetic("+", self, _term(other))

    def __radd__(self, other: Term) -> "Derived":
        return Arithmetic("+", _term(other), self)

    def __sub__(self, other: Term) -> "Derived":
        return Arithmetic("-", self, _term(other))

    def __rsub__(self, other: Term) -> "Derived":
        return Arithmetic("-", _term(other), self)

    def __mul__(self, other: Term) -> "Derived":
        return Arithmetic("*", self, _term(other))

    def __rmul__(self, other: Term) -> "Derived":
        return Arithmetic("*", _term(other), self)

    def __truediv__(self, other: Term) -> "Derived":
        return Arithmetic("/", self, _term(other))

    def __rtruediv__(self, other: Term) -> "Derived":
        return Arithmetic("/", _term(other), self)


@dataclass(frozen=True)
class FeatureValue(Derived):
    """The value of a feature in the same row."""

    feature: str


@dataclass(frozen=True)
class Literally(Derived):
    """A constant."""

    value: Constant


@dataclass(frozen=True)
class Arithmetic(Derived):
    sign: Sign
    left: Derived
    right: Derived


@dataclass(frozen=True)
class Coalesce(Derived):
    """The first of the parts that is not null."""

    parts: tuple[Derived, ...]


@dataclass(frozen=True)
class Ago(Derived):
    """The feature in the window that ended exactly `by` earlier."""

    feature: str
    by: timedelta


@dataclass(frozen=True)
class MovingAverage(Derived):
    """The mean of the feature over the windows that ended in (end - over, end]."""

    feature: str
    over: timedelta


def feature(name: str) -> Derived:
    """The value of that feature of the view."""
    return FeatureValue(name)


def coalesce(first: Derived, *others: Derived | Constant) -> Derived:
    """The first that is not null."""
    return Coalesce((first, *(_term(other) for other in others)))


def ago(feature: str, by: timedelta) -> Derived:
    """The feature's value in the window that ended exactly `by` earlier; `by` is a multiple of the time
    between two window ends."""
    return Ago(feature, by)


def change(feature: str, by: timedelta) -> Derived:
    """The feature's value less what it was `by` earlier."""
    return FeatureValue(feature) - Ago(feature, by)


def moving_average(feature: str, over: timedelta) -> Derived:
    """The feature's mean, a double, over the windows that ended in (end - over, end]. Windows without a row
    count as the feature's `empty`; where that is None they are left out, and so are null values."""
    return MovingAverage(feature, over)


def same_hour_yesterday(feature: str) -> Derived:
    """The feature's value in the window that ended 24 hours earlier."""
    return Ago(feature, timedelta(days=1))


def same_hour_last_week(feature: str) -> Derived:
    """The feature's value in the window that ended 7 days earlier."""
    return Ago(feature, timedelta(days=7))


def features_of(derived: Derived) -> tuple[str, ...]:
    """The features an expression reads, each once, from left to right."""
    match derived:
        case FeatureValue(name) | Ago(name) | MovingAverage(name):
            found: tuple[str, ...] = (name,)
        case Literally():
            found = ()
        case Arithmetic(_, left, right):
            found = (*features_of(left), *features_of(right))
        case Coalesce(parts):
            found = tuple(name for part in parts for name in features_of(part))
        case _:
            raise DeclarationError(f"{derived!r} is no derived feature", mend="build it with feature(...)")
    return tuple(dict.fromkeys(found))


def times_of(derived: Derived) -> tuple[tuple[str, timedelta], ...]:
    """The (function, duration) pairs of an expression that look at other windows."""
    match derived:
        case Ago(_, by):
            return (("ago", by),)
        case MovingAverage(_, over):
            return (("moving_average", over),)
        case Arithmetic(_, left, right):
            return (*times_of(left), *times_of(right))
        case Coalesce(parts):
            return tuple(time for part in parts for time in times_of(part))
        case _:
            return ()


def in_levels(derived: Mapping[str, Derived], *, where: str) -> tuple[tuple[str, ...], ...]:
    """The names in levels: what a feature reads is an aggregate or on an earlier level. Raises
    DeclarationError where features read each other in a circle."""
    left, levels = dict(derived), []
    while left:
        ready = tuple(name for name in left if not any(read in left for read in features_of(left[name])))
        if not ready:
            raise DeclarationError(
                f"features {', '.join(left)} read each other in a circle",
                where=where,
                mend="let one of them be an aggregate, or read only aggregates",
            )
        levels.append(ready)
        for name in ready:
            del left[name]
    return tuple(levels)


def _term(value: Derived | Constant) -> Derived:
    return value if isinstance(value, Derived) else Literally(value)
