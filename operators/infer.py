"""Infer: encode a batch to one matrix, score it in one call, and isolate the rows that break the model.

A batch that raises is halved until the rows that raise stand alone; only those fail. Before the first cut
the model itself is checked, so that a broken model fails the call and not every record of the stream.
Cost of isolation: at most `2 * bad * log2(rows)` further calls.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from core.errors import ModelError, ModelFailed
from operators.ports import Matrix, Scorer


@dataclass(frozen=True)
class FailedRow:
    """A row the model cannot score, and why."""

    row: int
    error: ModelFailed


@dataclass(frozen=True)
class Inferred:
    """Named outputs. `ok`: rows scored (ascending, int64), with their outputs (float32, within the
    model's range) and their rows of the model's input matrix. `failed`: every other row, ascending."""

    ok: npt.NDArray[np.int64]
    outputs: Matrix
    matrix: Matrix
    failed: tuple[FailedRow, ...]


def infer(batch: pa.RecordBatch, scorer: Scorer) -> Inferred:
    """Score every row of `batch`.

    Raises what `scorer.check()` raises (a ModelError) when the model itself does not work any more; then no
    row is to blame and nothing was scored. A row fails with ModelFailed when encoding or scoring it raises,
    and when its output is not a finite number in the model's range.
    """

    def encoded(start: int, length: int) -> Matrix:
        return scorer.encode(batch if length == batch.num_rows else batch.slice(start, length))

    return _infer(batch.num_rows, encoded, scorer)


def infer_rows(columns: Sequence[str], rows: Sequence[Sequence[object]], scorer: Scorer) -> Inferred:
    """The same for few rows that are in no columns: `columns` names the values of each row."""

    def encoded(start: int, length: int) -> Matrix:
        return scorer.encode_rows(columns, rows[start : start + length])

    return _infer(len(rows), encoded, scorer)


def infer_matrix(matrix: Matrix, scorer: Scorer) -> Inferred:
    """The same for rows that are encoded already: C-contiguous float32 (rows, inputs)."""

    def part(start: int, length: int) -> Matrix:
        return matrix[start : start + length]

    return _infer(len(matrix), part, scorer)


Rows = Callable[[int, int], Matrix]
"""The matrix of so many rows from a row on."""


def _infer(rows: int, encoded: Rows, scorer: Scorer) -> Inferred:
    if rows == 0:
        return Inferred(
            np.empty(0, np.int64), np.empty(0, np.float32), np.empty((0, len(scorer.inputs)), np.float32), ()
        )
    try:
        matrix, outputs = _call(0, rows, encoded, scorer)
    except Exception:
        scorer.check()
        return _isolate(rows, encoded, scorer)
    return _outputs(np.arange(rows, dtype=np.int64), matrix, outputs, [], scorer)


def _call(start: int, rows: int, encoded: Rows, scorer: Scorer) -> tuple[Matrix, Matrix]:
    matrix = encoded(start, rows)
    outputs = scorer.score(matrix)
    if matrix.shape != (rows, len(scorer.inputs)) or outputs.shape != (rows,):
        raise ModelError(
            f"{rows} rows became inputs of shape {matrix.shape}, outputs of {outputs.shape}",
            where=f"model {scorer.name} {scorer.version}",
            mend="the engine must give one row of inputs and one output per row",
        )
    return matrix, outputs


def _isolate(rows: int, encoded: Rows, scorer: Scorer) -> Inferred:
    parts: list[tuple[int, Matrix, Matrix]] = []
    failed: list[FailedRow] = []
    for start, length, error in _halves(rows, encoded, scorer, parts):
        failed.append(FailedRow(start, _failed(scorer, f"the model raised {_name(error)}", length)))
    parts.sort(key=lambda part: part[0])
    if not parts:
        empty = np.empty((0, len(scorer.inputs)), np.float32)
        return Inferred(np.empty(0, np.int64), np.empty(0, np.float32), empty, tuple(failed))
    ok = np.concatenate([np.arange(start, start + len(p), dtype=np.int64) for start, _, p in parts])
    matrix = np.concatenate([matrix for _, matrix, _ in parts])
    outputs = np.concatenate([p for _, _, p in parts])
    return _outputs(ok, matrix, outputs, failed, scorer)


def _halves(
    rows: int, encoded: Rows, scorer: Scorer, parts: list[tuple[int, Matrix, Matrix]]
) -> Iterator[tuple[int, int, Exception]]:
    """Adds what can be scored to `parts`; yields (row, 1, error) for every row that cannot."""
    todo = [(half, half_rows) for half, half_rows in _cut(0, rows)]
    while todo:
        start, length = todo.pop()
        try:
            matrix, outputs = _call(start, length, encoded, scorer)
        except Exception as error:
            if length == 1:
                yield start, length, error
            else:
                todo.extend(_cut(start, length))
        else:
            parts.append((start, matrix, outputs))


def _cut(start: int, length: int) -> list[tuple[int, int]]:
    if length == 1:
        return [(start, 1)]
    half = length // 2
    return [(start + half, length - half), (start, half)]


def _outputs(
    ok: npt.NDArray[np.int64],
    matrix: Matrix,
    outputs: Matrix,
    failed: list[FailedRow],
    scorer: Scorer,
) -> Inferred:
    low, high = scorer.output_range
    good = (outputs >= low) & (outputs <= high) & np.isfinite(outputs)
    if not good.all():
        for index in np.flatnonzero(~good):
            what = f"the model gave {outputs[index]}, not a number from {low:g} to {high:g}"
            failed.append(FailedRow(int(ok[index]), _failed(scorer, what, 1)))
        ok, matrix, outputs = ok[good], matrix[good], outputs[good]
    return Inferred(ok, outputs, matrix, tuple(sorted(failed, key=lambda item: item.row)))


def _failed(scorer: Scorer, what: str, rows: int) -> ModelFailed:
    return ModelFailed(
        what,
        where=f"model {scorer.name} {scorer.version}, {rows} row",
        mend="look at the record with `millstream dlq show`; requeue it once the model can take it",
    )


def _name(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error)[:300]}"
