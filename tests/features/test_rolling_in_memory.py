"""The rolling store in memory."""

import pytest

from features.online.memory import MemoryRollingStore
from tests.features.rolling_behaviour import Make, RollingBehaviour
from tests.features.views import VIEW


class TestMemoryRollingStore(RollingBehaviour):
    @pytest.fixture
    def make(self) -> Make:
        return lambda **more: MemoryRollingStore(more.pop("view", VIEW), **more)
