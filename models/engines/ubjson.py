"""UBJSON (draft 12, ubjson.org), as XGBoost reads and writes its boosters, without loading XGBoost.

XGBoost brings scipy, scikit-learn and pandas along, 140 MB of a worker's memory; the file is a few arrays.
"""

import struct
from typing import Any

import numpy as np

MAX_DEPTH = 64
_NUMBERS: dict[bytes, np.dtype[Any]] = {
    b"i": np.dtype(">i1"), b"U": np.dtype(">u1"), b"I": np.dtype(">i2"), b"l": np.dtype(">i4"),
    b"L": np.dtype(">i8"), b"d": np.dtype(">f4"), b"D": np.dtype(">f8"),
}  # fmt: skip
_MARKERS = {
    np.dtype(np.uint8): b"U", np.dtype(np.int32): b"l", np.dtype(np.int64): b"L", np.dtype(np.float32): b"d",
}  # fmt: skip
_CONSTANTS: dict[bytes, Any] = {b"Z": None, b"T": True, b"F": False}


def parse(data: bytes) -> Any:
    """The value; arrays of one number type become lists. Raises ValueError for anything malformed."""
    reader = _Reader(data)
    try:
        value = reader.value(reader.take(1), 0)
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise ValueError(f"malformed UBJSON at byte {reader.at}: {error}") from error
    if reader.at != len(data):
        raise ValueError(f"{len(data) - reader.at} bytes after the value")
    return value


def dump(value: Any) -> bytes:
    """Of dictionaries, lists, texts, whole numbers; flat arrays of uint8, int32, int64, float32 stay so."""
    if isinstance(value, dict):
        inside = b"".join(_length(name) + name.encode() + dump(below) for name, below in value.items())
        return b"{" + inside + b"}"
    if isinstance(value, int):
        return b"L" + struct.pack(">q", value)
    if isinstance(value, str):
        return b"S" + _length(value) + value.encode()
    if isinstance(value, np.ndarray):
        marker = _MARKERS[value.dtype.newbyteorder("=")]
        return (
            b"[$" + marker + b"#L" + struct.pack(">q", len(value)) + value.astype(_NUMBERS[marker]).tobytes()
        )
    return b"[" + b"".join(map(dump, value)) + b"]"


def _length(text: str) -> bytes:
    return b"L" + struct.pack(">q", len(text.encode()))


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, count: int) -> bytes:
        if count < 0 or self.at + count > len(self.data):
            raise ValueError(f"the data ends at byte {len(self.data)}, {count} more are wanted")
        piece = self.data[self.at : self.at + count]
        self.at += count
        return piece

    def value(self, marker: bytes, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise ValueError(f"nested more than {MAX_DEPTH} deep")
        if marker in _CONSTANTS:
            return _CONSTANTS[marker]
        if marker in _NUMBERS:
            return self.numbers(marker, 1)[0]
        if marker == b"S":
            return self.text()
        if marker == b"C":
            return self.take(1).decode()
        if marker == b"[":
            return self.array(depth)
        if marker == b"{":
            return self.object(depth)
        raise ValueError(f"unknown marker {marker!r} at byte {self.at - 1}")

    def numbers(self, marker: bytes, count: int) -> list[Any]:
        kind = _NUMBERS[marker]
        found: list[Any] = np.frombuffer(self.take(kind.itemsize * count), kind).tolist()
        return found

    def length(self) -> int:
        marker = self.take(1)
        if marker not in (b"i", b"U", b"I", b"l", b"L"):
            raise ValueError(f"no length at byte {self.at - 1}")
        count = int(self.numbers(marker, 1)[0])
        if not 0 <= count <= len(self.data):
            raise ValueError(f"a length of {count} in {len(self.data)} bytes")
        return count

    def text(self) -> str:
        return self.take(self.length()).decode()

    def head(self) -> tuple[bytes | None, int | None]:
        """The common type and the count of a container, where given."""
        kind, count = None, None
        if self.data[self.at : self.at + 1] == b"$":
            self.at += 1
            kind = self.take(1)
        if self.data[self.at : self.at + 1] == b"#":
            self.at += 1
            count = self.length()
        elif kind is not None:
            raise ValueError(f"a type without a count at byte {self.at}")
        return kind, count

    def array(self, depth: int) -> list[Any]:
        kind, count = self.head()
        if kind in _NUMBERS and kind is not None and count is not None:
            return self.numbers(kind, count)
        found: list[Any] = []
        while count is None or len(found) < count:
            marker = kind or self.take(1)
            if count is None and marker == b"]":
                break
            found.append(self.value(marker, depth + 1))
        return found

    def object(self, depth: int) -> dict[str, Any]:
        kind, count = self.head()
        found: dict[str, Any] = {}
        while count is None or len(found) < count:
            if count is None and self.data[self.at : self.at + 1] == b"}":
                self.at += 1
                break
            name = self.text()
            if name in found:
                raise ValueError(f"key {name!r} is there twice")
            found[name] = self.value(kind or self.take(1), depth + 1)
        return found
