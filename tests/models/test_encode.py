"""Encoding against an oracle that goes value by value."""

import math
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import ModelFailed, UnknownName
from models.encode import Encoder, Matrix
from models.signature import Input, Output, Signature
from tests.models import made

WORDS = ("a", "b", "")


def naive(signature: Signature, batch: pa.RecordBatch) -> Matrix:
    """One value at a time, in Python."""
    matrix = np.empty((batch.num_rows, len(signature.inputs)), np.float32)
    for row, record in enumerate(batch.to_pylist()):
        for at, item in enumerate(signature.inputs):
            value: Any = record[item.column]
            if item.vocabulary is not None:
                value = item.vocabulary.index(value) if value in item.vocabulary else None
            matrix[row, at] = math.nan if value is None else np.float32(float(value))
    return matrix


_TYPES: dict[str, tuple[pa.DataType, st.SearchStrategy[Any]]] = {
    "small": (pa.int32(), st.integers(-(2**31), 2**31 - 1)),
    "large": (pa.int64(), st.integers(-(2**52), 2**52)),
    "single": (pa.float32(), st.floats(width=32, allow_nan=False)),
    "double": (pa.float64(), st.floats(-1e30, 1e30)),
    "flag": (pa.bool_(), st.booleans()),
    "money": (pa.decimal128(12, 2), st.integers(-(10**9), 10**9).map(lambda n: Decimal(n) / 100)),
    "word": (pa.string(), st.sampled_from([*WORDS, "unknown"])),
    "other_word": (pa.string(), st.sampled_from([*WORDS, "unknown"])),
}


@st.composite
def cases(draw: st.DrawFn) -> tuple[Signature, pa.RecordBatch]:
    names = draw(st.lists(st.sampled_from(sorted(_TYPES)), min_size=1, unique=True))
    count = draw(st.integers(0, 12))
    skip = draw(st.integers(0, count))
    columns = {
        name: pa.array(draw(st.lists(st.none() | values, min_size=count, max_size=count)), kind)
        for name, (kind, values) in ((name, _TYPES[name]) for name in draw(st.permutations(sorted(_TYPES))))
    }
    inputs = tuple(
        Input(f"{name}_input", name, vocabulary=WORDS if name.endswith("word") else None) for name in names
    )
    return Signature(inputs, Output("probability")), pa.record_batch(columns).slice(skip)


@given(cases())
def test_it_equals_the_naive_oracle(case: tuple[Signature, pa.RecordBatch]) -> None:
    signature, batch = case
    matrix = Encoder(signature).encode(batch)
    assert matrix.dtype == np.float32
    assert matrix.flags.c_contiguous
    np.testing.assert_array_equal(matrix, naive(signature, batch))


def test_one_encoder_follows_a_change_of_schema() -> None:
    encoder = Encoder(made.SIGNED)
    batch = made.rows(20)
    turned = batch.select(sorted(batch.schema.names, reverse=True))
    np.testing.assert_array_equal(encoder.encode(batch), encoder.encode(turned))


def test_a_table_in_chunks_equals_its_batches() -> None:
    table = pa.Table.from_batches([made.rows(7, 1), made.rows(0), made.rows(30, 2)])
    whole = Encoder(made.SIGNED).encode_table(table)
    parts = [Encoder(made.SIGNED).encode(batch) for batch in table.to_batches()]
    np.testing.assert_array_equal(whole, np.concatenate(parts))


def test_each_call_gives_a_matrix_of_its_own() -> None:
    encoder = Encoder(made.SIGNED)
    first = encoder.encode(made.rows(5, 1))
    kept = first.copy()
    encoder.encode(made.rows(5, 2))
    np.testing.assert_array_equal(first, kept)


def test_dictionary_text_is_read_as_text() -> None:
    batch = made.rows(40)
    index = batch.schema.get_field_index("product")
    packed = batch.set_column(index, "product", batch.column("product").dictionary_encode())
    np.testing.assert_array_equal(Encoder(made.SIGNED).encode(packed), Encoder(made.SIGNED).encode(batch))


def test_null_where_none_is_allowed_is_refused() -> None:
    batch = made.rows(3)
    index = batch.schema.get_field_index("amount_cents")
    holed = batch.set_column(index, "amount_cents", pa.array([1, None, 3]))
    with pytest.raises(ModelFailed, match="'amount' is null in 1 of 3 rows"):
        Encoder(made.SIGNED).encode(holed)


def test_a_missing_column_names_the_nearest() -> None:
    batch = made.rows(3)
    renamed = batch.rename_columns([n.replace("mean_1h", "mean_1hour") for n in batch.schema.names])
    with pytest.raises(UnknownName, match="mean_1hour"):
        Encoder(made.SIGNED).encode(renamed)


def test_text_where_a_number_is_wanted_is_refused() -> None:
    batch = made.rows(3)
    index = batch.schema.get_field_index("mean_1h")
    with pytest.raises(ModelFailed, match="needs a number"):
        Encoder(made.SIGNED).encode(batch.set_column(index, "mean_1h", pa.array(["1", "2", "3"])))
