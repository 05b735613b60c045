"""The keeper of a pipeline's Flink job: sees to it that exactly one such job runs, and keeps its clock.

    looking ── none runs ──> submitting ──> watching ── job lost, or JobManager restarted ──> looking
                                               └─ SIGTERM ──> stop with a savepoint, exit

A job resumes from the newest restore point of its lineage; one that does not load is passed over for the
next older, with a warning. Tasks that fail are restarted by Flink itself; the keeper acts when Flink gave
up or forgot the job, which a session cluster does when its JobManager dies.

Ready means: the job runs and every one of its tasks does. Health is the keeper's own: its loop and its
clock move. Flink or Kafka being away makes it not ready, never unhealthy.
"""

import signal
import threading
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from core.clock import Clock, SystemClock
from core.errors import MillstreamError, StackError, Unavailable
from core.settings import Settings
from core.telemetry.log import logger
from core.telemetry.metrics import counter, gauge
from core.telemetry.probe import Probe, ProbeServer
from jobs.on_flink.clock import Pace, StreamClock
from jobs.on_flink.java_parts import JavaParts
from jobs.on_flink.rest import FlinkRest, JobState
from jobs.on_flink.restore_points import RestorePoint, restore_points
from jobs.on_flink.stream import Replay, stream_of
from jobs.on_flink.submit import FlinkJob, Refused
from pipelines.plan import Plan

log = logger("jobs.on_flink")
RUNNING = gauge("flink_job_running", "1 while the job and all its tasks run", ("pipeline",))
SUBMISSIONS = counter("flink_submissions", "Jobs submitted", ("pipeline", "from"))

_INTERVAL_S = 0.5
_STOP_S = 12.0  # with a cancellation after it still within the supervisor's 20 s
_SETTLED_S = 30.0
_BACKOFF_S = (1.0, 2.0, 5.0, 10.0)
#: Words in a root cause that mean: the state it was to resume from does not load.
_DOES_NOT_LOAD = (
    "restoreSavepoint", "CheckpointMetadata", "Could not restore", "restoring",
    "Failed to rollback to checkpoint",
)  # fmt: skip
QUIET = timedelta(milliseconds=100)
LAG = timedelta(milliseconds=250)
"""How far a silent partition's clock may be behind the others': so much later its windows come out."""


@dataclass
class Keeper:
    """One job's keeper; `step` is one look, made every half second by `run`."""

    job: FlinkJob
    rest: FlinkRest
    probe: Probe
    clock: Clock = field(default_factory=SystemClock)
    damaged: set[Path] = field(default_factory=set)
    _current: str | None = None
    _resumed_from: RestorePoint | None = None
    _submitted_at: float = 0.0
    _failures: int = 0
    _not_before: float = 0.0

    def step(self) -> None:
        """Look once and act; what is wrong is logged and told as not ready, never raised."""
        try:
            self._look()
        except MillstreamError as error:
            self._not_ready(error.what)
            if not isinstance(error, Unavailable):
                log.error("the keeper cannot go on", job=self.job.name, error=str(error))
                self._wait_longer()

    def stop(self, timeout_s: float = _STOP_S) -> None:
        """Stop with a savepoint; if the job cannot take one now, cancel it: the last checkpoint stays."""
        running = [job for job in self._known() if not job.ended]
        for job in running:
            try:
                path = self.rest.stop(job.id, self.job.folders.savepoints.as_uri(), timeout_s=timeout_s)
                log.info("stopped with a savepoint", job=job.name, path=path)
            except MillstreamError as error:
                log.warning("no savepoint; the last checkpoint stays", job=job.name, error=str(error))
                self.rest.cancel(job.id, timeout_s=5.0)

    def _known(self) -> list[JobState]:
        return self.rest.jobs(self.job.stream.pipeline)

    def _look(self) -> None:
        known = self._known()
        alive = [job for job in known if not job.ended]
        mine = [job for job in alive if job.name == self.job.name]  # the newest first
        for other in [job for job in alive if job not in mine[:1]]:
            self._retire(other)
        if mine:
            self._watch(mine[0])
        elif self.clock.monotonic() >= self._not_before:
            self._note_end(known)
            self._submit()

    def _retire(self, job: JobState) -> None:
        """A job of another lineage of this pipeline, or a twin: only one may write."""
        log.warning("stopping another job of this pipeline", job=job.name, id=job.id)
        if job.name == self.job.name:
            self.rest.cancel(job.id, timeout_s=_STOP_S)
        else:
            folder = self.job.folders.savepoints.with_name(job.name)
            try:
                self.rest.stop(job.id, folder.as_uri(), timeout_s=_STOP_S)
            except Unavailable:
                self.rest.cancel(job.id, timeout_s=_STOP_S)

    def _watch(self, job: JobState) -> None:
        self._current = job.id
        running = job.state == "RUNNING" and job.tasks_running
        RUNNING.labels(self.job.stream.pipeline).set(running)
        if running:
            if self.clock.monotonic() - self._submitted_at >= _SETTLED_S:
                self._failures, self._resumed_from = 0, None
            self.probe.set_ready(True)
            return
        self._not_ready(f"job {job.name} is {job.state}, not all of its tasks run")
        if self._resumed_from is not None and job.state in ("RESTARTING", "FAILING"):
            cause = self.rest.root_cause(job.id)
            if _is_bad_state(cause):
                self.rest.cancel(job.id, timeout_s=_STOP_S)
                self._pass_over(cause)

    def _note_end(self, known: list[JobState]) -> None:
        """Tell why the job we knew is gone; a restore point that did not load is not tried again."""
        if self._current is None:
            return
        ended = next((job for job in known if job.id == self._current), None)
        cause = self.rest.root_cause(self._current) if ended is not None else ""
        log.warning(
            "the job is gone", job=self.job.name, id=self._current,
            state=ended.state if ended else "forgotten", cause=cause[:500],
        )  # fmt: skip
        self._current = None
        if self._resumed_from is not None and _is_bad_state(cause):
            self._pass_over(cause)

    def _pass_over(self, cause: str) -> None:
        if self._resumed_from is not None:
            log.warning(
                "the restore point does not load", path=str(self._resumed_from.path), cause=cause[:500]
            )
            self.damaged.add(self._resumed_from.path)
            self._resumed_from, self._current = None, None

    def _submit(self) -> None:
        if self.rest.slots() < self.job.settings.flink.parallelism:
            self._not_ready("no task slots yet")
            return
        points = restore_points(self.job.folders, self.damaged)
        if self.damaged and not points:
            # Beginning anew would let everything out again; that is for a person to decide.
            self.damaged.clear()
            raise StackError(
                "no restore point loads",
                where=str(self.job.folders.checkpoints),
                mend="see the log of the JobManager; move the folder away to begin anew",
            )
        point = points[0] if points else None
        self._not_ready("submitting")
        self._wait_longer()
        log.info("submitting", job=self.job.name, resume_from=str(point.path) if point else None)
        self._resumed_from, self._submitted_at = point, self.clock.monotonic()
        try:
            self._current = self.job.submit(point)
        except Refused as error:
            if not _is_bad_state(error.trace):
                raise
            self._pass_over(error.what)
            return
        SUBMISSIONS.labels(self.job.stream.pipeline, "restore point" if point else "nothing").inc()

    def _wait_longer(self) -> None:
        self._not_before = self.clock.monotonic() + _BACKOFF_S[min(self._failures, len(_BACKOFF_S) - 1)]
        self._failures += 1

    def _not_ready(self, reason: str) -> None:
        RUNNING.labels(self.job.stream.pipeline).set(0)
        self.probe.set_ready(False, reason)


