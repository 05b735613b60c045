"""A run of a view's own: random events through its stream on a real engine, and what came out.

    run = record(plan, settings, flink(settings, java), rows=4_000, seed=7)
    report = verify(plan.view, run.events, run.streamed)

It uses topics, schemas and a job of its own (`jobs.verification.shadow`), so that it can run beside the
deployed pipeline; all of them are gone afterwards.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import httpx
import pyarrow as pa
import pyarrow.compute as pc

from core.clock import to_millis
from core.errors import StackError, Unavailable
from core.settings import Settings
from core.telemetry.probe import Probe
from features.judge.sample import Sample, sample
from features.judge.verify import verify
from features.judge.verify_windows import verify_windows
from jobs.on_flink.java_parts import JavaParts
from jobs.on_flink.keeper import keep
from jobs.on_flink.stream import stream_of
from jobs.on_flink.submit import FlinkJob
from jobs.verification.shadow import made, shadow_name, shadow_of, stream_topics
from pipelines import recorded, references
from pipelines.plan import FeaturesPlan, Plan, ScoringPlan
from schemas.broker import producer
from schemas.codec import RecordCodec
from schemas.headers import event_headers
from schemas.keys import key_of
from schemas.registry import SchemaRegistry
from schemas.topic import Topic

QUIET = timedelta(seconds=3)
"""A silent partition is held for half of this: recorded time runs faster than the wall clock."""
READY_S = 180.0
STILL_S = 2.0
"""So long nothing more may come out after all did: a row that comes twice comes with the others."""
LOST_S = 120.0
"""What a running stream has not sent after so long without any other row, it has lost."""
OUT_S = 900.0

Ready = Callable[[], bool]
Running = Callable[[Plan, str], AbstractContextManager[Ready]]
"""Runs the stream of the shadow of a plan that has this name, from ready to stopped; what it gives says
whether the stream runs."""


@dataclass(frozen=True)
class Run:
    """events: as sent, repeats included. streamed: the enriched rows, or the feature rows. late: the events
    that came out as late (of a windowed view; None for a rolling one, whose rows say it). references: the
    tables that were looked up in, by lookup. until: the newest event time."""

    events: pa.Table
    streamed: pa.Table
    late: pa.Table | None
    references: Mapping[str, pa.Table]
    until: datetime


def record(plan: Plan, settings: Settings, running: Running, *, rows: int, seed: int) -> Run:
    """Send about `rows` events (`features.judge.sample`) and wait until each is accounted for: it came out,
    in each of its windows that the newest event closes, or as late.

    What a running stream does not send for two minutes is taken for lost: the judge says so. Raises
    Unavailable when Kafka, the registry or the engine do not answer, or after a quarter of an hour.
    """
    name = shadow_name()
    shadow = shadow_of(plan, name)
    now = datetime.now(UTC).replace(microsecond=0)
    given = sample(plan.view, rows=rows, seed=seed, until=now)
    with made(stream_topics(shadow), settings):
        for lookup in shadow.view.lookups:
            references.write(lookup, given.references[lookup.name], settings)
        with running(plan, name) as ready:
            send(shadow.source, given.events, settings)
            return _all_of(shadow, given, settings, ready)


def flink(settings: Settings, java: JavaParts) -> Running:
    """The plan's Flink job, kept as in production, its state thrown away at the end."""

    @contextmanager
    def running(plan: Plan, name: str) -> Iterator[Ready]:
        job = FlinkJob(stream_of(shadow_of(plan, name)), settings, java)
        probe, stopping = Probe(), threading.Event()
        keeper = threading.Thread(
            target=keep, args=(job, stopping), kwargs={"quiet": QUIET, "probe": probe}, daemon=True
        )
        keeper.start()
        try:
            _until(lambda: probe.readiness()[0], READY_S, f"the Flink job {job.name} does not run")
            yield lambda: probe.readiness()[0]
        finally:
            stopping.set()
            keeper.join(60)
            for folder in (job.folders.checkpoints, job.folders.savepoints):
                shutil.rmtree(folder, ignore_errors=True)
            shutil.rmtree(settings.root / "flink" / name, ignore_errors=True)

    return running


