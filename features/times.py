"""Event times as whole milliseconds, however a table holds them."""

import pyarrow as pa
import pyarrow.compute as pc

from core.errors import InvalidInput


def millis(times: pa.ChunkedArray) -> pa.ChunkedArray:
    """Event times as int64 milliseconds since the epoch, rounded down."""
    if pa.types.is_integer(times.type):
        return times.cast(pa.int64())
    if not pa.types.is_timestamp(times.type):
        raise InvalidInput(f"event times of type {times.type}", mend="give timestamps or int64 milliseconds")
    if times.type.unit == "s":
        return pc.multiply(times.cast(pa.int64()), 1000)
    per_milli = {"ms": 1, "us": 1_000, "ns": 1_000_000}[times.type.unit]
    whole = times.cast(pa.int64())
    if per_milli == 1:
        return whole
    remainder = pc.subtract(whole, pc.multiply(pc.divide(whole, per_milli), per_milli))
    negative = pc.cast(pc.less(remainder, 0), pa.int64())
    return pc.subtract(pc.divide(whole, per_milli), negative)
