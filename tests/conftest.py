"""Fixtures of every test: the real local stack, where a test asks for it."""

import gc
from collections.abc import Iterator

import pytest

from tests.stack_fixture import services_env, stack

__all__ = ["own_collector", "services_env", "stack"]


@pytest.fixture(autouse=True)
def own_collector() -> Iterator[None]:
    """What runs inside a test may tune the collector for a process of its own; the tests' is left alone, or
    the Kafka clients of one test would outlive the stack."""
    before = gc.get_threshold()
    yield
    if gc.get_threshold() != before:
        gc.set_threshold(*before)
        gc.unfreeze()
