"""The keeper against a Flink that is made up: what it does when jobs are there, lost, twins or broken."""

from dataclasses import dataclass, field, replace
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from core.clock import ManualClock
from core.errors import StackError, Unavailable
from core.telemetry.probe import Probe
from jobs.on_flink.keeper import Keeper
from jobs.on_flink.rest import JobState
from jobs.on_flink.restore_points import StateFolders
from jobs.on_flink.submit import Refused
from tests.jobs.on_flink.test_restore_points import put


@dataclass
class MadeUpFlink:
    """A JobManager as its REST API shows it."""

    known: list[JobState] = field(default_factory=list)
    away: bool = False
    free: int = 1
    cause: str = ""
    stops: bool = True
    log: list[str] = field(default_factory=list)

    def jobs(self, pipeline: str | None = None) -> list[JobState]:
        if self.away:
            raise Unavailable("Flink is away")
        return list(self.known)

    def slots(self) -> int:
        return self.free

    def root_cause(self, job_id: str) -> str:
        return self.cause

    def stop(self, job_id: str, folder: str, *, timeout_s: float) -> str:
        if not self.stops:
            raise Unavailable("no savepoint was taken")
        self.log.append(f"stop {job_id}")
        self.end(job_id, "FINISHED")
        return f"{folder}/savepoint"

    def cancel(self, job_id: str, *, timeout_s: float) -> None:
        self.log.append(f"cancel {job_id}")
        self.end(job_id, "CANCELED")

    def end(self, job_id: str, state: str) -> None:
        self.known = [replace(job, state=state) if job.id == job_id else job for job in self.known]


@dataclass
class Bench:
    """A keeper with everything around it made up."""

    folders: StateFolders
    flink: MadeUpFlink = field(default_factory=MadeUpFlink)
    submitted: list[Path | None] = field(default_factory=list)
    refuses: Exception | None = None
    clock: ManualClock = field(default_factory=ManualClock)

    def __post_init__(self) -> None:
        job: Any = SimpleNamespace(
            name="fraud-abc",
            stream=SimpleNamespace(pipeline="fraud"),
            settings=SimpleNamespace(flink=SimpleNamespace(parallelism=1)),
            folders=self.folders,
            submit=self.submit,
        )
        self.probe = Probe()
        self.keeper = Keeper(job, self.flink, self.probe, self.clock)  # type: ignore[arg-type]

    def submit(self, point: Any) -> str:
        if self.refuses:
            raise self.refuses
        self.submitted.append(point.path if point else None)
        return self.runs(f"job{len(self.submitted)}")

    def runs(self, id: str, name: str = "fraud-abc", state: str = "RUNNING", tasks: bool = True) -> str:
        self.flink.known.insert(0, JobState(id, name, state, len(self.flink.known), tasks))
        return id

    def steps(self, number: int = 1, after_s: float = 0.5) -> None:
        for _ in range(number):
            self.keeper.step()
            self.clock.advance(timedelta(seconds=after_s))

    @property
    def ready(self) -> bool:
        return self.probe.readiness()[0]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(StateFolders(tmp_path / "checkpoints", tmp_path / "savepoints"))


def test_the_first_start_is_from_nothing_and_only_once(bench: Bench) -> None:
    bench.steps(10)
    assert bench.submitted == [None]
    assert bench.ready


def test_a_job_that_runs_already_is_taken_over(bench: Bench) -> None:
    bench.runs("earlier")
    bench.steps(3)
    assert bench.submitted == []
    assert bench.ready


def test_not_ready_until_every_task_runs(bench: Bench) -> None:
    bench.runs("starting", tasks=False)
    bench.steps()
    assert not bench.ready
    bench.flink.known = [replace(bench.flink.known[0], tasks_running=True)]
    bench.steps()
    assert bench.ready


def test_a_forgotten_job_resumes_from_the_newest_point(bench: Bench) -> None:
    bench.steps(2)
    put(bench.folders.checkpoints / "job1" / "chk-3", 100)
    newest = put(bench.folders.checkpoints / "job1" / "chk-4", 200)
    bench.flink.away = True
    bench.steps(4)
    assert not bench.ready
    bench.flink.away, bench.flink.known = False, []
    bench.steps(6)
    assert bench.submitted == [None, newest]
    assert bench.ready


