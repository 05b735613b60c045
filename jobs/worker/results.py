"""Results: the Decision columns of a batch, built in Arrow without a Python object per row."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from operators.decide import Decided
from operators.late_features import Filled
from operators.ports import Matrix, Scorer
from schemas.catalog.decisions import Decision
from schemas.codec import arrow_schema

RESULT_SCHEMA = arrow_schema(Decision.spec())
TIME = pa.timestamp("ms", tz="UTC")
REASONS = 4


@dataclass(frozen=True)
class Stages:
    """Times of one batch. `queue_ms` per row; the others are the batch's, in milliseconds."""

    enriched_ms: npt.NDArray[np.int64]
    queue_ms: Matrix
    model_ms: float
    decide_ms: float
    decided_at_ms: int


class Constants:
    """Columns that hold one value: built once at the largest length, then sliced without a copy."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._columns: dict[tuple[str, pa.DataType], pa.Array] = {}

    def column(self, value: str | bool, kind: pa.DataType, rows: int) -> pa.Array:
        key = (str(value), kind)
        if key not in self._columns or len(self._columns[key]) < rows:
            if len(self._columns) > 1000:
                self._columns.clear()
            self._columns[key] = pa.repeat(pa.scalar(value, kind), max(rows, self._rows))
        return self._columns[key].slice(0, rows)

    def nulls(self, kind: pa.DataType, rows: int) -> pa.Array:
        key = ("", kind)
        if key not in self._columns or len(self._columns[key]) < rows:
            self._columns[key] = pa.nulls(max(rows, self._rows), kind)
        return self._columns[key].slice(0, rows)


def result_batch(
    filled: Filled,
    *,
    entity: str,
    time: str,
    pipeline: str,
    scorer: Scorer,
    scores: Matrix,
    decided: Decided,
    reasons: pa.ListArray,
    stages: Stages,
    constants: Constants,
    arm: str = "champion",
    fallback: str | None = None,
) -> pa.RecordBatch:
    """One Decision row per row of `filled.batch`; `scores` are 0 to 100, float32. `fallback`: why the scorer
    answers for another version, where it does."""
    batch, rows = filled.batch, filled.batch.num_rows
    occurred = _named(batch, time)
    text, flag = pa.utf8(), pa.bool_()
    usual = "live" if fallback is None else "previous_version"
    if filled.missing.any():
        missing = pa.array(filled.missing)
        degraded = missing if fallback is None else constants.column(True, flag, rows)
        level = pc.if_else(missing, "no_features", usual)
        why = pc.if_else(missing, pa.scalar(filled.reason, text), pa.scalar(fallback, text))
        feature_time = pc.if_else(missing, pa.scalar(None, occurred.type), occurred)
    else:
        degraded = constants.column(fallback is not None, flag, rows)
        level = constants.column(usual, text, rows)
        why = constants.nulls(text, rows) if fallback is None else constants.column(fallback, text, rows)
        feature_time = occurred
    columns = {
        "tenant": _named(batch, "tenant"),
        "id": _named(batch, "id"),
        "entity": _named(batch, entity),
        "occurred_at": occurred,
        "pipeline": constants.column(pipeline, text, rows),
        "score": pa.array(scores),
        "decision": decided.decision,
        "status": decided.status,
        "model": constants.column(scorer.name, text, rows),
        "model_version": constants.column(scorer.version, text, rows),
        "arm": constants.column(arm, text, rows),
        "assignment_unit": _named(batch, entity),
        "degraded": degraded,
        "level": level,
        "degraded_reason": why,
        "late": _named(batch, "late"),
        "feature_time": feature_time,
        "reasons": reasons,
        "source": _named(batch, "source"),
        "traceparent": _named(batch, "traceparent"),
        "received_at": _named(batch, "received_at"),
        "enriched_at": pa.array(stages.enriched_ms).view(TIME),
        "decided_at": pa.array(np.full(rows, stages.decided_at_ms, np.int64)).view(TIME),
        "queue_ms": pa.array(stages.queue_ms),
        "model_ms": pa.array(np.full(rows, stages.model_ms, np.float32)),
        "decide_ms": pa.array(np.full(rows, stages.decide_ms, np.float32)),
    }
    return pa.RecordBatch.from_arrays([columns[name] for name in RESULT_SCHEMA.names], schema=RESULT_SCHEMA)


@lru_cache(maxsize=64)
def no_reasons(rows: int) -> pa.ListArray:
    """A reasons column of empty lists."""
    return _lists(np.zeros(rows + 1, np.int32), pa.array([], pa.utf8()), pa.array([], pa.float32()))


def reasons_column(
    rows: int, explained: npt.NDArray[np.int64], contributions: Matrix, inputs: pa.StringArray
) -> pa.ListArray:
    """For each row in `explained` up to REASONS inputs that raised its log-odds most, largest first.

    `contributions` is (len(explained), len(inputs)); all other rows get an empty list.
    """
    best, values = largest(contributions)
    raised = values > 0
    lengths = np.zeros(rows + 1, np.int32)
    lengths[explained + 1] = raised.sum(axis=1)
    offsets = np.cumsum(lengths, dtype=np.int32)
    return _lists(offsets, inputs.take(pa.array(best[raised])), pa.array(values[raised]))


def largest(contributions: Matrix) -> tuple[npt.NDArray[np.int64], Matrix]:
    """The places and values of the REASONS largest of each row, largest first."""
    top = min(REASONS, contributions.shape[1])
    part = np.argpartition(contributions, -top, axis=1)[:, -top:]
    order = np.argsort(-np.take_along_axis(contributions, part, axis=1), axis=1, kind="stable")
    best = np.take_along_axis(part, order, axis=1)
    return best, np.take_along_axis(contributions, best, axis=1).astype(np.float32, copy=False)


def _lists(offsets: npt.NDArray[np.int32], names: pa.Array, values: pa.Array) -> pa.ListArray:
    kind = RESULT_SCHEMA.field("reasons").type
    item = kind.value_type
    given: dict[str, pa.Array] = {"input": names, "contribution": values}
    fields: Sequence[pa.Field] = [item.field(index) for index in range(item.num_fields)]
    struct = pa.StructArray.from_arrays([given[field.name] for field in fields], fields=list(fields))
    return pa.ListArray.from_arrays(pa.array(offsets), struct).cast(kind)


def _named(batch: pa.RecordBatch, name: str) -> pa.Array:
    return batch.column(batch.schema.get_field_index(name))
