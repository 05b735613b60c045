"""Where packed values lie: the port, and its form in memory, which behaves as the one in Redis does.

A value never goes back: `put` keeps what is there if that is of the same layout and its (event time,
sequence) is not lower. Whatever else is there (another layout, too short, of another type) is replaced.
"""

import asyncio
import threading
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from core.clock import Clock, SystemClock
from features.online.packed_codec import PREFIX_BYTES, VERSION, version_of


class Entry(NamedTuple):
    """One value to be put. `instead_of`: bytes that are replaced whatever their version, because they were
    found damaged."""

    key: bytes
    value: bytes
    instead_of: bytes | None = None


class PackedValues(Protocol):
    """Both raise Unavailable, within a bounded time, while the store is away."""

    def get(self, keys: Sequence[bytes]) -> Sequence[bytes | None]:
        """For each key its value, None without one."""
        ...

    def put(self, entries: Sequence[Entry], ttl_ms: int) -> list[bytes | None]:
        """Write each under compare-and-set, to be forgotten after `ttl_ms`; no key twice. For each: None
        when its value is there now (the very same one there before keeps its time to live), else the
        value that is there and stays."""
        ...


class AsyncPackedValues(Protocol):
    async def get(self, keys: Sequence[bytes]) -> Sequence[bytes | None]:
        """As `PackedValues.get`."""
        ...


class MemoryPackedValues:
    """For tests and for trying things out; may be shared by threads."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._held: dict[bytes, tuple[float, bytes]] = {}

    def get(self, keys: Sequence[bytes]) -> Sequence[bytes | None]:
        with self._lock:
            return [self._there(key) for key in keys]

    def put(self, entries: Sequence[Entry], ttl_ms: int) -> list[bytes | None]:
        stays: list[bytes | None] = []
        with self._lock:
            until = self._clock.monotonic() + ttl_ms / 1000
            for entry in entries:
                there = self._there(entry.key)
                if there is None or there == entry.instead_of or _gives_way(there, entry.value):
                    self._held[entry.key] = (until, entry.value)
                    stays.append(None)
                else:
                    stays.append(None if there == entry.value else there)
        return stays

    def _there(self, key: bytes) -> bytes | None:
        until, value = self._held.get(key, (0.0, None))
        return None if value is None or self._clock.monotonic() >= until else value


def _gives_way(there: bytes, value: bytes) -> bool:
    if len(there) < PREFIX_BYTES + VERSION.size or there[:PREFIX_BYTES] != value[:PREFIX_BYTES]:
        return True
    return version_of(there) < version_of(value)


class AsyncMemoryPackedValues:
    """The same values, read by coroutines."""

    def __init__(self, values: MemoryPackedValues) -> None:
        self._values = values

    async def get(self, keys: Sequence[bytes]) -> Sequence[bytes | None]:
        await asyncio.sleep(0)  # others may run meanwhile, as they may while Redis answers
        return self._values.get(keys)
