"""Aggregates: what a feature computes over the rows of its window.

In a rolling view an aggregate has `over`: it takes the rows of one (tenant, entity) with `time >= t - over`
up to and including `t` (both bounds inclusive, as SQL's RANGE has it; equal times count). In a windowed view
it has none, the window is the view's. `where` leaves rows out (see `features.filters`).

Nulls in the column are skipped, as in SQL; a window without values gives the feature's declared `empty`.

Over integer columns every aggregate is exact: sums are integers, the mean is one division, the standard
deviation is `sqrt(n * sum(x^2) - sum(x)^2) / n` from exact integers (DECIMAL(38) in Flink, HUGEINT in
DuckDB, int in Python), so that engines agree to the last bits and equal values give exactly 0. The bound
is |x| * n < 10^18, far beyond cents. A sum fits into 64 bits; one that does not is an error in DuckDB.
"""

from dataclasses import KW_ONLY, dataclass
from datetime import timedelta

from features.filters import Condition, columns_of


@dataclass(frozen=True)
class Count:
    """Rows in the window."""

    _: KW_ONLY
    over: timedelta | None = None
    where: Condition | None = None


@dataclass(frozen=True)
class _OfColumn:
    column: str
    _: KW_ONLY
    over: timedelta | None = None
    where: Condition | None = None


@dataclass(frozen=True)
class Sum(_OfColumn):
    """Sum of a numeric column; an integer for integer columns."""


@dataclass(frozen=True)
class Mean(_OfColumn):
    """Arithmetic mean of a numeric column, a double."""


@dataclass(frozen=True)
class Std(_OfColumn):
    """Population standard deviation of a numeric column, a double; 0 for one value."""


@dataclass(frozen=True)
class Min(_OfColumn):
    """Smallest value of a numeric column; an integer for integer columns, else a double."""


@dataclass(frozen=True)
class Max(_OfColumn):
    """Largest value of a numeric column; an integer for integer columns, else a double."""


@dataclass(frozen=True)
class CountDistinct(_OfColumn):
    """Number of different values of a string, integer or boolean column."""


@dataclass(frozen=True)
class First(_OfColumn):
    """Earliest value of a number, string or boolean column, by event time. Of equal times the one with the
    smallest id (by code point), so that the value does not depend on the order of arrival."""


@dataclass(frozen=True)
class Last(_OfColumn):
    """Latest value, by event time; of equal times the one with the largest id (see `First`)."""


@dataclass(frozen=True)
class Quantile:
    """The quantile `p` of a numeric column, a double, 0 <= p <= 1. Its rank is exact (error 0).

    Continuous: of n values in order, the one at position p * (n - 1), counted from 0, and between two
    positions the straight line. This is `PERCENTILE` in Flink and `QUANTILE_CONT` in DuckDB. Rounding is
    relative to the larger of the two neighbours, which matters where they differ in sign.
    """

    column: str
    p: float
    _: KW_ONLY
    over: timedelta | None = None
    where: Condition | None = None


Simple = Count | Sum | Mean | Std | Min | Max | CountDistinct | First | Last | Quantile


@dataclass(frozen=True)
class Ratio:
    """One aggregate divided by another, a double; each with its own filter, both over the same window.

    No value, and so the feature's `empty`, where the denominator is 0 or one of the two has no value.
    """

    numerator: Simple
    denominator: Simple

    @property
    def over(self) -> timedelta | None:
        return self.numerator.over


Aggregate = Simple | Ratio


def simple_parts(aggregate: Aggregate) -> tuple[Simple, ...]:
    """The aggregate itself, or the two of a ratio."""
    if isinstance(aggregate, Ratio):
        return (aggregate.numerator, aggregate.denominator)
    return (aggregate,)


def column_of(aggregate: Simple) -> str | None:
    """The aggregated column; None for a count of rows."""
    return None if isinstance(aggregate, Count) else aggregate.column


def reads(aggregate: Aggregate) -> tuple[str, ...]:
    """The columns an aggregate reads: aggregated ones, then those of the filter."""
    found: list[str] = []
    for part in simple_parts(aggregate):
        column = column_of(part)
        found += [] if column is None else [column]
        found += [] if part.where is None else columns_of(part.where)
    return tuple(dict.fromkeys(found))
