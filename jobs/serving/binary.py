"""The binary tensor data extension of the Open Inference Protocol.

A body is then the JSON of the request, as long as the header `Inference-Header-Content-Length` says, and
behind it the bytes of those tensors that state a `binary_data_size`, in their order: numbers little-endian in
row-major order, texts (BYTES) each behind four bytes of its length. NaN is a missing value. Answers go out
the same way where `binary_data_output` of the request, or `binary_data` of an output, asks for it.

https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from core.errors import Malformed, Rejected
from operators.ports import Matrix

HEADER = "inference-header-content-length"
EXTENSION = "binary_tensor_data"
CONTENT_TYPE = "application/octet-stream"
SIZE, OUTPUT, OUTPUTS = "binary_data_size", "binary_data", "binary_data_output"
_DIGITS = 12
_TYPES = {
    "BOOL": "?", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
    "INT8": "<i1", "INT16": "<i2", "INT32": "<i4", "INT64": "<i8",
    "UINT8": "<u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8",
}  # fmt: skip


class Parted(Protocol):
    """What states a size of its data, or none."""

    @property
    def name(self) -> str: ...
    @property
    def parameters(self) -> dict[str, Any] | None: ...


def split(body: bytes, length: str | None) -> tuple[bytes, memoryview]:
    """The JSON of a body, and what is behind it. `length` is the value of `HEADER`; None: all is JSON.
    Raises Malformed where it is no number, or more than there is."""
    if length is None:
        return body, memoryview(b"")
    if not (length.isascii() and length.isdigit()) or len(length) > _DIGITS or int(length) > len(body):
        raise Malformed(
            f"the request's JSON cannot be {length[:20]!r} bytes of {len(body)}",
            mend="Inference-Header-Content-Length is the number of bytes before the first tensor",
        )
    return body[: int(length)], memoryview(body)[int(length) :]


def shares(tensors: Sequence[Parted], rest: memoryview) -> list[memoryview | None]:
    """The bytes of each tensor; None of one whose data is in the JSON. Raises Rejected where there are fewer
    or more bytes than the sizes add up to."""
    found: list[memoryview | None] = []
    at = 0
    for tensor in tensors:
        size = (tensor.parameters or {}).get(SIZE)
        if size is None:
            found.append(None)
            continue
        where = f"/inputs/{tensor.name}/parameters/{SIZE}"
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            raise _wrong(where, "a number of bytes is needed")
        if size > len(rest) - at:
            raise _wrong(where, f"{size} bytes, and {len(rest) - at} are left of the body")
        found.append(rest[at : at + size])
        at += size
    if at != len(rest):
        raise _wrong("", f"{len(rest) - at} bytes more than the tensors state")
    return found


def numbers(name: str, datatype: str, data: memoryview) -> Matrix:
    """The values of a tensor of numbers, flat, as float32: infinite beyond its range. Raises Rejected."""
    kind = np.dtype(_TYPES[datatype])
    if len(data) % kind.itemsize:
        raise _wrong(f"/inputs/{name}", f"{len(data)} bytes are no whole number of {datatype}")
    with np.errstate(over="ignore"):
        values: Matrix = np.frombuffer(data, kind).astype(np.float32)
    return values


def texts(name: str, data: memoryview, most: int) -> list[str]:
    """The elements of a BYTES tensor, which are UTF-8 here. Raises Rejected, also above `most` of them."""
    found: list[str] = []
    at = 0
    while at < len(data):
        end = at + 4 + int.from_bytes(data[at : at + 4], "little")
        if at + 4 > len(data) or end > len(data):
            raise _wrong(f"/inputs/{name}", "a text is cut off")
        if len(found) == most:
            raise _wrong(f"/inputs/{name}", f"more than {most} texts for the shape")
        try:
            found.append(str(data[at + 4 : end], "utf-8"))
        except UnicodeDecodeError:
            raise _wrong(f"/inputs/{name}", f"text {len(found)} is no UTF-8") from None
        at = end
    return found


def _wrong(pointer: str, reason: str) -> Rejected:
    return Rejected(
        f"the binary data does not fit: {pointer}: {reason}",
        fields={pointer: reason},
        mend="see the binary tensor data extension of the Open Inference Protocol",
    )