def faust(settings: Settings) -> Running:
    """The plan's Faust agent in a process of its own."""

    @contextmanager
    def running(plan: Plan, name: str) -> Iterator[Ready]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        quiet_ms = str(QUIET // timedelta(milliseconds=1))
        command = (
            sys.executable, "-P", "-m", "cli", "run", "faust", "--pipeline", plan.pipeline,
            "--shadow", name, "--quiet-ms", quiet_ms,
        )  # fmt: skip
        with tempfile.TemporaryFile() as log:
            environment = os.environ | {"MILLSTREAM_PROBE_PORT": str(port)}
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)

            def ready() -> bool:
                if process.poll() is not None:
                    log.seek(0)
                    raise StackError(
                        f"the Faust agent ended with {process.returncode}",
                        where=log.read()[-1_000:].decode(errors="replace"),
                    )
                try:
                    return httpx.get(f"http://127.0.0.1:{port}/ready", timeout=2.0).status_code == 200
                except httpx.TransportError:
                    return False

            try:
                _until(ready, READY_S, f"the Faust agent of {plan.view.name} is not ready")
                yield ready
            finally:
                process.terminate()
                try:
                    process.wait(30)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
                shutil.rmtree(settings.root / "faust" / f"millstream-{name}", ignore_errors=True)

    return running


def send(topic: Topic, events: pa.Table, settings: Settings) -> None:
    """Records of the topic, one after the other, each there before the next is sent: a tick of the stream's
    clock must not overtake one under way. Raises Unavailable when Kafka takes none for ten seconds."""
    if topic.record is None:
        raise StackError(f"topic {topic.name} has no record")
    spec = topic.record.spec()
    registry = SchemaRegistry.of(settings)
    client = producer(settings, linger_ms=0)
    try:
        codec = RecordCodec(topic.record, registry, topic.subject, max_bytes=topic.max_bytes)
        table = events.combine_chunks()
        (batch,) = table.to_batches()
        columns = [table.column(name).to_pylist() for name in ("tenant", "id", spec.entity, spec.time)]
        received_at = datetime.now(UTC)
        for value, tenant, id, entity, at in zip(codec.encode_batch(batch), *columns, strict=True):
            client.produce(
                topic.name,
                key=key_of(tenant, entity),
                value=value,
                timestamp=to_millis(at),
                headers=event_headers(
                    id=id, source="millstream verify", type=spec.name.lower(), time=at, tenant=tenant,
                    received_at=received_at,
                ),
            )  # fmt: skip
            if client.flush(10):
                raise Unavailable("Kafka takes no events", where=settings.kafka.address)
    finally:
        registry.close()


def _output(plan: Plan) -> Topic:
    if isinstance(plan, FeaturesPlan):
        return plan.rows
    if isinstance(plan, ScoringPlan):
        return plan.enriched
    raise StackError(f"no output of a {type(plan).__name__}")


def _all_of(plan: Plan, given: Sample, settings: Settings, ready: Ready) -> Run:
    """What is recorded, once nothing is missing and nothing more comes."""
    begun = changed_at = time.monotonic()
    counts: list[int] = []
    looked, missing = False, -1
    while True:
        found = [sum(recorded.ends(topic, settings).values()) for topic in _outputs(plan)]
        now = time.monotonic()
        if found != counts:
            counts, changed_at, looked = found, now, False
        lost = now - changed_at >= LOST_S
        if lost or (not looked and now - changed_at >= STILL_S):
            run, looked = _recorded(plan, given, settings), True
            missing = _missing(plan, run)
            if not missing or (lost and ready()):
                return run
        if lost or now - begun > OUT_S:
            raise Unavailable(
                f"{plan.view.name}: not all that was sent came out, {missing} rows are missing; nothing "
                f"more came for {now - changed_at:.0f} s; the stream {'runs' if ready() else 'does not run'}",
                where=plan.source.name,
                mend="see `millstream logs`, and run it again",
            )
        time.sleep(0.1)


def _recorded(plan: Plan, given: Sample, settings: Settings) -> Run:
    events = recorded.read(plan.source, settings)
    return Run(
        events=events,
        streamed=recorded.read(_output(plan), settings),
        late=recorded.read(plan.late, settings) if isinstance(plan, FeaturesPlan) else None,
        references=given.references,
        until=pc.max(events.column(plan.view.time)).as_py(),
    )


def _missing(plan: Plan, run: Run) -> int:
    """Events, or windows that are closed, without a row."""
    if isinstance(plan, FeaturesPlan):
        return verify_windows(
            plan.view,
            run.events,
            run.streamed,
            late=run.late,
            lookups=dict(run.references),
            watermark=run.until,
        ).missing
    return verify(plan.view, run.events, run.streamed).missing


def _outputs(plan: Plan) -> tuple[Topic, ...]:
    return (_output(plan), plan.late) if isinstance(plan, FeaturesPlan) else (_output(plan),)


def _until(done: Callable[[], bool], within_s: float, problem: str) -> None:
    deadline = time.monotonic() + within_s
    while not done():
        if time.monotonic() > deadline:
            raise Unavailable(f"{problem} within {within_s:.0f} s", mend="see `millstream logs`")
        time.sleep(0.1)
