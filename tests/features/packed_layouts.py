"""Layouts, rows and naive oracles for the tests of packed values."""

import struct
from datetime import UTC, datetime, timedelta
from typing import Any
from zlib import crc32

from hypothesis import strategies as st

from features.online.packed import Kind, PackedField, PackedLayout, Value

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
NOW_MS = int(NOW.timestamp() * 1000)

DEMAND = PackedLayout(
    view="demand",
    version=1,
    fields=(
        PackedField("bookings", "long", empty=0),
        PackedField("conversion", "double", ttl=timedelta(seconds=40)),
        PackedField("surge", "boolean", ttl=timedelta(seconds=80), empty=False),
        PackedField("searches", "long", ttl=timedelta(seconds=40), empty=-1),
        PackedField("trend", "double", empty=0.5),
    ),
    ttl=timedelta(seconds=120),
    digest="00ff10203040506070" * 2,
    fresh_for=timedelta(seconds=60),
)
WORDS = PackedLayout(
    view="words",
    version=3,
    fields=(
        PackedField("top", "string", empty="none"),
        PackedField("count", "long", empty=0),
        PackedField("last", "string", ttl=timedelta(seconds=40)),
        PackedField("share", "double"),
        PackedField("rare", "boolean"),
    ),
    ttl=timedelta(seconds=120),
    digest="aa" * 32,
)
LAYOUTS = (DEMAND, WORDS)

_VALUES: dict[Kind, st.SearchStrategy[Value]] = {
    "long": st.integers(-(2**63), 2**63 - 1),
    "double": st.floats(allow_nan=False, allow_infinity=False),
    "boolean": st.booleans(),
    "string": st.text(st.characters(exclude_categories=("Cs",)), max_size=20),
}
int64s = st.integers(-(2**63), 2**63 - 1) | st.sampled_from(
    [at + near for at in (0, 2**32, -(2**32), 2**53, -(2**53), 2**63 - 2, 2 - 2**63) for near in (-1, 0, 1)]
)
event_times = st.integers(-62_135_596_800_000, 253_402_300_799_999) | st.sampled_from(
    [at + near for at in (0, 2**32, -(2**32), NOW_MS) for near in (-1, 0, 1)]
)


def values_of(layout: PackedLayout) -> st.SearchStrategy[tuple[Value, ...]]:
    """Values that can be stored, nulls included."""
    return st.tuples(*(st.none() | _VALUES[field.kind] for field in layout.fields))


def unpack_naively(layout: PackedLayout, data: bytes) -> tuple[int, int, tuple[Value, ...]]:
    """What the bytes say, read one after the other as the format is described."""
    rest = bytearray(data)

    def take(count: int) -> bytes:
        taken = bytes(rest[:count])
        assert len(taken) == count
        del rest[:count]
        return taken

    assert take(1) == b"\x01"
    assert take(8).hex() == layout.digest[:16]
    event_time, sequence = struct.unpack("<qq", take(16))
    nulls = take((len(layout.fields) + 7) // 8)
    found: dict[str, Value] = {}
    for field in layout.fields:
        if field.kind != "string":
            slot = take(8)
            if field.kind == "double":
                found[field.name] = struct.unpack("<d", slot)[0]
            else:
                number = int.from_bytes(slot, "little", signed=True)
                found[field.name] = bool(number) if field.kind == "boolean" else number
    for field in layout.fields:
        if field.kind == "string":
            found[field.name] = take(int.from_bytes(take(2), "little")).decode()
    assert int.from_bytes(take(4), "little") == crc32(data[:-4])
    assert not rest
    for at, field in enumerate(layout.fields):
        if nulls[at // 8] >> at % 8 & 1:
            found[field.name] = None
    return event_time, sequence, tuple(found[field.name] for field in layout.fields)


def read_naively(
    layout: PackedLayout, stored: tuple[int, tuple[Value, ...]] | None, now_ms: int
) -> dict[str, Any]:
    """One row of a columnar read, from (event time, values) or nothing."""
    if stored is None:
        row: dict[str, Any] = {"event_time": None, "age_ms": None}
        row |= {field.name: field.empty for field in layout.fields}
        return row | {"status": {field.name: "missing" for field in layout.fields}}
    event_time_ms, values = stored
    age = timedelta(milliseconds=now_ms - event_time_ms)
    row = {
        "event_time": NOW + timedelta(milliseconds=event_time_ms - NOW_MS),
        "age_ms": now_ms - event_time_ms,
        "status": {},
    }
    for field, value in zip(layout.fields, values, strict=True):
        if age > (field.ttl or layout.ttl):
            row[field.name], row["status"][field.name] = field.empty, "expired"
        else:
            stale = layout.fresh_for is not None and age > layout.fresh_for
            row[field.name], row["status"][field.name] = value, "stale" if stale else "fresh"
    return row