def _is_bad_state(cause: str) -> bool:
    return any(word in cause for word in _DOES_NOT_LOAD)


def run(
    plan: Plan,
    settings: Settings,
    java: JavaParts,
    *,
    disorder_ms: int | None = None,
    quiet_ms: int | None = None,
    replay: Replay | None = None,
) -> None:
    """Keep the job of `plan` until SIGTERM or SIGINT, then stop it with a savepoint.

    java: what compiles and runs our Java parts; the composition root knows where it lies.
    disorder_ms: overrides the view's bound, in event time; the state is kept over a change of it.
    quiet_ms: how long, by the wall clock, all partitions are silent before the last rows are let out;
        by default twice the view's own bound, at least 100 ms.
    replay: recorded events are sent, from these offsets on; the job has a state of its own.
    """
    disorder = None if disorder_ms is None else timedelta(milliseconds=disorder_ms)
    quiet = None if quiet_ms is None else timedelta(milliseconds=quiet_ms)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    keep(FlinkJob(stream_of(plan), settings, java, disorder, replay), stopping, quiet=quiet)


def keep(
    job: FlinkJob, stopping: threading.Event, *, quiet: timedelta | None = None, probe: Probe | None = None
) -> None:
    """`run` for a job at hand and without signals: until `stopping` is set. Serves `probe`."""
    stream, told = job.stream, probe or Probe()
    server = ProbeServer(told).start()
    rest = FlinkRest(job.settings.flink.address)
    keeper = Keeper(job, rest, told)
    ticking = StreamClock(
        job.settings,
        stream.source.name,
        disorder=stream.view.disorder if job.disorder is None else job.disorder,
        pace=Pace.of(stream.view, quiet),
        since=None if job.replay is None else job.replay.since,
        beat=lambda: told.beat("clock"),
    )
    ticker = threading.Thread(target=ticking.run, args=(stopping,), name="clock", daemon=True)
    ticker.start()
    try:
        while not stopping.is_set():
            # A submission takes seconds; its own time-out is 180 s.
            told.beat("keeper", within_s=240.0)
            keeper.step()
            stopping.wait(_INTERVAL_S)
        told.set_ready(False, "stopping")
        try:
            keeper.stop()
        except MillstreamError as error:
            log.warning("the job was not stopped; it resumes from its last checkpoint", error=str(error))
    finally:
        stopping.set()
        ticker.join(timeout=3.0)
        rest.close()
        server.stop()
        told.close()
