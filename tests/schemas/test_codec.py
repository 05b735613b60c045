"""The codec's promises one by one; the property tests compare it with fastavro."""

import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from core.errors import Malformed, Rejected, TooLarge
from schemas.catalog.decisions import Decision, Reason, StatusChange, Verdict
from schemas.codec import RecordCodec, arrow_schema
from schemas.codec.wire import wire_header
from schemas.codec.writers import Writer
from schemas.record import Int32
from tests.schemas.generated import RegistryOfTexts, make_record, oracle_encode

AT = datetime(2026, 1, 1, 12, tzinfo=UTC)
DECISION = Decision(
    tenant="bank", id="1", entity="é", occurred_at=AT, pipeline="fraud", decision="block", status="blocked",
    model="m", model_version="1", decided_at=AT, reasons=[Reason("c1", 0.5)], score=81.5,
)  # fmt: skip


class Part(msgspec.Struct, frozen=True):
    x: str
    y: float | None = None


class Whole(msgspec.Struct, frozen=True):
    part: Part
    z: float


@pytest.fixture
def registry() -> RegistryOfTexts:
    return RegistryOfTexts()


@pytest.fixture
def codec(registry: RegistryOfTexts) -> RecordCodec[Decision]:
    return RecordCodec(Decision, registry, "results-value")


class CountingWriter(Writer):
    """Counts the calls of the batch decoder."""

    calls = 0

    def decode(self, values: Any) -> pa.RecordBatch:
        CountingWriter.calls += 1
        return super().decode(values)


def test_a_value_begins_with_zero_and_the_id(codec: RecordCodec[Decision]) -> None:
    assert codec.encode(DECISION)[:5] == b"\0\0\0\0\x01" == wire_header(1)


def test_records_within_records_come_back(registry: RegistryOfTexts) -> None:
    codec = RecordCodec(StatusChange, registry, "status-value")
    change = StatusChange(
        tenant="bank", id="1", entity="e", occurred_at=AT, pipeline="fraud", status="blocked", rank=1,
        changed_at=AT, result=DECISION,
    )  # fmt: skip
    value = codec.encode(change)
    assert codec.decode(value) == change
    assert codec.decode(value) == change
    batch = codec.decode_batch([value, value]).batch
    assert batch.column("result")[0].as_py()["reasons"] == [{"input": "c1", "contribution": 0.5}]
    assert codec.encode_batch(batch) == [value, value]


def test_columns_have_the_declared_types(codec: RecordCodec[Decision]) -> None:
    schema = arrow_schema(Decision.spec())
    assert schema.field("occurred_at").type == pa.timestamp("ms", tz="UTC")
    assert schema.field("score").type == pa.float32()
    assert not schema.field("entity").nullable
    assert schema.field("score").nullable
    assert codec.decode_batch([]).batch.schema.equals(schema)
    assert codec.decode_batch([b"junk"]).batch.schema.equals(schema)


