"""Packed values in memory."""

from datetime import timedelta

import pytest

from core.clock import ManualClock
from features.online.packed_values import AsyncMemoryPackedValues, AsyncPackedValues, MemoryPackedValues
from tests.features.packed_backend import Backend
from tests.features.packed_behaviour import PackedBehaviour
from tests.features.packed_coroutine_behaviour import PackedCoroutineBehaviour


class InMemory:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.values = MemoryPackedValues(self.clock)

    def plant(self, key: bytes, value: bytes) -> None:
        self.values._held[key] = (self.clock.monotonic() + 60, value)

    def pass_time(self, by: timedelta) -> None:
        self.clock.advance(by)

    def coroutine_values(self) -> AsyncPackedValues:
        return AsyncMemoryPackedValues(self.values)


class TestMemoryPackedValues(PackedBehaviour, PackedCoroutineBehaviour):
    @pytest.fixture
    def backend(self) -> Backend:
        return InMemory()
