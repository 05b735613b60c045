"""Batches out of one block, against arrays that pyarrow makes one by one."""

import numpy as np
import pyarrow as pa
import pytest

from features.online.packed_block import BlockColumns

SCHEMAS = (
    pa.schema([("only", pa.int64())]),
    pa.schema([("at", pa.timestamp("ms", tz="UTC")), ("count", pa.int64()), ("share", pa.float64())]),
    pa.schema([(f"mean_{n}", pa.float64()) for n in range(48)]),
)


@pytest.mark.parametrize("schema", SCHEMAS, ids=len)
@pytest.mark.parametrize("rows", [0, 1, 2, 63, 64, 65, 127, 128, 129, 1_000])
@pytest.mark.parametrize("nulls", [None, 0.0, 0.2, 1.0])
def test_a_block_is_the_batch_of_its_columns(schema: pa.Schema, rows: int, nulls: float | None) -> None:
    rng = np.random.default_rng(rows)
    words = rng.integers(-(10**15), 10**15, (len(schema), rows), dtype=np.int64)
    for at, field in enumerate(schema):
        if field.type == pa.float64():
            words[at] = rng.normal(size=rows).view(np.int64)
    null = None if nulls is None else rng.random(words.shape) < nulls
    if null is not None and len(schema) > 1:
        null[1] = False  # a column without any beside others
    block = BlockColumns(schema).block(rows)
    block.words[:] = words
    batch = block.batch(null)
    batch.validate(full=True)
    right = [
        pa.array(
            words[at].view(
                "datetime64[ms]" if pa.types.is_timestamp(field.type) else field.type.to_pandas_dtype()
            ),
            field.type,
            mask=None if null is None else null[at],
        )
        for at, field in enumerate(schema)
    ]
    assert batch.equals(pa.RecordBatch.from_arrays(right, schema=schema), check_metadata=True)
    assert [column.null_count for column in batch.columns] == [column.null_count for column in right]


def test_one_block_says_nothing_of_another() -> None:
    """All blocks of one size begin with the same metadata."""
    columns = BlockColumns(SCHEMAS[1])
    words = np.arange(3 * 10).reshape(3, 10)
    null = np.zeros(words.shape, dtype=np.bool_)
    null[2, 4] = True
    blocks = [columns.block(10) for _ in range(2)]
    blocks[0].words[:], blocks[1].words[:] = words, words + 1
    with_null, without = blocks[0].batch(null), blocks[1].batch(None)
    assert with_null.column("count").to_pylist() == list(range(10, 20))
    assert with_null.column("share").null_count == 1
    assert without.column("count").to_pylist() == list(range(11, 21))
    assert without.column("share").null_count == 0
