"""Records as JSON become the rows that Arrow columns become, and what is wrong is named."""

import json
import math
from typing import Any

import msgspec
import numpy as np
import pytest

from core.errors import Malformed, Rejected
from models.encode import Encoder
from models.rows import RowReader
from models.signature import Input, Output, Signature
from tests.models import made

READER = RowReader(made.SIGNED)
GOOD: dict[str, Any] = {"amount_cents": 5, "count_1h": None, "mean_1h": 2.5, "product": "C", "id": "t1"}


def test_records_are_encoded_as_columns_are() -> None:
    batch = made.rows(300, seed=4)
    found = READER.read(json.dumps(batch.to_pylist()).encode())
    np.testing.assert_array_equal(found, Encoder(made.SIGNED).encode(batch))
    assert found.flags.c_contiguous


def test_numbers_alone_and_no_rows() -> None:
    plain = Signature((Input("a", "a/b"), Input("flag", "flag")), Output("probability"))
    reader = RowReader(plain)
    found = reader.read(b'[{"a/b": 1e-3, "flag": true}, {"flag": false, "a/b": null}]')
    assert found.tolist()[0] == [np.float32(1e-3), 1.0]
    assert math.isnan(found[1, 0])
    assert reader.read(b"[]").shape == (0, 2)
    with pytest.raises(Rejected) as refused:
        reader.read(b'[{"flag": 1}]', pointer="/records")
    assert refused.value.fields == {"/records/0/a~1b": "missing"}


@pytest.mark.parametrize(
    ("change", "column", "reason"),
    [
        ({"amount_cents": None}, "amount_cents", "null"),
        ({"amount_cents": "5"}, "amount_cents", "number"),
        ({"mean_1h": [1.0]}, "mean_1h", "number"),
        ({"mean_1h": 1e39}, "mean_1h", "float32"),
        ({"mean_1h": -(10**60)}, "mean_1h", "float32"),
        ({"product": 3}, "product", "text"),
        ({"product": True}, "product", "text"),
        ({"count_1h": {}}, "count_1h", "number"),
    ],
)
def test_a_wrong_input_is_named(change: dict[str, Any], column: str, reason: str) -> None:
    with pytest.raises(Rejected) as refused:
        READER.read(json.dumps([GOOD, {**GOOD, **change}]).encode(), pointer="/records")
    assert list(refused.value.fields) == [f"/records/1/{column}"]
    assert reason in refused.value.fields[f"/records/1/{column}"]


def test_all_wrong_inputs_are_named_at_once() -> None:
    with pytest.raises(Rejected) as refused:
        READER.read(b'[{"amount_cents": "x", "product": 1}, 7]')
    assert set(refused.value.fields) == {
        "/0/amount_cents", "/0/count_1h", "/0/mean_1h", "/0/product", "/1",
    }  # fmt: skip


@pytest.mark.parametrize("column", ["amount_cents", "count_1h", "mean_1h", "product"])
def test_a_missing_input_is_named_also_where_null_is_allowed(column: str) -> None:
    record = {name: value for name, value in GOOD.items() if name != column}
    with pytest.raises(Rejected) as refused:
        READER.read(json.dumps([record]).encode())
    assert refused.value.fields == {f"/0/{column}": "missing"}


@pytest.mark.parametrize("body", [b"", b"[", b"[{]", b'[{"amount_cents": NaN}]', b"\xff", b"[" * 5_000])
def test_what_is_no_json_is_malformed(body: bytes) -> None:
    with pytest.raises(Malformed):
        READER.read(body)


@pytest.mark.parametrize("body", [b"{}", b"7", b'"x"', b"null"])
def test_what_is_no_list_is_rejected(body: bytes) -> None:
    with pytest.raises(Rejected):
        READER.read(body)


def test_the_fingerprint_is_that_of_the_order() -> None:
    turned = msgspec.structs.replace(made.SIGNED, inputs=made.SIGNED.inputs[::-1])
    assert turned.fingerprint != made.SIGNED.fingerprint
    assert Signature(made.SIGNED.inputs, Output("other")).fingerprint == made.SIGNED.fingerprint
