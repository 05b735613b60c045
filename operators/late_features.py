"""Late features: rows that came too late for their windows are given their features from the online store.

Where it cannot be read they stay without: trees take the missing values as missing, and the result says so
(`degraded`, level `no_features`, `degraded_reason`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from core.errors import CircuitOpen, Unavailable
from operators.breaker import Breaker
from operators.ports import FeatureReader

MAX_REASON = 300
R = TypeVar("R")


@dataclass(frozen=True)
class Filled:
    """`batch` has the feature columns of its late rows; `missing` (bool, rows) marks late rows without."""

    batch: pa.RecordBatch
    missing: npt.NDArray[np.bool_]
    reason: str | None


def fill_late(
    batch: pa.RecordBatch,
    late: npt.NDArray[np.bool_],
    names: Sequence[str],
    reader: FeatureReader | None,
    breaker: Breaker,
) -> Filled:
    """Give the rows marked in `late` the features `names`, read as of their own time.

    Rows that are not late keep theirs. Never raises for a store that is away: those rows stay without
    features, are marked in `missing`, and `reason` says why.
    """
    rows = np.flatnonzero(late)
    if len(rows) == 0:
        return Filled(batch, np.zeros(len(late), np.bool_), None)
    if reader is None:
        return Filled(batch, late.copy(), "no online store is configured")
    asked = batch if len(rows) == len(late) else batch.take(pa.array(rows))
    read, reason = guarded(lambda: reader.read_rows(asked), breaker)
    if read is None:
        return Filled(batch, late.copy(), reason)
    mask = None if len(rows) == len(late) else pa.array(late)
    columns = list(batch.columns)
    for name in names:
        index = batch.schema.get_field_index(name)
        kind = batch.schema.field(index).type
        given = _column(read[name], kind)
        columns[index] = given if mask is None else pc.replace_with_mask(columns[index], mask, given)
    return Filled(
        pa.RecordBatch.from_arrays(columns, schema=batch.schema), np.zeros(len(late), np.bool_), None
    )


def guarded(read: Callable[[], R], breaker: Breaker) -> tuple[R | None, str | None]:
    """What `read` gives; or None, and why, where the online store is away or was a moment ago."""
    try:
        ticket = breaker.admit()
    except CircuitOpen:
        return None, "the online store was unreachable a moment ago"
    try:
        found = read()
    except Unavailable as error:
        breaker.failed(ticket)
        return None, f"online store: {error.what}"[:MAX_REASON]
    except BaseException:
        breaker.abandoned(ticket)
        raise
    breaker.succeeded(ticket)
    return found, None


def _column(values: pa.Array | Sequence[object], kind: pa.DataType) -> pa.Array:
    array = values if isinstance(values, pa.Array) else pa.array(values, kind)
    return array if array.type == kind else array.cast(kind)
