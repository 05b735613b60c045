"""The bytes of a packed value. Little endian throughout:

    1   format, 1
    8   fingerprint of the layout
    8   event time, ms since the epoch, signed
    8   sequence, signed
    n   one bit per field, in order, low bit first: 1 is null; padded to whole bytes
    8   per field that is no string, in order: a long, a double, or a boolean in its first byte
    2+  per string, in order: length in bytes, UTF-8
    4   CRC-32 (zlib's) of all before

A null has its slot or its length of zero. Every damage of up to 32 bits in a row is found for certain, and
any other but one in four thousand million.
"""

import math
import struct
from collections.abc import Sequence
from itertools import accumulate, repeat
from operator import itemgetter
from typing import NamedTuple, NoReturn
from zlib import crc32

from core.errors import InvalidInput, TooLarge
from features.online.packed import PackedField, PackedLayout, Value, fits

FORMAT = 1
PREFIX_BYTES = 9
"""Format and fingerprint: two values are of one layout when they agree in these."""
VERSION = struct.Struct("<qq")
"""(event time, sequence), behind the prefix."""
CHECKSUM_BYTES = 4
RESIDUE = crc32(bytes(CHECKSUM_BYTES))
"""The CRC-32 of anything that ends in its own CRC-32."""

_RUN = 256
"""Values whose checksums are checked at once."""

_INT64 = range(-(2**63), 2**63)
_TIMES = range(-62_135_596_800_000, 253_402_300_800_000)
"""The years 1 to 9999, in ms: what a datetime can be."""
_LENGTH = struct.Struct("<H")
MOST_STRING_BYTES = 2**16 - 1
_TYPES: dict[str, type] = {"long": int, "double": float, "boolean": bool, "string": str}
_SLOTS = {"long": "q", "double": "d", "boolean": "?7x"}


class Unreadable(ValueError):
    """Bytes that are no value of the layout. `reason`: `fingerprint` (of another layout or format, else
    whole) or `damaged`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Unpacked(NamedTuple):
    """A value as it was written; `values` in the order of the layout's fields."""

    event_time_ms: int
    sequence: int
    values: tuple[Value, ...]


