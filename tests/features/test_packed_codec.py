"""The bytes of packed values, against a reader written from their description."""

import math
import random
import struct
from dataclasses import replace
from datetime import timedelta
from typing import Any
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import DeclarationError, InvalidInput, TooLarge, UnknownName
from features.online.packed import PackedField, PackedLayout, Value
from features.online.packed_codec import PackedCodec, Unreadable
from schemas.keys import split_key
from tests.features.packed_layouts import (
    DEMAND,
    LAYOUTS,
    WORDS,
    event_times,
    int64s,
    unpack_naively,
    values_of,
)

ROWS = {DEMAND: (3, 0.25, True, 7, None), WORDS: ("ü", 1, "", None, False)}


@given(data=st.data(), layout=st.sampled_from(LAYOUTS), event_time=event_times, sequence=int64s)
def test_what_goes_in_comes_out(data: Any, layout: PackedLayout, event_time: int, sequence: int) -> None:
    values = data.draw(values_of(layout))
    codec = PackedCodec(layout)
    encoded = codec.encode(event_time, sequence, values)
    assert unpack_naively(layout, encoded) == (event_time, sequence, values)
    decoded = codec.decode(encoded)
    assert decoded == (event_time, sequence, values)
    assert repr(decoded.values) == repr(values)  # types, and the sign of a zero


def test_a_value_of_48_numbers_is_compact() -> None:
    fields = tuple(PackedField(f"f{n}", "double") for n in range(48))
    encoded = PackedCodec(replace(DEMAND, fields=fields)).encode(1, 2, (0.5,) * 48)
    assert len(encoded) == 25 + 6 + 48 * 8 + 4


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.view)
def test_every_damaged_byte_is_found(layout: PackedLayout) -> None:
    codec = PackedCodec(layout)
    whole = codec.encode(5, 6, ROWS[layout])
    for at in range(len(whole)):
        for flip in (*(1 << bit for bit in range(8)), 0xFF):
            damaged = bytearray(whole)
            damaged[at] ^= flip
            with pytest.raises(Unreadable, match="damaged"):
                codec.decode(bytes(damaged))


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.view)
def test_a_value_of_another_length_is_found(layout: PackedLayout) -> None:
    codec = PackedCodec(layout)
    whole = codec.encode(5, 6, ROWS[layout])
    for wrong in [whole[:n] for n in range(len(whole))] + [whole + b"\0", whole + whole]:
        with pytest.raises(Unreadable):
            codec.decode(wrong)


@given(noise=st.binary(max_size=200), layout=st.sampled_from(LAYOUTS))
def test_what_has_a_right_checksum_and_is_no_value_is_found(noise: bytes, layout: PackedLayout) -> None:
    codec = PackedCodec(layout)
    for begin in (b"", codec.prefix):
        body = begin + noise
        data = body + crc32(body).to_bytes(4, "little")
        try:
            found = codec.decode(data)
        except Unreadable:
            continue
        event_time, sequence = struct.unpack_from("<qq", data, 9)
        assert found[:2] == (event_time, sequence)  # all bytes of a double are a double


def test_strings_that_end_early_or_late_are_found() -> None:
    codec = PackedCodec(WORDS)
    body = codec.encode(5, 6, ROWS[WORDS])[:-4]
    for wrong in (body + b"\0", body[:-1], body[:-2] + b"\1\0", body[:-2] + b"\1\0\xff"):
        with pytest.raises(Unreadable, match="damaged"):
            codec.decode(wrong + crc32(wrong).to_bytes(4, "little"))


