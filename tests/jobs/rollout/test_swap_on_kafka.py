"""Routing, controller and workers as processes on real Kafka: versions change under load, nothing is lost."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from stack.local import Stack
from tests.jobs.rollout.world import World

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]


@pytest.fixture
def world(stack: Stack, tmp_path: Path) -> Iterator[World]:
    del stack
    made = World(tmp_path)
    made.version("1")
    made.versions.promote(made.model, "1")
    with made.running():
        yield made


def test_a_swap_under_load_loses_and_doubles_nothing(world: World) -> None:
    world.version("2")
    with world.controller(), world.serving_worker():
        world.wait_state("1", "active")
        first = world.stream(500, rate=500)
        load = world.ask("load", "2")
        assert world.reply(load, final=False).outcome == "accepted"
        world.wait_state("2", "ready")
        swap = world.ask("swap", "2", expected_revision=world.fleet().routing.revision)  # type: ignore[union-attr]
        second = world.stream(1000, rate=500, start=500)
        answer = world.reply(swap)
        assert (answer.outcome, answer.previous, answer.target) == ("done", "1", "2"), answer
        assert answer.duration_ms is not None
        assert 0 < answer.duration_ms < 5000
        third = world.stream(200, rate=500, start=1500)
        world.settled()
        assert world.state("1") == "deprecated"
        assert world.state("2") == "active"
    versions = world.check([*first, *second, *third])
    assert versions.keys() == {"1", "2"}
