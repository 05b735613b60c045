"""The codec against fastavro, on generated schemas and records."""

import math
from datetime import UTC, datetime
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.codec import RecordCodec
from schemas.codec.columns import plain_rows
from tests.schemas.generated import (
    ALL,
    TEXT,
    RegistryOfTexts,
    make_record,
    oracle_decode,
    oracle_encode,
    plain,
    record_types,
)

CHECK = settings(max_examples=80, deadline=None)
AT = datetime(2026, 1, 1, tzinfo=UTC)


def codec_of(cls: Any, registry: Any = None) -> RecordCodec[Any]:
    return RecordCodec(cls, registry or RegistryOfTexts(), "generated-value")


@CHECK
@given(st.data())
def test_batches_decode_as_the_oracle_does(data: Any) -> None:
    cls, instances = data.draw(record_types())
    records = data.draw(st.lists(instances, min_size=1, max_size=6))
    codec = codec_of(cls)
    head = codec.encode(records[0])[:5]
    bodies = [oracle_encode(codec.text, each) for each in records]
    decoded = codec.decode_batch([head + body for body in bodies])
    assert decoded.bad == []
    assert decoded.batch.schema.equals(codec.columns)
    decoded.batch.validate(full=True)
    assert plain_rows(decoded.batch, codec.spec.fields) == [
        oracle_decode(body, codec.text) for body in bodies
    ]


@CHECK
@given(st.data())
def test_encoding_gives_the_oracles_bytes(data: Any) -> None:
    cls, instances = data.draw(record_types())
    records = data.draw(st.lists(instances, min_size=1, max_size=6))
    codec = codec_of(cls)
    expected = [oracle_encode(codec.text, each) for each in records]
    assert [codec.encode(each)[5:] for each in records] == expected
    assert [codec.decode(codec.encode(each)) for each in records] == records
    batch = codec.decode_batch([codec.encode(each) for each in records]).batch
    assert [value[5:] for value in codec.encode_batch(batch)] == expected
    start = data.draw(st.integers(0, len(records)))
    length = data.draw(st.integers(0, len(records)))
    part = batch.slice(start, length)
    assert [value[5:] for value in codec.encode_batch(part)] == expected[start : start + length]


@CHECK
@given(st.data())
def test_what_pyruhvro_refuses_goes_by_the_slow_way_with_the_same_result(data: Any) -> None:
    cls, instances = data.draw(record_types(kinds=("bytes", "string", "time"), depth=1))
    records = data.draw(st.lists(instances, min_size=1, max_size=4))
    codec = codec_of(cls)
    values = [codec.encode(each) for each in records]
    assert [value[5:] for value in values] == [oracle_encode(codec.text, each) for each in records]
    decoded = codec.decode_batch(values)
    assert decoded.bad == []
    assert plain_rows(decoded.batch, codec.spec.fields) == [plain(each) for each in records]
    assert codec.encode_batch(decoded.batch) == values
    assert [codec.decode(value) for value in values] == records


WIDER: dict[str, list[Any]] = {"long": [float], "int": [int, float], "float": [float]}