def test_another_layout_says_so() -> None:
    encoded = PackedCodec(DEMAND).encode(1, 1, ROWS[DEMAND])
    with pytest.raises(Unreadable, match="fingerprint"):
        PackedCodec(replace(DEMAND, digest="01" * 32)).decode(encoded)
    body = b"\x02" + encoded[1:-4]
    with pytest.raises(Unreadable, match="fingerprint"):
        PackedCodec(DEMAND).decode(body + crc32(body).to_bytes(4, "little"))


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (1, math.nan), (1, math.inf), (1, -math.inf), (4, math.nan), (0, 1.0), (0, True), (0, "1"),
        (0, 2**63), (0, -(2**63) - 1), (1, "1"), (1, False), (1, 2**53 + 1), (1, 10**400), (2, 1), (2, 0.0),
    ],
)  # fmt: skip
def test_what_cannot_be_stored_is_refused_by_name(at: int, value: Value) -> None:
    values: list[Value] = list(ROWS[DEMAND])
    values[at] = value
    with pytest.raises(InvalidInput, match=DEMAND.names[at]):
        PackedCodec(DEMAND).encode(1, 1, values)
    values[(at + 1) % 5] = None  # beside a null as without one
    with pytest.raises(InvalidInput, match=DEMAND.names[at]):
        PackedCodec(DEMAND).encode(1, 1, values)


def test_a_whole_number_is_a_double_too() -> None:
    codec = PackedCodec(DEMAND)
    found = codec.decode(codec.encode(1, 1, (3, 2**53, True, 7, -4))).values
    assert found == (3, float(2**53), True, 7, -4.0)
    assert isinstance(found[1], float)


def test_strings_are_utf_8_and_bounded() -> None:
    codec = PackedCodec(WORDS)
    longest = "ü" * 32_767
    assert codec.decode(codec.encode(1, 1, (longest, 1, "\0", None, None))).values[0] == longest
    with pytest.raises(TooLarge, match="top"):
        codec.encode(1, 1, ("ü" * 32_768, 1, "", None, None))
    with pytest.raises(InvalidInput, match="last"):
        codec.encode(1, 1, ("", 1, "\ud800", None, None))
    with pytest.raises(InvalidInput, match="top"):
        codec.encode(1, 1, (b"bytes", 1, "", None, None))  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [2**63, -(2**63) - 1, 1.0, True, None, "1"])
def test_event_time_and_sequence_are_integers(wrong: Any) -> None:
    codec = PackedCodec(DEMAND)
    with pytest.raises(InvalidInput, match="event time"):
        codec.encode(wrong, 1, ROWS[DEMAND])
    with pytest.raises(InvalidInput, match="sequence"):
        codec.encode(1, wrong, ROWS[DEMAND])


@pytest.mark.parametrize("at", [-62_135_596_800_001, 253_402_300_800_000])
def test_an_event_time_is_one_of_the_calendar(at: int) -> None:
    PackedCodec(DEMAND).encode(at + (1 if at < 0 else -1), 1, ROWS[DEMAND])
    with pytest.raises(InvalidInput, match="event time"):
        PackedCodec(DEMAND).encode(at, 1, ROWS[DEMAND])


def test_the_number_of_values_is_that_of_the_fields() -> None:
    for values in (ROWS[DEMAND][:-1], (*ROWS[DEMAND], 1), ()):
        with pytest.raises(InvalidInput, match="5 fields"):
            PackedCodec(DEMAND).encode(1, 1, values)


@given(st.tuples(st.text(), st.text()), st.tuples(st.text(), st.text()))
def test_two_entities_never_share_a_key(one: tuple[str, str], other: tuple[str, str]) -> None:
    assert (DEMAND.key(*one) == DEMAND.key(*other)) == (one == other)
    assert DEMAND.key(*one) != WORDS.key(*one)
    assert DEMAND.key(*one) != replace(DEMAND, version=2).key(*one)
    inside = DEMAND.key(*one).removeprefix(b"ms:demand:1:{").removesuffix(b"}:packed")
    assert split_key(inside.decode()) == one


def test_a_key_is_of_strings_any_strings() -> None:
    assert DEMAND.key("a|b", "\ud800") not in (DEMAND.key("a", "b|\ud800"), DEMAND.key("a|b", "\ud801"))
    for tenant, entity in (("t", 5), (None, "e"), ("t", b"e")):
        with pytest.raises(InvalidInput):
            DEMAND.key(tenant, entity)  # type: ignore[arg-type]


