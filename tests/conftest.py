"""Fixtures of every test: the real local stack, where a test asks for it."""

import atexit
import gc
from collections.abc import Iterator

import pytest

from core import collector
from tests.lanes import Lanes, arrange
from tests.mlflow_fixture import mlflow_server, mlflow_tables
from tests.stack_fixture import services_env, stack

__all__ = ["mlflow_server", "mlflow_tables", "own_collector", "services_env", "stack"]
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


def pytest_collection_finish() -> None:
    """What is here now stays: thousands of tests, which no collection of garbage has to look at again."""
    gc.collect()
    gc.freeze()
    atexit.register(gc.unfreeze)  # at the end everything goes, or extensions report it as leaked


@pytest.fixture(scope="session", autouse=True)
def own_collector() -> Iterator[None]:
    """What runs inside a test may not tune the collector, as it does in a process of its own: what a test
    leaves behind has to go, or its Kafka clients would outlive the stack."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collector, "calm", lambda: None)
        yield
