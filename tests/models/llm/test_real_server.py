"""The behaviour of servers, on the real small model."""

import pytest

from tests.llm_real import RealServer, small_model
from tests.models.llm.server_behaviour import ServerBehaviour

__all__ = ["small_model"]
pytestmark = pytest.mark.services


class TestRealServer(ServerBehaviour):
    @pytest.fixture
    def backend(self, small_model: RealServer) -> RealServer:
        return small_model