@given(
    st.text(), st.lists(st.text(st.characters() | st.sampled_from("%|\0{}ü\ud800"), max_size=4), max_size=9)
)
def test_keys_of_many_are_the_keys_of_each(tenant: str, entities: list[str]) -> None:
    for layout in LAYOUTS:
        assert layout.keys(tenant, entities) == [layout.key(tenant, entity) for entity in entities]


@pytest.mark.parametrize(
    ("tenant", "entities"), [("t", ["a", 5]), ("t", [b"a"]), (None, ["a"]), (b"t", ["a"]), ("t", [None])]
)
def test_keys_are_of_strings(tenant: Any, entities: Any) -> None:
    with pytest.raises(InvalidInput, match="strings"):
        DEMAND.keys(tenant, entities)


@pytest.mark.parametrize("count", [1, 2, 3, 255, 256, 257, 512, 700])
def test_joined_values_are_checked_as_surely_as_each(count: int) -> None:
    codec, rng = PackedCodec(DEMAND), random.Random(count)
    whole = [
        codec.encode(rng.randrange(10**12), n, (rng.getrandbits(60), 1 / 3, True, n, None))
        for n in range(count)
    ]
    assert codec.check_joined(b"".join(whole), count)
    assert codec.check_joined(b"".join([codec.blank] * count), count)
    assert not codec.check_joined(b"".join(whole), count + 1)
    assert not codec.check_joined(b"".join(whole)[:-1], count)
    other = PackedCodec(replace(DEMAND, digest="01" * 32)).encode(1, 1, ROWS[DEMAND])
    newer = bytes([2]) + whole[0][1:-4]
    strangers = [other, newer + crc32(newer).to_bytes(4, "little")]
    for place in {0, count // 2, count - 1}:
        for stranger in strangers:
            assert not codec.check_joined(b"".join([*whole[:place], stranger, *whole[place + 1 :]]), count)
        for at in range(codec.width):
            damaged = bytearray(whole[place])
            damaged[at] ^= 1 << rng.randrange(8)
            assert not codec.check_joined(b"".join([*whole[:place], damaged, *whole[place + 1 :]]), count)


def test_values_that_only_together_have_the_right_length_are_no_values() -> None:
    codec = PackedCodec(DEMAND)
    body = codec.encode(5, 6, ROWS[DEMAND])[:-4]
    longer, shorter = body + b"\0", body[:-1]
    checked = [one + crc32(one).to_bytes(4, "little") for one in (longer, shorter)]
    assert sum(map(len, checked)) == 2 * codec.width
    assert not codec.check_joined(b"".join(checked), 2)
    assert not codec.check_joined(b"".join(checked[::-1]), 2)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"view": "De:mand"}, "view name"),
        ({"version": 0}, "version"),
        ({"fields": ()}, "no fields"),
        ({"digest": "abcd"}, "digest"),
        ({"ttl": timedelta(0)}, "ttl"),
        ({"ttl": timedelta(microseconds=1500)}, "milliseconds"),
        ({"fresh_for": timedelta(seconds=121)}, "fresh_for"),
        ({"fields": (PackedField("a", "long"), PackedField("a", "long"))}, "taken"),
        ({"fields": (PackedField("status", "string"),)}, "status"),
        ({"fields": (PackedField("a", "long", ttl=timedelta(minutes=3)),)}, "a: ttl"),
        ({"fields": (PackedField("a", "long", empty=0.5),)}, "empty value"),
        ({"fields": (PackedField("a", "double", empty=math.nan),)}, "empty value"),
    ],
)
def test_a_wrong_layout_is_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(DeclarationError, match=says):
        replace(DEMAND, **change)


def test_an_unknown_feature_has_a_nearest_name() -> None:
    assert DEMAND.field("surge") is DEMAND.fields[2]
    with pytest.raises(UnknownName, match="bookings"):
        DEMAND.field("booking")