def test_good_values_are_decoded_in_one_call_and_a_bad_one_by_halving(
    codec: RecordCodec[Decision], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("schemas.codec.record_codec.Writer", CountingWriter)
    value = codec.encode(DECISION)
    CountingWriter.calls = 0
    assert codec.decode_batch([value] * 512).batch.num_rows == 512
    assert CountingWriter.calls == 1
    CountingWriter.calls = 0
    values = [value] * 512
    values[300] = value[:-3]
    decoded = codec.decode_batch(values)
    assert [(bad.index, bad.code) for bad in decoded.bad] == [(300, "truncated")]
    assert decoded.kept.tolist() == [i for i in range(512) if i != 300]
    assert CountingWriter.calls <= 2 * 9 + 2  # the whole twice, then halves


def test_a_time_nobody_can_hold_is_a_bad_message(registry: RegistryOfTexts) -> None:
    cls = make_record([])
    codec: RecordCodec[Any] = RecordCodec(cls, registry, "s")
    good = codec.encode(cls(tenant="a", id="1", at=AT))
    bad = good[:9] + b"\xfe\xff\xff\xff\xff\xff\xff\xff\x7f"
    assert [each.code for each in codec.decode_batch([good, bad]).bad] == ["out_of_range"]
    with pytest.raises(Malformed) as caught:
        codec.decode(bad)
    assert caught.value.code == "out_of_range"


@pytest.mark.parametrize(
    ("harm", "code"),
    [
        (lambda value: b"", "not_avro"),
        (lambda value: b"{}", "not_avro"),
        (lambda value: b'{"id": 1}', "not_avro"),
        (lambda value: value[:-1], "truncated"),
        (lambda value: value[:6], "truncated"),
        (lambda value: value + b"\0", "trailing_bytes"),
        (lambda value: value + value, "trailing_bytes"),
        (lambda value: b"\0\0\0\x01\0" + value[5:], "unknown_schema"),
        (lambda value: value.replace("é".encode(), b"\xc3\x28"), "invalid_utf8"),
        (lambda value: value + b"\0" * 2000, "too_large"),
    ],
)
@pytest.mark.parametrize("warm", [False, True])
def test_one_bad_value_has_the_same_code_alone_and_among_others(
    registry: RegistryOfTexts, harm: Any, code: str, warm: bool
) -> None:
    codec = RecordCodec(Decision, registry, "results-value", max_bytes=1000)
    value = codec.encode(DECISION)
    if warm:
        codec.decode(value)
    with pytest.raises((Malformed, TooLarge)) as caught:
        codec.decode(harm(value))
    assert caught.value.code == code
    decoded = codec.decode_batch([value, harm(value), value])
    assert [(bad.index, bad.code) for bad in decoded.bad] == [(1, code)]
    assert decoded.kept.tolist() == [0, 2]


def test_values_of_several_writers_keep_their_order(registry: RegistryOfTexts) -> None:
    old_type = make_record([("a", Int32), ("gone", str)])
    new_type = make_record([("b", str, "none"), ("a", int)])
    old: RecordCodec[Any] = RecordCodec(old_type, registry, "s")
    new: RecordCodec[Any] = RecordCodec(new_type, registry, "s")
    values = []
    for n in range(9):
        if n % 3 == 1:
            values.append(old.encode(old_type(tenant="t", id=str(n), at=AT, a=n, gone="x")))
        else:
            values.append(new.encode(new_type(tenant="t", id=str(n), at=AT, a=n, b="y")))
    values[5] = values[5][:-1]
    decoded = new.decode_batch(values)
    assert decoded.batch.column("id").to_pylist() == [str(n) for n in range(9) if n != 5]
    assert decoded.batch.column("a").to_pylist() == [n for n in range(9) if n != 5]
    assert decoded.batch.column("b").to_pylist() == [
        "none" if n % 3 == 1 else "y" for n in range(9) if n != 5
    ]
    assert decoded.kept.dtype == np.int64
    assert [bad.index for bad in decoded.bad] == [5]


@pytest.mark.parametrize(
    "writer",
    [
        '{"type":"record","name":"Verdict","fields":[{"name":"id","type":"string"}]}',
        '{"type":"record","name":"R","fields":[{"name":"x","type":{"type":"array","items":"null"}}]}',
        '"string"',
        "no json",
        '{"type":"record","name":"R","fields":[{"name":"l","type":["null","R"]}]}',
    ],
)
def test_a_writer_that_cannot_be_read_is_told_for_each_of_its_messages(
    registry: RegistryOfTexts, writer: str
) -> None:
    codec = RecordCodec(Verdict, registry, "labels-value")
    value = codec.encode(
        Verdict(
            tenant="t",
            id="1",
            entity="e",
            occurred_at=AT,
            pipeline="p",
            verdict="fraud",
            reviewer="r",
            decided_at=AT,
        )
    )
    head = wire_header(registry.id_of("labels-value", writer))
    decoded = codec.decode_batch([value, head + value[5:], value])
    assert [(bad.index, bad.code) for bad in decoded.bad] == [(1, "incompatible_schema")]
    assert decoded.batch.num_rows == 2


def test_a_null_that_may_not_be_is_a_bad_message_of_its_own(registry: RegistryOfTexts) -> None:
    """A writer that allowed null where the record does not: values that are there are read."""
    old_type, new_type = make_record([("a", int | None)]), make_record([("a", int)])
    old: RecordCodec[Any] = RecordCodec(old_type, registry, "s")
    new: RecordCodec[Any] = RecordCodec(new_type, registry, "s")
    values = [old.encode(old_type(tenant="t", id="1", at=AT, a=a)) for a in (1, None, 3)]
    decoded = new.decode_batch(values)
    assert decoded.batch.column("a").to_pylist() == [1, 3]
    assert [bad.index for bad in decoded.bad] == [1]


def test_a_schema_registered_later_is_then_read(
    registry: RegistryOfTexts, codec: RecordCodec[Decision]
) -> None:
    early = wire_header(1) + oracle_encode(codec.text, DECISION)
    assert [bad.code for bad in codec.decode_batch([early]).bad] == ["unknown_schema"]
    registry.id_of("s", codec.text)
    assert codec.decode_batch([early]).batch.num_rows == 1


def test_a_writers_text_may_be_spaced_and_documented_otherwise(
    registry: RegistryOfTexts, codec: RecordCodec[Decision]
) -> None:
    schema = {**json.loads(codec.text), "doc": "another", "name": "record", "namespace": "flink"}
    head = wire_header(registry.id_of("s", json.dumps(schema, indent=4)))
    value = head + codec.encode(DECISION)[5:]
    assert codec.decode(value) == DECISION
    assert codec.decode_batch([value]).batch.column("id").to_pylist() == ["1"]


def test_columns_are_fitted_by_name(codec: RecordCodec[Decision]) -> None:
    batch = codec.decode_batch([codec.encode(DECISION)] * 3).batch
    shuffled = batch.select(list(reversed(batch.schema.names)))
    assert codec.encode_batch(shuffled) == codec.encode_batch(batch)
    wide = batch.set_column(
        batch.schema.get_field_index("score"), "score", pa.array([81.5] * 3, pa.float64())
    )
    coded = wide.set_column(
        wide.schema.get_field_index("arm"), "arm", batch.column("arm").dictionary_encode()
    )
    assert codec.encode_batch(coded) == codec.encode_batch(batch)
    short = batch.select([name for name in batch.schema.names if name not in ("reasons", "arm", "source")])
    (value, *_) = codec.encode_batch(short)
    assert codec.decode(value).reasons == []
    assert codec.decode(value).arm == "champion"


def test_columns_that_do_not_fit_are_all_named(codec: RecordCodec[Decision]) -> None:
    batch = codec.decode_batch([codec.encode(DECISION)] * 2).batch
    broken = batch.select([name for name in batch.schema.names if name != "entity"])
    broken = broken.append_column("extra", pa.array([1, 2]))
    broken = broken.set_column(broken.schema.get_field_index("late"), "late", pa.array(["x", "y"]))
    with pytest.raises(Rejected) as caught:
        codec.encode_batch(broken)
    assert set(caught.value.fields) == {"/entity", "/extra", "/late"}


def test_nulls_are_not_written_as_zeros(codec: RecordCodec[Decision]) -> None:
    """pyruhvro writes a null that may not be as an empty value; the codec refuses it, nested too."""
    batch = codec.decode_batch([codec.encode(DECISION)] * 2).batch
    at = batch.schema.get_field_index
    broken = batch.set_column(at("entity"), "entity", pa.array(["e", None]))
    reasons = pa.array([[{"input": None, "contribution": 1.0}], []], batch.schema.field("reasons").type)
    broken = broken.set_column(at("reasons"), "reasons", reasons)
    with pytest.raises(Rejected) as caught:
        codec.encode_batch(pa.RecordBatch.from_arrays(broken.columns, schema=batch.schema))
    assert set(caught.value.fields) == {"/entity", "/reasons/*/input"}


@pytest.mark.parametrize("wrong", [{"score": "high"}, {"entity": 5}, {"occurred_at": datetime(2026, 1, 1)}])
def test_a_record_of_wrong_values_is_rejected(codec: RecordCodec[Decision], wrong: dict[str, Any]) -> None:
    from msgspec.structs import replace

    with pytest.raises(Rejected):
        codec.encode(replace(DECISION, **wrong))


def test_numbers_out_of_bounds_are_rejected(registry: RegistryOfTexts) -> None:
    cls = make_record([("small", Int32), ("large", int)])
    codec: RecordCodec[Any] = RecordCodec(cls, registry, "s")
    for small, large in ((2**31, 0), (-(2**31) - 1, 0), (0, 2**63), (0, -(2**63) - 1)):
        with pytest.raises(Rejected):
            codec.encode(cls(tenant="t", id="1", at=AT, small=small, large=large))


def test_what_is_above_the_cap_is_not_written(registry: RegistryOfTexts) -> None:
    roomy = RecordCodec(Decision, registry, "s")
    narrow = RecordCodec(Decision, registry, "s", max_bytes=20)
    with pytest.raises(TooLarge):
        narrow.encode(DECISION)
    with pytest.raises(TooLarge):
        narrow.encode_batch(roomy.decode_batch([roomy.encode(DECISION)]).batch)


def test_what_is_above_the_cap_is_not_read_though_it_is_well_formed(registry: RegistryOfTexts) -> None:
    roomy = RecordCodec(Decision, registry, "s")
    value = roomy.encode(DECISION)
    exact = RecordCodec(Decision, registry, "s", max_bytes=len(value))
    narrow = RecordCodec(Decision, registry, "s", max_bytes=len(value) - 1)
    for several in ([value], [value] * 3):
        assert exact.decode_batch(several).batch.num_rows == len(several)
        found = narrow.decode_batch(several)
        assert found.batch.num_rows == 0
        assert [bad.code for bad in found.bad] == ["too_large"] * len(several)


@pytest.mark.parametrize("hint", [dict[str, Part | None], list[Part], Whole | None, list[dict[str, Part]]])
def test_slices_of_nested_columns_are_encoded_the_quick_way(
    registry: RegistryOfTexts, monkeypatch: pytest.MonkeyPatch, hint: Any
) -> None:
    """Some of them make pyruhvro panic; they are copied first, not sent the slow way."""
    part = Part(x="x", y=1.0)
    whole: dict[Any, list[Any]] = {
        Whole | None: [Whole(part, 1.0), Whole(part, 2.0), None],
        list[Part]: [[part], [part, part], []],
        dict[str, Part | None]: [{"k": part}, {"k": None, "l": part}, {}],
        list[dict[str, Part]]: [[{"k": part}], [{}, {"l": part}], []],
    }
    cls = make_record([("a", hint)])
    codec: RecordCodec[Any] = RecordCodec(cls, registry, "s")
    values = [codec.encode(cls(tenant="t", id=str(n), at=AT, a=a)) for n, a in enumerate(whole[hint])]
    batch = codec.decode_batch(values).batch
    monkeypatch.setattr(codec, "_encode_slow", None)
    for start in range(3):
        for length in range(3 - start + 1):
            assert codec.encode_batch(batch.slice(start, length)) == values[start : start + length]
