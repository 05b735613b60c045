"""Aggregates: what a feature computes over the rows of its window.

All are over the rows of one (tenant, entity) with `time > t - over` or `time = t - over`, up to and
including `t` (both bounds inclusive, as SQL's RANGE has it; equal times count). Nulls in the column are
skipped, as in SQL; a window without values gives the feature's declared `empty`.

Over integer columns every aggregate is exact: sums are integers, the mean is one division, the standard
deviation is `sqrt(n * sum(x^2) - sum(x)^2) / n` from exact integers (DECIMAL(38) in Flink, HUGEINT in
DuckDB, int in Python), so that engines agree to the last bits and equal values give exactly 0. The bound
is |x| * n < 10^18, far beyond cents.
"""

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True)
class Count:
    """Rows in the window."""

    over: timedelta


@dataclass(frozen=True)
class Sum:
    """Sum of a numeric column; an integer for integer columns."""

    column: str
    over: timedelta


@dataclass(frozen=True)
class Mean:
    """Arithmetic mean of a numeric column, a double."""

    column: str
    over: timedelta


@dataclass(frozen=True)
class Std:
    """Population standard deviation of a numeric column, a double; 0 for one value."""

    column: str
    over: timedelta


@dataclass(frozen=True)
class Max:
    """Largest value of a numeric column, of the column's type."""

    column: str
    over: timedelta


@dataclass(frozen=True)
class CountDistinct:
    """Number of different values of a string, integer or boolean column."""

    column: str
    over: timedelta


Aggregate = Count | Sum | Mean | Std | Max | CountDistinct
