"""The twelve suites: each asserts what an operator looks at before going live, and measures what it can.

They run on the fraud pipeline as the other tests of the folder above have it deployed. What is measured is
never asserted here: `millstream test --sla` holds it against the levels.
"""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from core.ids import new_id
from tests.integration.levels.measuring import Measure, Measurements
from tests.integration.scenario import Deployed
from tests.llm_real import small_model

__all__ = ["small_model"]
OPTION = "--measured-to"
_KEPT = pytest.StashKey[Measurements]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(OPTION, type=Path, help="write what the suites measured to this file")


def pytest_sessionfinish(session: pytest.Session) -> None:
    file: Path | None = session.config.getoption(OPTION, default=None)
    if file is not None:
        measurements(session.config).write(file)


def measurements(config: pytest.Config) -> Measurements:
    return config.stash.setdefault(_KEPT, Measurements())


@pytest.fixture(scope="module")
def measure(request: pytest.FixtureRequest) -> Measure:
    """Of the suite that the module is."""
    name = request.node.path.stem.removeprefix("test_")
    return Measure(measurements(request.config), name)


@pytest.fixture(scope="module")
def tenant() -> str:
    """One that no other suite has."""
    return f"levels-{new_id()[-10:]}"


@pytest.fixture(scope="module")
def client(deployed: Deployed, measure: Measure, tenant: str) -> Iterator[httpx.Client]:
    with measure.client(deployed.url, deployed.key(tenant)) as made:
        yield made
