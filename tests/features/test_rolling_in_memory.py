"""The rolling store in memory."""

from functools import partial

import pytest

from features.online.memory import MemoryRollingStore
from tests.features.rolling_behaviour import Make, RollingBehaviour
from tests.features.views import VIEW


class TestMemoryRollingStore(RollingBehaviour):
    @pytest.fixture
    def make(self) -> Make:
        return partial(MemoryRollingStore, VIEW)
