"""What the tests of connections share."""

from collections.abc import AsyncIterator

import pytest

from tests.gateway.wire.serving import Site, serving


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with serving() as made:
        yield made
