"""One gateway for the whole suite: what one test leaves behind is what the next one has to live with."""

from collections.abc import Iterator

import pytest

from stack.local import Stack
from tests.gateway.abuse.site import Site
from tests.gateway.running import forget_trainings


@pytest.fixture(scope="package")
def site(stack: Stack) -> Iterator[Site]:
    with Site(stack.settings) as made:
        yield made
        made.works()
    forget_trainings(stack.settings)
