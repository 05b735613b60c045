"""Identifiers: sortable ids for records and requests, digests for content."""

import hashlib
import json
import os
import time
from collections import deque
from typing import Any

_AT_ONCE = 256
_RANDOM: deque[str] = deque()
_VARIANT = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}


def new_id() -> str:
    """A UUID of version 7 (RFC 9562): 48 bits of milliseconds, then random; sorts by creation."""
    millis = f"{time.time_ns() // 1_000_000:012x}"
    random = random_hex()
    return f"{millis[:8]}-{millis[8:]}-7{random[:3]}-{_VARIANT[random[3]]}{random[4:7]}-{random[7:19]}"


def random_hex() -> str:
    """32 hexadecimal digits, 128 bits of the system's randomness.

    It is read for many at once: each reading lets go of the interpreter's lock, and a busy event loop waits
    to have it back.
    """
    try:
        return _RANDOM.pop()
    except IndexError:
        read = os.urandom(16 * _AT_ONCE).hex()
        _RANDOM.extend(read[start : start + 32] for start in range(32, len(read), 32))
        return read[:32]


os.register_at_fork(after_in_child=_RANDOM.clear)


def digest(content: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(content).hexdigest()


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys and no spaces, so that equal values have equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
