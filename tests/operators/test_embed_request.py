"""Requests for vectors, good and wrong ones."""

import json
from typing import Any

import pytest

from core.errors import Malformed, Rejected
from operators.embed_request import Bounds, parse

BOUNDS = Bounds(inputs=4, input_tokens=16)


def read(**given: Any) -> Any:
    return parse(json.dumps(given).encode(), BOUNDS)


def test_a_text_and_several() -> None:
    assert read(input="a").texts == ("a",)
    asked = read(input=["a", "b"], model="m", encoding_format="base64", user="u", dimensions=None)
    assert (asked.texts, asked.model, asked.base64) == (("a", "b"), "m", True)
    assert not read(input="a", encoding_format="float").base64


def test_tokens_are_bounded_by_bytes_and_by_the_bound() -> None:
    assert read(input=["ab", "é", "x" * 1_000]).most_tokens(BOUNDS) == 4 + 4 + 16


@pytest.mark.parametrize(
    ("given", "pointer", "said"),
    [
        ({}, "/input", "is needed"),
        ({"input": None}, "/input", "is needed"),
        ({"input": 7}, "/input", "is needed"),
        ({"input": {"a": 1}}, "/input", "is needed"),
        ({"input": []}, "/input", "is needed"),
        ({"input": ["a"] * 5}, "/input", "at most 4"),
        ({"input": [1, 2]}, "/input", "tokens are not taken"),
        ({"input": [[1]]}, "/input", "tokens are not taken"),
        ({"input": ["a", None]}, "/input", "item 1 is no text"),
        ({"input": ["a", " \n"]}, "/input", "text 1 is empty"),
        ({"input": "a", "model": 7}, "/model", "a name"),
        ({"input": "a", "model": ""}, "/model", "a name"),
        ({"input": "a", "encoding_format": "int8"}, "/encoding_format", "float, base64"),
        ({"input": "a", "encoding_format": []}, "/encoding_format", "float, base64"),
        ({"input": "a", "dimensions": 12}, "/dimensions", "one width"),
        ({"input": "a", "nobody": 1}, "/nobody", "no such field"),
    ],
)
def test_what_is_wrong_is_named(given: dict[str, Any], pointer: str, said: str) -> None:
    with pytest.raises(Rejected) as raised:
        read(**given)
    assert raised.value.code == "invalid_request"
    assert said in raised.value.fields[pointer]


def test_all_that_is_wrong_is_named_and_bounded() -> None:
    with pytest.raises(Rejected) as raised:
        read(model=1, **{f"f{number}": 1 for number in range(100)})
    assert len(raised.value.fields) == 32


@pytest.mark.parametrize("body", [b"", b"[]", b"1", b"null", b"{", b'{"input": "\xff"}'])
def test_what_is_no_object_is_malformed(body: bytes) -> None:
    with pytest.raises(Malformed):
        parse(body, BOUNDS)
