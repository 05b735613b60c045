"""Columns of 8-byte values as one Arrow batch, out of one block of memory.

An Arrow array made from Python costs a third of a microsecond, some fifty of them more than the round trip
that fetched their values. Arrow's IPC format has a batch in one block: metadata that says where each column's
buffers lie, then the buffers. The metadata is the same for every block of one size, so it is taken from a
blank batch once, and Arrow reads all columns of a block in one call.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Bools = npt.NDArray[np.bool_]
Longs = npt.NDArray[np.int64]

_KEPT = 256
"""Counts of rows whose metadata is kept: one is 2.5 KB for 50 columns, and takes 0.1 ms to make."""


class _Metadata(NamedTuple):
    """Of a block of so many rows; the nulls of each column are two words apart, from `nulls_at`."""

    data: npt.NDArray[np.uint8]
    nulls_at: int


class Block:
    """Room for the columns of one batch. Fill `words`, columns x rows, with the values' bytes; then take the
    batch, once."""

    def __init__(self, schema: pa.Schema, metadata: _Metadata, rows: int) -> None:
        self._schema = schema
        self._metadata = metadata
        columns, header, valid = len(schema), len(metadata.data), _valid_bytes(rows)
        self._data = np.empty(header + columns * (valid + rows * 8), dtype=np.uint8)
        self._data[:header] = metadata.data
        self._buffers = self._data[header:].reshape(columns, valid + rows * 8)
        self.words: Longs = self._buffers[:, valid:].view(np.int64)

    def batch(self, null: Bools | None) -> pa.RecordBatch:
        """null: columns x rows, what is null; None for nothing."""
        if null is not None:
            valid = np.packbits(~null, axis=1, bitorder="little")
            self._buffers[:, : valid.shape[1]] = valid
            nulls_at = self._metadata.nulls_at
            nulls = self._data[nulls_at : nulls_at + 16 * len(null)].view(np.int64)
            nulls[::2] = np.count_nonzero(null, axis=1)
        return pa.ipc.read_record_batch(pa.py_buffer(self._data), self._schema)


class BlockColumns:
    """Makes batches of one schema, all of whose columns have values of 8 bytes."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._metadata = lru_cache(_KEPT)(self._metadata_of)

    def block(self, rows: int) -> Block:
        return Block(self._schema, self._metadata(rows), rows)

    def _metadata_of(self, rows: int) -> _Metadata:
        blank = pa.RecordBatch.from_arrays(
            [pa.nulls(rows, field.type) for field in self._schema], schema=self._schema
        ).serialize()
        columns = len(self._schema)
        size = len(blank) - columns * (_valid_bytes(rows) + rows * 8)
        data = np.frombuffer(blank, dtype=np.uint8, count=size).copy()
        # of each column in turn how many rows and how many nulls it has, 64 bits each: here all are null
        counts = np.full(2 * columns, rows, dtype="<i8").tobytes()
        nulls_at = data.tobytes().index(counts) + 8
        data[nulls_at : nulls_at + len(counts)].view(np.int64)[::2] = 0
        return _Metadata(data, nulls_at)


def _valid_bytes(rows: int) -> int:
    """Of the validity bits of so many rows, filled up to whole words."""
    return -(-rows // 64) * 8
