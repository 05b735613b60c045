"""The scheduler: one run per wish and per time that came due, bounded, resumed after a kill."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from core.clock import ManualClock
from core.errors import Conflict, Unavailable
from jobs.training.run_folder import RunFolder, RunState
from jobs.training.scheduler import ATTEMPTS, Scheduler
from pipelines.training.configuration import Configuration
from pipelines.training.reading import shipped
from schemas.catalog.training import TrainingCommand

SATURDAY = datetime(2026, 11, 21, 23, 0, tzinfo=UTC)


class Process:
    """A process that ends when the test says so."""

    def __init__(self) -> None:
        self.code: int | None = None
        self.asked_to_stop = False

    def poll(self) -> int | None:
        return self.code

    def terminate(self) -> None:
        self.asked_to_stop = True

    def wait(self) -> int:
        assert self.asked_to_stop
        return -15


class World:
    """A scheduler, its clock, the processes it began and the states it published."""

    def __init__(
        self, root: Path, *, most: int = 1, configurations: dict[str, Configuration] | None = None
    ) -> None:
        self.root, self.most = root, most
        self.clock = ManualClock(SATURDAY)
        self.configurations = {"fraud": shipped("fraud")} if configurations is None else configurations
        self.processes: dict[str, Process] = {}
        self.published: list[RunState] = []
        self.away = False
        self.scheduler = self.begin()

    def begin(self) -> Scheduler:
        """Another one on the same folder, as after a kill."""
        self.scheduler = Scheduler(
            self.root,
            self.configurations,
            start=self.start,
            publish=self.publish,
            clock=self.clock,
            most=self.most,
        )
        return self.scheduler

    def start(self, id: str) -> Process:
        self.processes[id] = Process()
        folder = RunFolder(self.root, id)
        state = folder.load()
        folder.save(replace(state, state="running", attempts=state.attempts + 1, changed_at=self.clock.now()))
        return self.processes[id]

    def publish(self, state: RunState) -> None:
        if self.away:
            raise Unavailable("Kafka is away")
        self.published.append(state)

    def end(self, id: str, state: str = "succeeded") -> None:
        """The process of a run ends, having said how."""
        folder = RunFolder(self.root, id)
        self.clock.advance(timedelta(seconds=1))
        folder.save(replace(folder.load(), state=state, changed_at=self.clock.now()))
        self.processes[id].code = 0

    def command(self, id: str, kind: str = "train") -> TrainingCommand:
        self.clock.advance(timedelta(seconds=1))
        return TrainingCommand(
            tenant="acme",
            id=id,
            kind=kind,
            model="fraud",
            configuration=msgspec.json.encode(shipped("fraud")).decode() if kind == "train" else "",
            asked_by="key",
            asked_at=self.clock.now(),
        )

    def states(self, id: str) -> list[str]:
        return [state.state for state in self.published if state.id == id]


def test_runs_wait_for_a_free_place_in_the_order_they_were_asked_for(tmp_path: Path) -> None:
    world = World(tmp_path)
    for id in ("b", "a", "c"):
        world.scheduler.take(world.command(id))
    world.scheduler.step()
    assert list(world.processes) == ["b"]
    world.end("b")
    world.scheduler.step()
    assert list(world.processes) == ["b", "a"]
    assert world.states("b") == ["running", "succeeded"]
    assert world.states("c") == ["queued"]


def test_the_same_wish_twice_is_one_run(tmp_path: Path) -> None:
    world = World(tmp_path, most=5)
    command = world.command("one")
    for _ in range(2):
        world.scheduler.take(command)
        world.scheduler.step()
    world.end("one")
    world.scheduler.step()
    world.scheduler.take(command)
    world.scheduler.step()
    assert len(world.processes) == 1
    assert RunFolder(tmp_path, "one").load().state == "succeeded"


def test_sunday_at_two_a_training_comes_due_once(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.scheduler.step()
    assert not world.processes
    world.clock.at = datetime(2026, 11, 22, 2, 0, tzinfo=UTC)
    for _ in range(3):
        world.begin().step()
    assert list(world.processes) == ["fraud-20261122T0200Z"]
    assert RunFolder(tmp_path, "fraud-20261122T0200Z").load().asked_by == "schedule"


def test_times_that_passed_while_nothing_ran_are_made_up_for_once(tmp_path: Path) -> None:
    world = World(tmp_path, most=9)
    world.scheduler.step()
    world.clock.advance(timedelta(days=30))
    world.begin().step()
    assert list(world.processes) == ["fraud-20261220T0200Z"]


def test_without_a_schedule_nothing_comes_due(tmp_path: Path) -> None:
    world = World(tmp_path, configurations={"fraud": replace(shipped("fraud"), schedule=None)})
    world.scheduler.step()
    world.clock.advance(timedelta(days=30))
    world.scheduler.step()
    assert not world.processes


def test_a_run_under_way_is_resumed_by_the_next_scheduler(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.scheduler.take(world.command("one"))
    world.scheduler.step()
    world.processes.clear()
    with RunFolder(tmp_path, "one").held():  # its process lives on
        world.begin().step()
        assert not world.processes
    world.scheduler.step()
    assert list(world.processes) == ["one"]


def test_a_run_whose_process_dies_again_and_again_is_given_up(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.scheduler.take(world.command("one"))
    for _ in range(ATTEMPTS + 2):
        world.scheduler.step()
        world.processes["one"].code = -9
        world.scheduler.step()
        world.clock.advance(timedelta(minutes=1))
    state = RunFolder(tmp_path, "one").load()
    assert (state.state, state.attempts) == ("failed", ATTEMPTS)
    assert "ended 5 times" in str(state.problem)
    assert world.states("one")[-1] == "failed"


def test_a_process_that_ends_before_its_run_begins_is_not_begun_without_a_pause(tmp_path: Path) -> None:
    world = World(tmp_path)
    begun: list[datetime] = []

    def start(id: str) -> Process:
        begun.append(world.clock.now())
        process = Process()
        process.code = 1  # e.g. it cannot reach the registry
        return process

    world.start = start  # type: ignore[method-assign]
    world.begin().take(world.command("one"))
    for _ in range(600):
        world.scheduler.step()
        world.clock.advance(timedelta(seconds=0.5))
    pauses = [round((later - before).total_seconds()) for before, later in pairwise(begun)]
    assert pauses[:3] == sorted(pauses[:3])
    assert max(pauses) <= 61
    assert 5 <= len(begun) <= 12
    assert RunFolder(tmp_path, "one").load().state == "queued", "it is tried again until it can begin"


def test_what_could_not_be_published_is_published_later(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.away = True
    world.scheduler.take(world.command("one"))
    world.scheduler.step()
    world.end("one")
    world.scheduler.step()
    assert world.published == []
    world.away = False
    world.scheduler.step()
    assert world.states("one") == ["succeeded"]


def test_an_ended_run_is_acknowledged_and_that_is_published(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.scheduler.take(world.command("one"))
    world.scheduler.step()
    with pytest.raises(Conflict, match="has not ended"):
        world.scheduler.take(world.command("one", "acknowledge"))
    world.end("one", "needs_attention")
    world.scheduler.step()
    world.begin()
    world.scheduler.take(world.command("one", "acknowledge"))
    world.scheduler.step()
    assert world.published[-1].acknowledged is not None
    assert world.published[-1].acknowledged.by == "key"


def test_stopping_asks_every_process_to_stop(tmp_path: Path) -> None:
    world = World(tmp_path, most=2)
    for id in ("a", "b"):
        world.scheduler.take(world.command(id))
    world.scheduler.step()
    world.scheduler.stop()
    assert all(process.asked_to_stop for process in world.processes.values())
