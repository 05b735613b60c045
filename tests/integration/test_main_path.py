"""The whole path, undisturbed and disturbed: every accepted event has exactly one result, every feature is
what DuckDB says, whatever process dies in the middle."""

import time
from collections.abc import Callable

import pytest

from tests.integration.scenario import Deployed, Scenario

pytestmark = [pytest.mark.services, pytest.mark.timeout(600)]


def killed(unit: str) -> Callable[[Deployed], None]:
    def disturb(deployed: Deployed) -> None:
        before = deployed.restarts(unit)
        deployed.kill(unit)
        deadline = time.monotonic() + 60
        while deployed.restarts(unit) == before and time.monotonic() < deadline:
            time.sleep(0.05)
        assert deployed.restarts(unit) > before, "the supervisor did not notice"
        deployed.stack.wait_ready([unit], 120)

    return disturb


def down_and_up(deployed: Deployed) -> None:
    deployed.stack.down()
    deployed.stack.up(timeout_s=240)


def test_every_accepted_event_has_one_result_with_the_right_features(deployed: Deployed) -> None:
    outcome = Scenario(deployed, events=2000, rate=200, seed=2).run()
    outcome.check()
    decided = outcome.tally.decisions()
    assert decided["blocked"] + decided["in_review"] + decided["confirmed"] == 2000
    assert decided["confirmed"] > 0
    blocked = [key for key, kind in outcome.alerts.items() if kind == "transaction_blocked"]
    assert len(blocked) == decided["blocked"]


@pytest.mark.parametrize("unit", ["fraud-worker", "fraud-writer", "gateway", "flink-taskmanager"])
def test_a_killed_process_loses_and_doubles_nothing(deployed: Deployed, unit: str) -> None:
    Scenario(deployed, seed=3, disturb=killed(unit)).run().check()
    deployed.wait_ready()


def test_a_killed_jobmanager_loses_and_doubles_nothing(deployed: Deployed) -> None:
    """The session cluster forgets its jobs; the keeper submits again from the last checkpoint."""
    Scenario(deployed, seed=4, disturb=killed("flink-jobmanager")).run().check()
    deployed.wait_ready()


def test_down_and_up_in_the_middle_of_a_window_loses_and_doubles_nothing(deployed: Deployed) -> None:
    Scenario(deployed, seed=5, disturb=down_and_up).run().check()
    deployed.wait_ready()
