"""Golden rows: columns as they come to the model's door, and the outputs that must come out.

They go through encoding and scoring, so they catch a wrong vocabulary or order of inputs as well as a wrong
model. Kept as an Arrow IPC file: the columns of the signature, and `expected_probability` (float32).
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from core.errors import InvalidInput, ModelRefused
from models.encode import Matrix
from models.signature import Signature

EXPECTED = "expected_probability"
TOLERANCE = 1e-5
MAX_ROWS = 10_000
SPREAD = 2_048


def choose(
    matrix: Matrix, splits: Sequence[tuple[int, float]], *, spread: int = SPREAD, most: int = 4_096
) -> npt.NDArray[np.int64]:
    """Positions of the rows to keep, ascending, at most `most`: `spread` of them evenly, and for every split
    (input, threshold) the row nearest below it and the row nearest at or above it.

    A model that was damaged in one node answers alike on nearly all rows; on those beside its splits it does
    not. Of 212 damaged models 14 went by 64 rows, 2 by 512, 1 by 512 with those beside the splits, and none
    by 2,048 with them.
    """
    picked = set(np.linspace(0, len(matrix) - 1, min(spread, len(matrix), most)).astype(np.int64).tolist())
    sorted_by: dict[int, tuple[npt.NDArray[np.int64], Matrix]] = {}
    for at, threshold in splits:
        if at not in sorted_by:
            order = np.argsort(matrix[:, at], kind="stable")
            order = order[: len(matrix) - int(np.isnan(matrix[:, at]).sum())]  # NaN is sorted last
            sorted_by[at] = order, matrix[order, at]
        order, values = sorted_by[at]
        place = int(np.searchsorted(values, np.float32(threshold)))
        beside = [int(order[side]) for side in (place - 1, place) if 0 <= side < len(order)]
        if len(picked.union(beside)) > most:
            break
        picked.update(beside)
    return np.array(sorted(picked), np.int64)


def pack(rows: pa.Table, expected: Matrix, signature: Signature) -> bytes:
    """The file of the first columns the signature reads, with their outputs. At most 10,000 rows."""
    if not 1 <= rows.num_rows <= MAX_ROWS or rows.num_rows != len(expected):
        raise InvalidInput(
            f"{rows.num_rows} golden rows, {len(expected)} outputs", mend=f"give 1 to {MAX_ROWS}"
        )
    table = rows.select(list(signature.columns)).append_column(EXPECTED, pa.array(expected, pa.float32()))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return bytes(sink.getvalue().to_pybytes())


def unpack(data: bytes, *, where: str) -> tuple[pa.RecordBatch, Matrix]:
    """Rows and expected outputs; raises ModelRefused."""
    try:
        with pa.ipc.open_file(pa.BufferReader(data)) as reader:
            table = reader.read_all().combine_chunks()
        batches = table.to_batches()
        if len(batches) != 1 or not 1 <= table.num_rows <= MAX_ROWS:
            raise ValueError(f"{table.num_rows} rows")
        expected = batches[0].column(EXPECTED).to_numpy(zero_copy_only=False).astype(np.float32)
    except (pa.ArrowException, KeyError, ValueError, OSError) as error:
        raise ModelRefused(
            f"the golden rows cannot be read: {error}", where=where, mend="train and publish the model again"
        ) from error
    return batches[0], expected


def compare(expected: Matrix, got: Matrix, *, where: str) -> None:
    """Raises ModelRefused when an output is further than 1e-5 from its golden one, of outputs above 1 than
    1e-5 of it."""
    if got.shape != expected.shape:
        raise ModelRefused(
            f"{len(expected)} golden rows gave outputs of shape {got.shape}",
            where=where,
            mend="publish again",
        )
    off = ~(np.abs(got.astype(np.float64) - expected) <= TOLERANCE * np.maximum(np.abs(expected), 1.0))
    if off.any():
        at = int(np.flatnonzero(off)[0])
        raise ModelRefused(
            f"{int(off.sum())} of {len(off)} golden outputs differ; row {at} gives {got[at]:.6g}, "
            f"expected {expected[at]:.6g}",
            where=where,
            mend="choose another version, or train and publish again",
        )
