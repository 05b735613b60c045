"""Rows and values between Feast's protobuf messages and the online store."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

import pyarrow as pa
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value as FeastValue

from core.errors import InvalidInput
from features.kinds import ValueKind
from features.on_feast.forms import TENANT
from features.online.packed import Value
from features.online.rows import ReadResult
from schemas.keys import entity_of

FeastRow = tuple[datetime | None, dict[str, FeastValue] | None]
"""Event time and values of an entity; what is not in the values is null and not found. Both None: nothing
is there."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_READABLE: tuple[str, ...] = ("fresh", "stale")


def key_of(key: EntityKey, entity: Sequence[str], *, where: str) -> tuple[str, str]:
    """(tenant, entity) of a key with the join keys `tenant` and those of `entity`, in any order.

    Raises InvalidInput for other join keys and for values that are no strings.
    """
    parts = dict(zip(key.join_keys, key.entity_values, strict=True))
    wanted = (TENANT, *entity)
    if set(parts) != set(wanted):
        raise InvalidInput(
            f"join keys {', '.join(key.join_keys)}", where=where, mend=f"give {', '.join(wanted)}"
        )
    for name, value in parts.items():
        if value.WhichOneof("val") != "string_val":
            raise InvalidInput(f"join key {name!r} is no string", where=where, mend="give it as a string")
    return parts[TENANT].string_val, entity_of([parts[name].string_val for name in entity])


def version_of(event_time: datetime) -> tuple[int, int]:
    """(event time in ms, sequence): whole milliseconds, and the microseconds that are left."""
    aware = event_time if event_time.tzinfo else event_time.replace(tzinfo=UTC)
    return divmod((aware - _EPOCH) // _MICROSECOND, 1000)


def value_of(value: FeastValue | None) -> Value:
    """The value of a message; None for null. A kind that no feature has comes out as it is, and is refused
    when it is encoded."""
    if value is None:
        return None
    kind = value.WhichOneof("val")
    found: Value = None if kind is None else getattr(value, kind)
    return found


def packed_rows(batch: pa.RecordBatch, kinds: Mapping[str, ValueKind]) -> list[FeastRow]:
    """The rows of a columnar read (`features.online.packed_columns`), with the features of `kinds`."""
    times = batch.column("event_time").to_pylist()
    rows: list[FeastRow] = [(None, None) if time is None else (time, {}) for time in times]
    statuses = batch.column("status")
    for name, kind in kinds.items():
        make = _MAKE[kind]
        values = batch.column(name).to_pylist()
        for row, value, status in zip(rows, values, statuses.field(name).to_pylist(), strict=True):
            if row[1] is not None and status in _READABLE:
                row[1][name] = make(value)
    return rows


def rolling_row(read: ReadResult, kinds: Mapping[str, ValueKind]) -> FeastRow:
    """A rolling read, with the features of `kinds`. It was computed as of now: a window without a row is
    a fact and reads as its empty value; only of an entity that has no row at all nothing is known."""
    there = {name: kind for name, kind in kinds.items() if read.statuses[name] != "missing"}
    if not there:
        return None, None
    return read.event_time, {name: _MAKE[kind](read.values[name]) for name, kind in there.items()}


def _long(value: int | None) -> FeastValue:
    return FeastValue() if value is None else FeastValue(int64_val=value)


def _double(value: float | None) -> FeastValue:
    return FeastValue() if value is None else FeastValue(double_val=value)


def _string(value: str | None) -> FeastValue:
    return FeastValue() if value is None else FeastValue(string_val=value)


def _boolean(value: bool | None) -> FeastValue:
    return FeastValue() if value is None else FeastValue(bool_val=value)


_MAKE: dict[ValueKind, Callable[..., FeastValue]] = {
    "long": _long, "double": _double, "string": _string, "boolean": _boolean,
}  # fmt: skip
