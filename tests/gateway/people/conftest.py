"""One gateway for all tests of users that do not take its services away."""

from collections.abc import Iterator

import pytest

from stack.local import Stack
from tests.gateway.people.site import PeopleSite
from tests.jobs.writer.conftest import database

__all__ = ["database", "site"]


@pytest.fixture(scope="package")
def site(stack: Stack) -> Iterator[PeopleSite]:
    with PeopleSite(stack.settings) as made:
        yield made
