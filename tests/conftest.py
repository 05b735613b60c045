"""Fixtures of every test: the real local stack, where a test asks for it."""

import gc
from collections.abc import Iterator

import pytest

from core import collector
from tests.lanes import Lanes, arrange
from tests.mlflow_fixture import mlflow_server, mlflow_tables
from tests.stack_fixture import services_env, stack

__all__ = ["mlflow_server", "mlflow_tables", "own_collector", "services_env", "stack"]
PYTHONS_OWN = (700, 10, 10)
LONGEST_ID = 60


@pytest.hookimpl(tryfirst=True)  # before xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    arrange(items)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> Lanes | None:
    return Lanes(config, log) if config.option.dist == "loadgroup" else None


def pytest_make_parametrize_id(val: object) -> str | None:
    """The beginning of a long value is name enough; pytest numbers those that become equal."""
    text = val if isinstance(val, str) else val.decode("latin-1") if isinstance(val, bytes) else ""
    return ascii(text[:LONGEST_ID])[1:-1] if len(text) > LONGEST_ID else None


@pytest.fixture(autouse=True)
def own_collector() -> Iterator[None]:
    """What runs inside a test may tune the collector for a process of its own; the tests' is left alone, or
    the Kafka clients of one test would outlive the stack."""
    yield
    if gc.get_threshold()[0] == collector.YOUNG:
        gc.set_threshold(*PYTHONS_OWN)
        gc.unfreeze()