class PackedCodec:
    """Encodes and decodes the values of one layout."""

    def __init__(self, layout: PackedLayout) -> None:
        self.layout = layout
        self.prefix = bytes([FORMAT]) + layout.fingerprint
        fields = layout.fields
        self.slots = [at for at, field in enumerate(fields) if field.kind != "string"]
        self.strings = [at for at, field in enumerate(fields) if field.kind == "string"]
        self.null_bytes = -(-len(fields) // 8)
        slots = "".join(_SLOTS[fields[at].kind] for at in self.slots)
        self.fixed = struct.Struct(f"<{PREFIX_BYTES}sqq{self.null_bytes}s{slots}")
        self.nulls = slice(PREFIX_BYTES + VERSION.size, PREFIX_BYTES + VERSION.size + self.null_bytes)
        """Where the bits of the nulls are."""
        self._slots = struct.Struct(f"<{self.nulls.stop}x{slots}")
        self._joined = struct.Struct(f"<{PREFIX_BYTES}sq8x{self.null_bytes}s{slots}{CHECKSUM_BYTES}x")
        self._no_nulls = bytes(self.null_bytes)
        self.width = self.fixed.size + (0 if self.strings else CHECKSUM_BYTES)
        """Bytes of a value; with strings, before the first of them."""
        body = self.fixed.pack(self.prefix, 0, 0, self._no_nulls, *bytes(len(self.slots)))
        self.blank = body if self.strings else body + crc32(body).to_bytes(CHECKSUM_BYTES, "little")
        """`width` bytes in the place of a value that is not there."""
        self._checksums = list(accumulate(repeat(self.blank, _RUN), _then, initial=0))
        self._types = tuple(_TYPES[field.kind] for field in fields)
        self._doubles = [at for at, field in enumerate(fields) if field.kind == "double"]
        stored = [*self.slots, *self.strings]
        order = [stored.index(at) for at in range(len(fields))]
        self._reorder = None if order == sorted(order) else itemgetter(*order)

    def encode(self, event_time_ms: int, sequence: int, values: Sequence[Value]) -> bytes:
        """One value; `values` in the order of the fields.

        Raises InvalidInput for a value that is not of its field's kind or is NaN or infinite, an event time
        outside the years 1 to 9999, a sequence beyond 64 bits; TooLarge for a string above 65,535 bytes.
        """
        if type(event_time_ms) is not int or event_time_ms not in _TIMES:
            self._refuse(
                f"event time {event_time_ms!r}", "give milliseconds since the epoch, years 1 to 9999"
            )
        if type(sequence) is not int or sequence not in _INT64:
            self._refuse(f"sequence {sequence!r}", "give a 64-bit integer")
        if len(values) != len(self._types):
            self._refuse(f"{len(values)} values for {len(self._types)} fields", "give each a value or None")
        if self.strings or tuple(map(type, values)) != self._types or not self._finite(values):
            return self._encode_checked(event_time_ms, sequence, values)
        try:
            body = self.fixed.pack(self.prefix, event_time_ms, sequence, self._no_nulls, *values)
        except struct.error:  # a long beyond 64 bits
            return self._encode_checked(event_time_ms, sequence, values)
        return body + crc32(body).to_bytes(CHECKSUM_BYTES, "little")

    def check(self, data: bytes) -> None:
        """Raises Unreadable for bytes that are no value of the layout; strings are not looked at."""
        if crc32(data) != RESIDUE:
            raise Unreadable("damaged")
        if not data.startswith(self.prefix):
            raise Unreadable("fingerprint")
        beyond = len(data) - CHECKSUM_BYTES - self.fixed.size
        if beyond < 0 or (beyond and not self.strings):
            raise Unreadable("damaged")

    def check_joined(self, joined: bytes, count: int) -> bool:
        """Whether these are so many values of the layout, which has no strings, one behind the other.

        What a CRC makes of bytes that end in their own CRC depends on how many they are, and on nothing else:
        so all are checked in one pass, five times as fast as one by one. One damaged value is found as surely
        as by `check`; two could make up for each other, as random bytes may be right, once in four thousand
        million.
        """
        width = self.width
        return (
            len(joined) == count * width
            and all(joined[at::width] == self.prefix[at : at + 1] * count for at in range(PREFIX_BYTES))
            and self._checksums_right(joined, count)
        )

    def _checksums_right(self, joined: bytes, count: int) -> bool:
        if count <= _RUN:
            return crc32(joined) == self._checksums[count]
        view, length = memoryview(joined), _RUN * self.width
        runs = (view[at : at + length] for at in range(0, len(joined), length))
        return all(crc32(run) == self._checksums[len(run) // self.width] for run in runs)

    def decode(self, data: bytes) -> Unpacked:
        """One value; raises Unreadable."""
        self.check(data)
        event_time_ms, sequence = version_of(data)
        return Unpacked(event_time_ms, sequence, self.unpack(data))

    def unpack(self, data: bytes) -> tuple[Value, ...]:
        """The values of data that `check` took. Raises Unreadable, if there are strings."""
        values: tuple[Value, ...] = self._slots.unpack_from(data)
        if self.strings:
            values += tuple(self.decode_strings(data))
        if self._reorder is not None:
            values = self._reorder(values)
        nulls = data[self.nulls]
        if nulls != self._no_nulls:
            null = set(self.null_fields(nulls))
            values = tuple(None if at in null else value for at, value in enumerate(values))
        return values

    def decode_strings(self, data: bytes) -> list[str]:
        """The strings of a value whose checksum is right, nulls as empty ones; raises Unreadable."""
        found: list[str] = []
        begin, end = self.fixed.size, len(data) - CHECKSUM_BYTES
        try:
            for _ in self.strings:
                stop = begin + _LENGTH.size + _LENGTH.unpack_from(data, begin)[0]
                found.append(data[begin + _LENGTH.size : stop].decode())
                begin = stop
        except (struct.error, UnicodeDecodeError):
            raise Unreadable("damaged") from None
        if begin != end:
            raise Unreadable("damaged")
        return found

    def unpack_joined(self, joined: bytes, count: int) -> tuple[list[int], list[list[Value]]] | None:
        """The event times, and by field all it has, of one value or more; None unless `check_joined` takes
        them and no field of theirs is null."""
        if len(joined) != count * self.width or not self._checksums_right(joined, count):
            return None
        prefixes, times, nulls, *fields = map(list, zip(*self._joined.iter_unpack(joined), strict=True))
        if prefixes.count(self.prefix) != count or nulls.count(self._no_nulls) != count:
            return None
        return times, fields

    def null_fields(self, nulls: bytes) -> list[int]:
        """The fields whose bit is set."""
        bits = int.from_bytes(nulls, "little")
        return [at for at in range(len(self._types)) if bits >> at & 1]

    def _finite(self, values: Sequence[Value]) -> bool:
        return all(math.isfinite(values[at]) for at in self._doubles)  # type: ignore[arg-type]

    def _encode_checked(self, event_time_ms: int, sequence: int, values: Sequence[Value]) -> bytes:
        nulls = 0
        for at, (field, value) in enumerate(zip(self.layout.fields, values, strict=True)):
            if value is None:
                nulls |= 1 << at
            elif not fits(field.kind, value):
                self._refuse(
                    f"{field.name}: {_shown(value)} is no {field.kind} that can be stored",
                    "give a finite number of 64 bits, a string, a boolean or None, as declared",
                )
        bits = nulls.to_bytes(self.null_bytes, "little")
        slots = [0 if values[at] is None else values[at] for at in self.slots]
        texts = [self._text(self.layout.fields[at], values[at]) for at in self.strings]
        body = b"".join([self.fixed.pack(self.prefix, event_time_ms, sequence, bits, *slots), *texts])
        return body + crc32(body).to_bytes(CHECKSUM_BYTES, "little")

    def _refuse(self, what: str, mend: str) -> NoReturn:
        raise InvalidInput(what, where=self.layout.where, mend=mend)

    def _text(self, field: PackedField, value: Value) -> bytes:
        try:
            text = b"" if value is None else str(value).encode()
        except UnicodeEncodeError:
            self._refuse(f"{field.name}: {_shown(value)} is no UTF-8", "leave out lone surrogates")
        if len(text) > MOST_STRING_BYTES:
            raise TooLarge(
                f"{field.name}: a string of {len(text)} bytes",
                where=self.layout.where,
                mend=f"at most {MOST_STRING_BYTES}",
            )
        return _LENGTH.pack(len(text)) + text


def _then(checksum: int, data: bytes) -> int:
    """The CRC-32 of what has that checksum and these bytes behind it."""
    return crc32(data, checksum)


def version_of(value: bytes) -> tuple[int, int]:
    """(event time in ms, sequence) of a value that is at least as long as they reach."""
    event_time_ms, sequence = VERSION.unpack_from(value, PREFIX_BYTES)
    return event_time_ms, sequence


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
