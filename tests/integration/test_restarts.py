"""The same events through a straight run, one with a killed TaskManager, and one that resumes at another
parallelism: the same values, which are DuckDB's."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from core.settings import settings
from features.windows import Rolling
from pipelines.load import load_plan
from pipelines.plan import Plan
from stack.local import Stack
from tests.features.oracle import same
from tests.integration.flows import Flow, Given, Key, Row
from tests.jobs.on_flink.live import wait_for

pytestmark = [pytest.mark.services, pytest.mark.timeout(900)]

ROWS, SEED, LATE = 1_500, 3, 5
VIEWS = ("fraud", "demand", pytest.param("merchants", marks=pytest.mark.full))


def straight(flow: Flow, stack: Stack) -> None:
    del stack
    with flow.keeping():
        for part in flow.given.parts(3):
            flow.send(part)
        flow.all_out()
        assert flow.parallelism() == {1}


def killed(flow: Flow, stack: Stack) -> None:
    """The TaskManager, while rows come out that are in no checkpoint; more are sent while it is away."""
    first, second, third = flow.given.parts(3)
    with flow.keeping() as probe:
        flow.send(first)
        wait_for("rows", lambda: flow.count() > 0)
        before = flow.checkpoints()
        wait_for("a checkpoint that has rows", lambda: flow.checkpoints() > before + 1)
        out = flow.count()
        flow.send(second)
        wait_for("rows after the checkpoint", lambda: flow.count() > out)
        assert flow.under_way()
        pid = stack.unit("flink-taskmanager").pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        wait_for("the keeper notices", lambda: not probe.readiness()[0])
        flow.send(third)
        wait_for("the job is back", lambda: probe.readiness()[0], 150)
        assert flow.restored() >= 1
        flow.all_out()


def rescaled(flow: Flow, stack: Stack) -> None:
    """Stopped twice with a savepoint while rows come out; 1, 2 and again 1 subtask of each task."""
    del stack
    for number, (parallelism, part) in enumerate(zip((1, 2, 1), flow.given.parts(3), strict=True)):
        with flow.keeping(parallelism):
            assert flow.parallelism() == {parallelism}
            assert flow.restored() == (1 if number else 0)
            out, half = flow.count(), part.num_rows // 2
            flow.send(part.slice(0, half))
            wait_for("rows", lambda out=out: flow.count() > out)
            flow.send(part.slice(half))
            if number < 2:
                assert flow.under_way()
            else:
                flow.all_out()


RUNS: tuple[Callable[[Flow, Stack], None], ...] = (straight, killed, rescaled)


@pytest.mark.parametrize("name", VIEWS)
def test_the_same_values_whatever_happens_to_the_job(stack: Stack, name: str) -> None:
    plan = load_plan(name)
    given = Given.of(plan.view, rows=ROWS, seed=SEED)
    assert len(given.late) >= LATE
    assert len(given.golden) > 400
    found = []
    for run in RUNS:
        with flowing(plan, given) as flow:
            run(flow, stack)
            found.append(values_of(flow, repeats=run is killed))
    goes_straight, *others = found
    for other in others:
        assert other == goes_straight
    for key, wanted in given.golden.items():
        same(goes_straight[key], wanted)


@contextmanager
def flowing(plan: Plan, given: Given) -> Iterator[Flow]:
    flow = Flow(plan, given, settings())
    try:
        with flow.topics():
            yield flow
    finally:
        flow.close()


def values_of(flow: Flow, *, repeats: bool) -> dict[Key, Row]:
    """The features by event or window. What came out after a checkpoint comes out again after a crash: as it
    was; nothing else comes out twice, nothing is missing, and late is what was sent as late."""
    rows, late = flow.rows(), flow.late()
    found: dict[Key, Row] = {}
    for key, features in rows:
        assert found.setdefault(key, features) == features, "a repeat has other features"
    assert found.keys() == flow.given.golden.keys()
    assert {*late} == flow.given.late
    if not repeats:
        assert len(rows) == len(found)
        assert len(late) == len(flow.given.late)
    if isinstance(flow.plan.view.window, Rolling):
        assert len(found) + len(flow.given.late) == flow.given.accepted.num_rows
    return found