@CHECK
@given(st.data())
def test_old_writers_are_read_as_the_oracle_resolves_them(data: Any) -> None:
    """Fields removed, added with defaults, widened, made nullable, in another order."""
    old, instances = data.draw(record_types())
    spec = old.spec()
    fields: list[Any] = []
    for field in spec.fields[3:]:
        hint = old.__annotations__[field.name]
        choice = data.draw(st.sampled_from(["keep", "drop", "widen", "null"]))
        if choice == "widen" and field.kind in WIDER:
            hint = data.draw(st.sampled_from(WIDER[field.kind]))
            hint = hint | None if field.nullable else hint
        elif choice == "null" and not field.nullable:
            hint = hint | None
        if choice != "drop":
            fields.append((field.name, hint))
    fields = data.draw(st.permutations(fields))
    fields += [("new_text", str, "gone?"), ("new_number", int | None, 7), ("new_null", float | None, None)]
    fields += [("new_bare", bool | None)]
    registry = RegistryOfTexts()
    writer, reader = codec_of(old, registry), codec_of(make_record(fields), registry)
    records = data.draw(st.lists(instances, min_size=1, max_size=5))
    values = [writer.encode(each) for each in records]
    decoded = reader.decode_batch(values)
    assert decoded.bad == []
    assert decoded.batch.schema.equals(reader.columns)
    rows = plain_rows(decoded.batch, reader.spec.fields)
    expected = [oracle_decode(value[5:], writer.text, reader.text) for value in values]
    assert [_close(row) for row in rows] == [_close(row) for row in expected]
    for value, row in zip(values, expected, strict=True):
        reader.decode(value)  # the first time the general way, the second time unrolled
        assert _close(plain(reader.decode(value))) == _close(row)


def _close(row: dict[str, Any]) -> dict[str, Any]:
    """Avro lets a long become the nearest float; Python's oracle keeps the int."""
    return {
        name: float(value) if isinstance(value, int) and not isinstance(value, bool) else value
        for name, value in row.items()
    }


@CHECK
@given(st.data())
def test_bad_messages_are_told_apart_and_nothing_else_is_lost(data: Any) -> None:
    cls, instances = data.draw(record_types(depth=1))
    codec = codec_of(cls)
    values: list[Any] = []
    wrong: dict[int, set[str]] = {}
    for index in range(data.draw(st.integers(1, 12))):
        value = codec.encode(data.draw(instances))
        harm = data.draw(
            st.sampled_from(["", "", "", "none", "magic", "id", "cut", "more", "short", "large"])
        )
        if harm:
            wrong[index] = {
                "none": {"not_avro"}, "magic": {"not_avro"}, "short": {"not_avro"},
                "id": {"unknown_schema"}, "cut": {"truncated"}, "large": {"too_large"},
                "more": {"trailing_bytes"},
            }[harm]  # fmt: skip
        changed = {
            "": value, "none": None, "magic": b"\x01" + value[1:], "id": b"\0\0\0\x7f\x7f" + value[5:],
            "cut": value[:-1], "more": value + data.draw(st.binary(min_size=1, max_size=9)),
            "short": value[:4], "large": value + b"\0" * codec.max_bytes,
        }[harm]  # fmt: skip
        values.append(changed)
    decoded = codec.decode_batch(values)
    assert [bad.index for bad in decoded.bad] == sorted(wrong)
    assert all(bad.code in wrong[bad.index] for bad in decoded.bad)
    assert decoded.kept.tolist() == [i for i in range(len(values)) if i not in wrong]
    good = [values[i] for i in decoded.kept]
    assert codec.encode_batch(decoded.batch) == good


@CHECK
@given(st.data(), st.binary(max_size=60))
def test_no_bytes_break_the_codec(data: Any, noise: bytes) -> None:
    """Whatever follows the header: a record that can be encoded again, or a bad message."""
    cls, _ = data.draw(record_types(kinds=ALL, depth=2))
    codec = codec_of(cls)
    codec._header()
    value = b"\0\0\0\0\x01" + noise
    decoded = codec.decode_batch([value])
    assert decoded.batch.num_rows + len(decoded.bad) == 1
    decoded.batch.validate(full=True)
    if decoded.batch.num_rows:
        again = codec.decode_batch(codec.encode_batch(decoded.batch))
        assert _same(again.batch.to_pydict(), decoded.batch.to_pydict())


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return one == other or (math.isnan(one) and math.isnan(other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)


@CHECK
@given(TEXT)
def test_texts_of_any_script_come_back(text: str) -> None:
    cls = make_record([("f0", str)])
    codec = codec_of(cls)
    value = codec.encode(cls(tenant=text, id="1", at=AT, f0=text))
    assert codec.decode_batch([value]).batch.column("f0").to_pylist() == [text]
