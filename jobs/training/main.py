"""The process that trains: commands from Kafka and the schedule in, runs in child processes, states out."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import msgspec
from confluent_kafka import Message
from filelock import FileLock, Timeout

from core.clock import Clock, SystemClock
from core.errors import MillstreamError, StackError, Unavailable
from core.settings import Settings
from core.telemetry.log import logger
from core.telemetry.probe import Probe, ProbeServer
from jobs.training.on_kafka import Published
from jobs.training.ports import Deploys
from jobs.training.run_folder import RunFolder, RunState, prune
from jobs.training.scheduler import Child, Scheduler
from models.store import Registry
from pipelines.changes import apply_topics
from pipelines.outbox import Outbox
from pipelines.training.reading import configurations
from schemas.broker import consumer, producer
from schemas.catalog.experiments import EXPERIMENTS
from schemas.catalog.training import COMMANDS, TOPICS, TrainingCommand
from schemas.codec import RecordCodec
from schemas.registry import SchemaRegistry

GROUP = "training"
_POLL_S = 0.5
_log = logger("training.scheduler")


def run(settings: Settings) -> None:
    """Until SIGTERM or SIGINT; then the runs under way are stopped, to be resumed. Raises StackError when
    another scheduler has this data folder."""
    stopping: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _frame: stopping.append(number))
    serve(settings, SystemClock(), stopped=lambda: bool(stopping))


def serve(settings: Settings, clock: Clock, *, stopped: Callable[[], bool]) -> None:
    """`run`, until `stopped`."""
    root = settings.root / "training"
    root.mkdir(parents=True, exist_ok=True)
    lock = FileLock(root / ".scheduler")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise StackError("another scheduler runs", where=str(root), mend="stop it first") from None
    with ExitStack() as exits:
        exits.callback(lock.release)
        apply_topics([*TOPICS, EXPERIMENTS], settings)
        published = Published(settings, clock)
        exits.callback(published.close)
        scheduler = Scheduler(
            root,
            configurations(settings.training.configurations),
            start=lambda id: start(id, root),
            publish=published.status,
            clock=clock,
            most=settings.training.runs,
        )
        exits.callback(scheduler.stop)
        _serve(settings, scheduler, exits, stopped)


def start(id: str, root: Path) -> Child:
    """A process of its own for one run; what it says is in the run's folder."""
    log = (RunFolder(root, id).path / "log.txt").open("ab")
    with log:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "cli", "run", "training", "--only", id],
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE"},
        )


def resume(id: str, settings: Settings, *, deploys: Deploys | None = None) -> RunState:
    """Do what is left of a run, in this process; see `jobs.training.runner.carry_out`."""
    from jobs.training.runner import carry_out  # the libraries; the scheduler itself is small without them
    from jobs.training.surroundings import surroundings
    from models.registry import open_registry

    clock, folder = SystemClock(), RunFolder(settings.root / "training", id)
    store = open_registry(settings)
    with surroundings(
        folder.load().configuration,
        settings,
        store=store,
        progress=_progress,
        clock=clock,
        deploys=deploys,
    ) as around:
        state = carry_out(folder, around, clock=clock)
    prune_runs(settings, store, clock)
    return state


def prune_runs(settings: Settings, store: Registry, clock: Clock) -> None:
    """Remove the folders of old runs, as set; where the registry is away the next run does it."""
    own = settings.training
    try:
        removed = prune(
            settings.root / "training",
            store,
            runs_kept=own.kept_runs,
            days_kept=own.kept_days,
            now=clock.now(),
        )
    except Unavailable as error:
        _log.warning("old runs stay: the registry does not answer", reason=error.what)
        return
    if removed:
        _log.info("old runs removed", runs=removed)


def _progress(what: str, done: float | None) -> None:
    if done is None:
        _log.info(what)


def _serve(settings: Settings, scheduler: Scheduler, exits: ExitStack, stopped: Callable[[], bool]) -> None:
    registry = SchemaRegistry.of(settings)
    exits.callback(registry.close)
    codec = RecordCodec(TrainingCommand, registry, COMMANDS.subject, max_bytes=COMMANDS.max_bytes)
    outbox = Outbox(lambda: producer(settings))
    exits.callback(outbox.discard)
    reader = consumer(settings, GROUP)
    exits.callback(reader.close)
    reader.subscribe([COMMANDS.name])
    probe = Probe()
    server = ProbeServer(probe).start()
    exits.callback(server.stop)
    probe.set_ready(True)
    _log.info("serving", topic=COMMANDS.name)
    while not stopped():
        probe.beat("scheduler", within_s=60.0)
        message = reader.poll(_POLL_S)
        if message is not None and message.error() is None:
            _take(message, codec, scheduler, outbox)
            reader.commit(message, asynchronous=False)
        scheduler.step()


def _take(
    message: Message, codec: RecordCodec[TrainingCommand], scheduler: Scheduler, outbox: Outbox
) -> None:
    """Hand one command over; one that cannot be read or carried out goes to the dead letters."""
    try:
        scheduler.take(codec.decode(message.value() or b""))
    except (MillstreamError, msgspec.ValidationError, msgspec.DecodeError) as error:
        if isinstance(error, MillstreamError) and error.retryable:
            raise
        code = error.code if isinstance(error, MillstreamError) else "malformed_record"
        _log.warning("a command is refused", reason=str(error)[:300])
        outbox.dead_letter(message, code=code, reason=str(error), stage="decode", job="training")
        outbox.settle()
