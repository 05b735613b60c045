"""Controllers under test: a controller that other tests have deployed on the stack makes room for them."""

from collections.abc import Iterator

import pytest

from cli.jobs import ROLLOUT, job_specs
from pipelines.load import load_scoring
from stack.local import Stack


@pytest.fixture(scope="package")
def undisturbed(stack: Stack) -> Iterator[Stack]:
    """The stack without a controller of its own: one works, and it would be that one."""
    deployed = ROLLOUT in {row.name for row in stack.status()}
    if deployed:
        stack.remove_job(ROLLOUT)
    yield stack
    if deployed:
        for spec in job_specs([load_scoring("fraud")], stack.settings):
            if spec.name == ROLLOUT:
                stack.add_job(spec)
