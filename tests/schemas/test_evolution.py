"""BACKWARD_TRANSITIVE, judged against fastavro's own resolution."""

import io
from typing import Any

import fastavro
import pytest

from core.errors import IncompatibleSchema
from schemas.evolution import check_backward, diff, explain


def of(*fields: tuple[str, Any] | tuple[str, Any, Any]) -> dict[str, Any]:
    return {
        "type": "record",
        "name": "R",
        "fields": [dict(zip(("name", "type", "default"), field, strict=False)) for field in fields],
    }


def array(items: Any) -> dict[str, Any]:
    return {"type": "array", "items": items}


def mapped(values: Any) -> dict[str, Any]:
    return {"type": "map", "values": values}


INNER = {"type": "record", "name": "I", "fields": [{"name": "x", "type": "int"}]}
INNER_MORE = {**INNER, "fields": [*INNER["fields"], {"name": "y", "type": "string"}]}
INNER_DEFAULT = {**INNER, "fields": [*INNER["fields"], {"name": "y", "type": "string", "default": ""}]}
TIME = {"type": "long", "logicalType": "timestamp-millis"}

ALLOWED: list[tuple[Any, Any, Any]] = [
    (of(("a", "int")), of(("a", "long")), {"a": 1}),
    (of(("a", "int")), of(("a", "double")), {"a": 1}),
    (of(("a", "float")), of(("a", "double")), {"a": 1.0}),
    (of(("a", "string")), of(("a", "bytes")), {"a": "x"}),
    (of(("a", "int")), of(("a", ["null", "int"])), {"a": 1}),
    (of(("a", "int")), of(("a", ["null", "long"])), {"a": 1}),
    (of(("a", ["null", "int"])), of(("a", ["null", "long"])), {"a": None}),
    (of(("a", ["null", "int"])), of(("a", ["int", "null"])), {"a": 4}),
    (of(("a", "int")), of(("a", "int"), ("b", "string", "x")), {"a": 1}),
    (of(("a", "int"), ("b", "string")), of(("b", "string")), {"a": 1, "b": "x"}),
    (of(("a", INNER)), of(("a", INNER_DEFAULT)), {"a": {"x": 1}}),
    (of(("a", {"type": "array", "items": "int"})), of(("a", {"type": "array", "items": "long"})), {"a": [1]}),
    (of(("a", ["null", INNER])), of(("a", ["null", INNER_DEFAULT])), {"a": {"x": 1}}),
]  # fmt: skip
BROKEN: list[tuple[Any, Any, Any, str]] = [
    (of(("a", "long")), of(("a", "int")), {"a": 2**40}, "a"),
    (of(("a", "string")), of(("a", "int")), {"a": "x"}, "a"),
    (of(("a", "int")), of(("a", "int"), ("b", "string")), {"a": 1}, "b"),
    (of(("a", ["null", "int"])), of(("a", "int")), {"a": None}, "a"),
    (of(("a", INNER)), of(("a", INNER_MORE)), {"a": {"x": 1}}, "a.y"),
    (of(("a", array(INNER))), of(("a", array(INNER_MORE))), {"a": [{"x": 1}]}, "a[].y"),
    (of(("a", mapped("string"))), of(("a", mapped("int"))), {"a": {"k": "v"}}, "a{}"),
    (of(("a", ["null", INNER])), of(("a", ["null", INNER_MORE])), {"a": {"x": 1}}, "a.y"),
]  # fmt: skip


def resolves(old: Any, new: Any, value: Any) -> bool:
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, fastavro.parse_schema(old), value)
    stream.seek(0)
    try:
        fastavro.schemaless_reader(stream, fastavro.parse_schema(old), fastavro.parse_schema(new))
    except Exception:
        return False
    return True


@pytest.mark.parametrize(("old", "new", "value"), ALLOWED)
def test_what_the_oracle_resolves_is_allowed(old: Any, new: Any, value: Any) -> None:
    assert resolves(old, new, value)
    assert all(change.rule is None for change in diff(old, new))
    check_backward([old], new)


@pytest.mark.parametrize(("old", "new", "value", "path"), BROKEN)
def test_what_the_oracle_cannot_resolve_is_refused_with_its_path(
    old: Any, new: Any, value: Any, path: str
) -> None:
    assert not resolves(old, new, value)
    assert [change.path for change in diff(old, new) if change.rule] == [path]
    with pytest.raises(IncompatibleSchema, match="BREAKS"):
        check_backward([old], new)


def test_a_time_is_not_a_number() -> None:
    (change,) = diff(of(("at", TIME)), of(("at", "long")))
    assert change.rule is not None
    (change,) = diff(of(("at", "int")), of(("at", TIME)))
    assert change.rule is not None


def test_documentation_is_no_difference() -> None:
    new = {**of(("a", "int")), "doc": "more"}
    assert diff(of(("a", "int")), new) == []


def test_transitive_means_every_old_version() -> None:
    """Each step is fine; the first version cannot be read by the third."""
    first, second = of(("a", "int")), of(("a", "int"), ("b", "string", "x"))
    third = of(("a", "int"), ("b", "string"))
    assert all(change.rule is None for change in diff(second, third))
    with pytest.raises(IncompatibleSchema, match="against version 1"):
        check_backward([first, second], third)


def test_the_diff_reads_like_one() -> None:
    text = explain([of(("a", "int"), ("gone", "string"))], of(("a", ["null", "long"]), ("new", TIME)))
    assert "- gone: string" in text
    assert "~ a: int -> long or null" in text
    assert "+ new: long (timestamp-millis)   BREAKS: a new field needs a default" in text


def test_the_first_version_breaks_nothing() -> None:
    assert check_backward([], of(("a", "int"))) == []


def test_an_enum_may_gain_symbols_but_not_lose_them() -> None:
    old = of(("e", {"type": "enum", "name": "E", "symbols": ["A", "B"]}))
    more = of(("e", {"type": "enum", "name": "E", "symbols": ["A", "B", "C"]}))
    assert [change.rule for change in diff(old, more)] == [None]
    assert [change.rule is None for change in diff(more, old)] == [False]
