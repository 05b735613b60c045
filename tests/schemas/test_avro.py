"""Records to Avro: the forms of types, stable text, and the schemas that are refused."""

import json
from datetime import UTC, datetime
from typing import Annotated, Any

import fastavro
import msgspec
import pytest
from msgspec import Meta

from core.errors import DeclarationError
from schemas.avro import check_bans, compile_schema, schema_text
from schemas.catalog.decisions import Decision, StatusChange
from schemas.record import FieldSpec, Float32, Int32, Record, RecordSpec, record


class Part(msgspec.Struct, frozen=True):
    x: int
    at: datetime | None = None


@record(entity="card", time="at", namespace="test.avro")
class Everything(Record, frozen=True, kw_only=True):
    """Every form.

    Not this line.
    """

    card: Annotated[str, Meta(description="the card")]
    at: datetime
    small: Int32 = 3
    real: Float32 | None = 1.5
    parts: list[Part] = []
    again: Part | None = None
    tags: dict[str, str | None] = {}
    raw: bytes = b"\xff"
    since: datetime = datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)


def fields() -> dict[str, Any]:
    return {field["name"]: field for field in compile_schema(Everything.spec())["fields"]}


def test_types_take_their_avro_form() -> None:
    time = {"type": "long", "logicalType": "timestamp-millis"}
    found = fields()
    assert found["at"] == {"name": "at", "type": time}
    assert found["small"] == {"name": "small", "type": "int", "default": 3}
    assert found["card"] == {"name": "card", "type": "string", "doc": "the card"}
    assert found["tags"]["type"] == {"type": "map", "values": ["null", "string"]}
    assert found["raw"]["default"] == "\xff"
    assert found["since"]["default"] == 1000


def test_null_comes_first_unless_the_default_is_another() -> None:
    assert fields()["real"]["type"] == ["float", "null"]
    assert fields()["again"]["type"][0] == "null"
    assert fields()["again"]["default"] is None


def test_a_struct_is_defined_once_and_then_named() -> None:
    assert fields()["parts"]["type"]["items"]["name"] == "Part"
    assert fields()["again"]["type"][1] == "test.avro.Part"


def test_only_the_first_line_of_a_docstring_is_the_doc() -> None:
    assert compile_schema(Everything.spec())["doc"] == "Every form."


@pytest.mark.parametrize("of", [Everything, Decision, StatusChange])
def test_the_text_is_stable_and_valid_avro(of: type[Record]) -> None:
    text = schema_text(of.spec())
    assert text == schema_text(of.spec())
    assert fastavro.parse_schema(json.loads(text))["type"] == "record"


def test_two_different_structs_of_one_name_are_refused() -> None:
    one = RecordSpec("Twin", "test", (FieldSpec("a", "long"),))
    other = RecordSpec("Twin", "test", (FieldSpec("b", "long"),))
    both = RecordSpec(
        "Both", "test", (FieldSpec("one", "struct", struct=one), FieldSpec("other", "struct", struct=other))
    )
    with pytest.raises(DeclarationError, match="two records are named"):
        compile_schema(both)


EMPTY: dict[str, Any] = {"type": "record", "name": "Empty", "fields": []}
NULLS: dict[str, Any] = {"type": "record", "name": "Nulls", "fields": [{"name": "n", "type": "null"}]}
LOOP: dict[str, Any] = {
    "type": "record",
    "name": "Loop",
    "namespace": "a.b",
    "fields": [{"name": "next", "type": ["null", "Loop"]}],
}


@pytest.mark.parametrize(
    "items",
    [
        "null",
        EMPTY,
        NULLS,
        {"type": "fixed", "name": "F", "size": 0},
        {"type": "record", "name": "Outer", "fields": [{"name": "e", "type": EMPTY}]},
    ],
)
@pytest.mark.parametrize("place", ["field", "union", "map", "array", "nested"])
def test_arrays_of_nothing_are_refused_wherever_they_hide(items: Any, place: str) -> None:
    array: Any = {"type": "array", "items": items}
    hidden = {
        "field": array,
        "union": ["null", array],
        "map": {"type": "map", "values": array},
        "array": {"type": "array", "items": array},
        "nested": {"type": "record", "name": "In", "fields": [{"name": "a", "type": array}]},
    }[place]
    with pytest.raises(DeclarationError, match="no bytes"):
        check_bans({"type": "record", "name": "R", "fields": [{"name": "f", "type": hidden}]})


def test_an_array_of_a_named_nothing_is_refused() -> None:
    schema = {
        "type": "record",
        "name": "R",
        "fields": [{"name": "e", "type": EMPTY}, {"name": "f", "type": {"type": "array", "items": "Empty"}}],
    }
    with pytest.raises(DeclarationError, match="no bytes"):
        check_bans(schema)


@pytest.mark.parametrize(
    "loop",
    [
        LOOP,
        {"type": "record", "name": "R", "fields": [{"name": "l", "type": {"type": "array", "items": LOOP}}]},
        {
            "type": "record",
            "name": "A",
            "fields": [
                {
                    "name": "b",
                    "type": {
                        "type": "record",
                        "name": "B",
                        "fields": [{"name": "a", "type": {"type": "map", "values": "A"}}],
                    },
                }
            ],
        },
    ],
)
def test_recursion_is_refused(loop: Any) -> None:
    with pytest.raises(DeclarationError, match="contains itself"):
        check_bans(loop)


def test_what_takes_bytes_is_allowed() -> None:
    part = {
        "type": "record",
        "name": "P",
        "fields": [{"name": "x", "type": "int"}, {"name": "n", "type": "null"}],
    }
    for items in (
        part,
        ["null", "string"],
        {"type": "map", "values": "null"},
        {"type": "array", "items": "int"},
    ):
        check_bans(
            {
                "type": "record",
                "name": "R",
                "fields": [{"name": "f", "type": {"type": "array", "items": items}}],
            }
        )


def test_a_name_that_is_not_defined_is_refused() -> None:
    with pytest.raises(DeclarationError, match="does not define"):
        check_bans({"type": "record", "name": "R", "fields": [{"name": "f", "type": "Elsewhere"}]})
