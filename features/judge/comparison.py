"""Values of a feature against what they should be: the one place that says what equal means.

Integers, strings and booleans are equal or not, doubles within the view's relative tolerance, nulls where
nulls are. A column of another type than the feature's is wrong in every row.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features.kinds import ValueKind

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class FeatureReport:
    """What was found of one feature.

    checked: values that were compared. mismatched: those that differ. missing: values that should be there
    and are not; extra: that are there and should not be. largest_difference: relative, |x - y| / max(|x|,
    |y|), over the numbers that were compared, equal ones included; infinite for a NaN.
    """

    checked: int
    mismatched: int
    missing: int
    extra: int
    largest_difference: float

    @property
    def ok(self) -> bool:
        return not (self.mismatched or self.missing or self.extra)


@dataclass(frozen=True)
class Differences:
    """Per row whether it differs, and the largest relative difference."""

    wrong: Bools
    largest: float


def compare(kind: ValueKind, tolerance: float, ours: pa.ChunkedArray, theirs: pa.ChunkedArray) -> Differences:
    """Row by row; `ours` are right, and of the feature's type. Both are equally long."""
    if not _is(kind, theirs.type):
        return Differences(np.ones(len(ours), dtype=bool), np.inf if len(ours) else 0.0)
    null_here, null_there = mask(pc.is_null(ours)), mask(pc.is_null(theirs))
    differ, both = null_here != null_there, ~null_here & ~null_there
    if kind in ("string", "boolean"):
        if pa.types.is_dictionary(theirs.type):
            theirs = theirs.cast(theirs.type.value_type)
        elif pa.types.is_null(theirs.type):
            theirs = theirs.cast(ours.type)
        unequal = mask(pc.fill_null(pc.not_equal(ours, theirs), False))
        return Differences(differ | (both & unequal), 0.0)
    number = pa.int64() if kind == "long" else pa.float64()
    x, y = _filled(ours, number), _filled(theirs, number)
    if kind == "long":
        unequal = x != y
        x, y = x.astype(np.float64), y.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        gap, larger = np.abs(x - y), np.maximum(np.abs(x), np.abs(y))
        if kind == "double":
            unequal = ~(gap <= tolerance * larger)  # a NaN is unequal to everything
        share = np.divide(gap, larger, out=np.zeros_like(gap), where=larger != 0)
    share[np.isnan(share)] = np.inf
    return Differences(differ | (both & unequal), float(share[both].max(initial=0.0)))


def mask(column: pa.ChunkedArray) -> Bools:
    return np.asarray(column.to_numpy(), dtype=bool)


def _is(kind: ValueKind, found: pa.DataType) -> bool:
    if pa.types.is_null(found):
        return True
    match kind:
        case "long":
            return bool(pa.types.is_signed_integer(found))
        case "double":
            return bool(pa.types.is_floating(found))
        case "boolean":
            return bool(pa.types.is_boolean(found))
        case "string":
            value = found.value_type if pa.types.is_dictionary(found) else found
            return bool(pa.types.is_string(value) or pa.types.is_large_string(value))


def _filled(column: pa.ChunkedArray, kind: pa.DataType) -> npt.NDArray[Any]:
    values: npt.NDArray[Any] = pc.fill_null(column.cast(kind), 0).to_numpy()
    return values
