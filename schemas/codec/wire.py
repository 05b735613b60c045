"""The Confluent wire format: a zero byte, four bytes of schema id (big-endian), then the Avro body."""

import struct
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

MAGIC = 0
HEADER = 5
_HEADER = struct.Struct(">bI")

Code = Literal[
    "not_avro",  # no value, too short, or another first byte
    "too_large",  # above the topic's cap
    "unknown_schema",  # the registry knows no such id
    "incompatible_schema",  # the writer's schema cannot be read as this record, or is banned
    "truncated",  # the body ends before the record does, or is no value of the writer's schema
    "trailing_bytes",  # the body goes on after the record
    "invalid_utf8",  # a text that is no UTF-8
    "out_of_range",  # a time outside the years 1 to 9999
]


@dataclass(frozen=True)
class BadMessage:
    """A value that could not be decoded: its index in the list given, a stable code, and why."""

    index: int
    code: Code
    reason: str


@dataclass(frozen=True)
class DecodedBatch:
    """`batch` has the rows of `kept` (ascending int64 indexes into the values given); `bad` has the rest."""

    batch: pa.RecordBatch
    kept: npt.NDArray[np.int64]
    bad: list[BadMessage]


class Undecodable(Exception):
    """Internal to the codec: somewhere in these values is a bad one."""

    def __init__(self, code: Code, reason: str) -> None:
        super().__init__(reason)
        self.code: Code = code
        self.reason = reason


def wire_header(schema_id: int) -> bytes:
    return _HEADER.pack(MAGIC, schema_id)


def schema_id_of(value: bytes) -> int:
    """The id of a value whose first byte is the magic one and that is at least five bytes long."""
    return int.from_bytes(value[1:HEADER], "big")
