"""Columns of 8-byte values as one Arrow batch, out of one block of memory.

An Arrow array made from Python costs a third of a microsecond, some fifty of them more than the round trip
that fetched their values. Arrow's IPC format has a batch in one block: metadata that says where each column's
buffers lie, then the buffers. The metadata is the same for every block of one size, so it is taken from a
blank batch once, and Arrow reads all columns of a block in one call.
"""

from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Bools = npt.NDArray[np.bool_]
Longs = npt.NDArray[np.int64]

_FEWEST = 64
"""Rows of the smallest block: their validity bits fill 8 bytes, so that all buffers lie without a gap."""


class _Metadata(NamedTuple):
    """Of a block of so many rows; the nulls of each column are two words apart, from `nulls_at`."""

    data: npt.NDArray[np.uint8]
    nulls_at: int


class BlockColumns:
    """Makes batches of one schema, all of whose columns have values of 8 bytes."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._columns = len(schema)
        self._metadata = cache(self._metadata_of)

    def batch(self, words: Longs, null: Bools | None) -> pa.RecordBatch:
        """A batch of copies of these words, which are the values' bytes; both arrays are columns x rows.
        null: what is null, None for nothing."""
        rows = words.shape[1]
        room = max(_FEWEST, 1 << (rows - 1).bit_length())
        metadata, nulls_at = self._metadata(room)
        stride = room // 8 + room * 8
        block = np.empty(len(metadata) + self._columns * stride, dtype=np.uint8)
        block[: len(metadata)] = metadata
        buffers = block[len(metadata) :].reshape(self._columns, stride)
        buffers[:, room // 8 :].view(np.int64)[:, :rows] = words
        if null is not None:
            valid = np.packbits(~null, axis=1, bitorder="little")
            buffers[:, : valid.shape[1]] = valid
            nulls = block[nulls_at : nulls_at + 16 * self._columns].view(np.int64)
            nulls[::2] = np.count_nonzero(null, axis=1)
        return pa.ipc.read_record_batch(pa.py_buffer(block), self._schema).slice(0, rows)

    def _metadata_of(self, room: int) -> _Metadata:
        blank = pa.RecordBatch.from_arrays(
            [pa.nulls(room, field.type) for field in self._schema], schema=self._schema
        ).serialize()
        size = len(blank) - len(pa.ipc.read_message(blank).body)
        data = np.frombuffer(blank, dtype=np.uint8, count=size).copy()
        # of each column in turn how many rows and how many nulls it has, 64 bits each: here all are null
        counts = np.full(2 * self._columns, room, dtype="<i8").tobytes()
        nulls_at = data.tobytes().index(counts) + 8
        data[nulls_at : nulls_at + len(counts)].view(np.int64)[::2] = 0
        return _Metadata(data, nulls_at)
