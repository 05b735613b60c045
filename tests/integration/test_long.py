"""The long ones: everything killed, alone and in pairs, at several moments; and a soak."""

import os
import signal
import time
from collections.abc import Sequence

import psutil
import pytest

from tests.integration.scenario import Deployed, Outcome, Scenario

pytestmark = [pytest.mark.services, pytest.mark.full, pytest.mark.timeout(900)]

SERVICES = ("kafka", "registry", "redis", "postgres", "flink-taskmanager", "flink-jobmanager")
JOBS = ("gateway", "fraud-worker", "fraud-writer", "fraud-flink")
PAIRS = (
    ("fraud-worker", "fraud-writer"),
    ("fraud-worker", "kafka"),
    ("fraud-writer", "postgres"),
    ("gateway", "redis"),
    ("fraud-flink", "flink-taskmanager"),
    ("flink-jobmanager", "flink-taskmanager"),
    ("registry", "fraud-worker"),
)
SOAK_S = 300
RATE = 200.0
GROWTH = 1.3
WORKER_MB = 400


def kill_all(deployed: Deployed, units: Sequence[str]) -> None:
    """SIGKILL to all of them at once; returns when all have come back."""
    before = {unit: deployed.stack.unit(unit) for unit in units}
    for row in before.values():
        assert row.pid is not None, row
        os.kill(row.pid, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while any(deployed.restarts(unit) == row.restarts for unit, row in before.items()):
        assert time.monotonic() < deadline, f"the supervisor did not notice: {units}"
        time.sleep(0.05)
    deployed.stack.wait_ready(list(units), 180)


def held(outcome: Outcome) -> None:
    """What no fault may break. Lateness is not among it: who waits for a broker sends old events."""
    features, tally = outcome.judged.features, outcome.tally
    assert not tally.refused, tally.refused
    assert (tally.lost, tally.repeats) == (0, 0)
    assert tally.seen.keys() == tally.accepted
    assert (features.mismatched, features.missing, features.extra) == (0, 0, 0), features
    assert features.checked == len(tally.accepted) - features.late - outcome.judged.dead_lettered


@pytest.mark.parametrize("moment", [1, 2])
@pytest.mark.parametrize("unit", [*SERVICES, *JOBS])
def test_each_unit_killed(deployed: Deployed, unit: str, moment: int) -> None:
    """`moment`: one kill, or two, the second as soon as the first is mended."""

    def disturb(deployed: Deployed) -> None:
        for _ in range(moment):
            kill_all(deployed, [unit])

    held(Scenario(deployed, seed=20 + moment, disturb=disturb).run())
    deployed.wait_ready()


@pytest.mark.parametrize("pair", PAIRS, ids="+".join)
def test_two_units_killed_at_once(deployed: Deployed, pair: tuple[str, str]) -> None:
    held(Scenario(deployed, seed=30, disturb=lambda deployed: kill_all(deployed, pair)).run())
    deployed.wait_ready()


def test_five_minutes_at_the_promised_rate(deployed: Deployed) -> None:
    """Nothing lost, doubled or wrong, and no process of ours grows without end."""
    sizes: dict[str, list[float]] = {unit: [] for unit in JOBS}

    def watch(deployed: Deployed) -> None:
        until = time.monotonic() + SOAK_S / 2
        while time.monotonic() < until:
            for unit, found in sizes.items():
                pid = deployed.stack.unit(unit).pid
                assert pid is not None
                found.append(psutil.Process(pid).memory_info().rss / 1e6)
            time.sleep(5)

    outcome = Scenario(deployed, events=int(SOAK_S * RATE), rate=RATE, seed=40, disturb=watch).run()
    outcome.check()
    for unit, found in sizes.items():
        third = len(found) // 3
        assert max(found[-third:]) <= GROWTH * max(found[:third]), (unit, found)
    assert max(sizes["fraud-worker"]) <= WORKER_MB