def test_nothing_is_submitted_while_there_are_no_slots(bench: Bench) -> None:
    bench.flink.free = 0
    bench.steps(5)
    assert bench.submitted == []
    bench.flink.free = 1
    bench.steps()
    assert bench.submitted == [None]


def test_a_point_that_does_not_load_gives_way_to_the_next_older(bench: Bench) -> None:
    older = put(bench.folders.checkpoints / "j" / "chk-1", 100)
    newer = put(bench.folders.savepoints / "savepoint-1", 200)
    bench.steps()
    assert bench.submitted == [newer]
    bench.flink.cause = (
        "JobInitializationException ... CheckpointCoordinator.restoreSavepoint ... EOFException"
    )
    bench.flink.end("job1", "FAILED")
    bench.steps(6)
    assert bench.submitted == [newer, older]


def test_a_point_that_is_refused_at_submission_gives_way_too(bench: Bench) -> None:
    older = put(bench.folders.checkpoints / "j" / "chk-1", 100)
    put(bench.folders.savepoints / "savepoint-1", 200)
    bench.refuses = Refused(
        "Flink refuses", job="fraud-abc", trace="... restoreSavepoint\nCaused by: EOFException"
    )
    bench.steps()
    bench.refuses = None
    bench.steps(6)
    assert bench.submitted == [older]


def test_a_job_that_keeps_failing_to_restore_is_cancelled_for_an_older_point(bench: Bench) -> None:
    older = put(bench.folders.checkpoints / "j" / "chk-1", 100)
    newer = put(bench.folders.checkpoints / "j" / "chk-2", 200)
    bench.steps()
    bench.flink.known = [replace(bench.flink.known[0], state="RESTARTING", tasks_running=False)]
    bench.flink.cause = "StateBackend: Could not restore keyed state backend ... FileNotFoundException"
    bench.steps(6)
    assert bench.flink.log == ["cancel job1"]
    assert bench.submitted == [newer, older]


def test_when_no_point_loads_nothing_is_begun_anew(bench: Bench) -> None:
    put(bench.folders.checkpoints / "j" / "chk-1", 100)
    bench.flink.cause = "CheckpointCoordinator.restoreSavepoint"
    for number in range(1, 5):
        bench.steps(60)
        assert len(bench.submitted) == number
        bench.flink.end(f"job{number}", "FAILED")
    assert None not in bench.submitted


def test_an_ordinary_failure_does_not_cost_the_restore_point(bench: Bench) -> None:
    point = put(bench.folders.checkpoints / "j" / "chk-1", 100)
    bench.steps()
    bench.flink.cause = "TimeoutException: no resources"
    bench.flink.end("job1", "FAILED")
    bench.steps(6)
    assert bench.submitted == [point, point]


def test_only_one_job_of_a_pipeline_may_write(bench: Bench) -> None:
    bench.runs("mine")
    bench.runs("other", name="fraud-0ld")
    bench.steps()
    assert bench.flink.log == ["stop other"]
    bench.runs("twin")
    bench.steps()
    assert bench.flink.log == ["stop other", "cancel mine"]
    assert bench.submitted == []


def test_refusals_back_off(bench: Bench) -> None:
    bench.refuses = StackError("Flink refuses to execute the job")
    calls: list[float] = []
    original = bench.keeper.job.submit

    def counted(restore_from: Any) -> str:
        calls.append(bench.clock.elapsed)
        return original(restore_from)

    bench.keeper.job.submit = counted  # type: ignore[method-assign]
    bench.steps(100)
    gaps = [after - before for before, after in pairwise(calls)]
    assert gaps[0] < gaps[-1]
    assert gaps[-1] >= 10
    assert not bench.ready


def test_stopping_takes_a_savepoint_or_leaves_the_last_checkpoint(bench: Bench) -> None:
    bench.runs("mine")
    bench.keeper.stop()
    assert bench.flink.log == ["stop mine"]
    bench.runs("again")
    bench.flink.stops = False
    bench.keeper.stop()
    assert bench.flink.log == ["stop mine", "cancel again"]
