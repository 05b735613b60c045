"""The writer process: a thread per sink, one probe, a graceful end."""

import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

import psycopg
import pyarrow as pa
from redis import Redis

from core import collector
from core.clock import Clock, SystemClock
from core.errors import DeclarationError, Unavailable
from core.settings import Settings
from core.telemetry.log import logger
from core.telemetry.probe import Probe, ProbeServer
from features.feature_rows import WINDOW_END
from features.online.layout import layout_of
from features.online.packed_redis import RedisPackedValues
from features.online.packed_writer import PackedWriter
from features.online.rolling import RollingStore
from jobs.writer.forecast_store import PostgresForecastStore
from jobs.writer.postgres_store import PostgresStatusStore
from jobs.writer.runner import SinkRunner, Surroundings
from jobs.writer.sink import Sink
from jobs.writer.sinks.forecasts import ForecastSink
from jobs.writer.sinks.offline import OfflineSink
from jobs.writer.sinks.online import OnlineSink
from jobs.writer.sinks.packed import PackedSink
from jobs.writer.sinks.status import ArrivalSink, StatusSink
from pipelines.outbox import Outbox
from pipelines.plan import FeaturesPlan, ForecastPlan, Plan, ScoringPlan, ServedPlan
from schemas.broker import admin, consumer, gathering, producer
from schemas.codec import RecordCodec
from schemas.registry import SchemaRegistry
from schemas.topic import Topic

SWITCH_S = 0.0005  # Python's thread switch is 5 ms by default; a decision would wait that long for Delta
HEARTBEAT_S = 60.0  # a write that takes longer than this counts as hung
READY_S = 0.2
STOP_S = 15.0
READ_MS = 10


def group_of(pipeline: str, sink: str) -> str:
    """The consumer group of a sink."""
    return f"{pipeline}.writer.{sink}"


class Writer:
    """The sinks of one plan with their threads. `run` blocks until `stop`."""

    def __init__(self, plan: Plan, settings: Settings, *, clock: Clock | None = None) -> None:
        self._plan = plan
        self._settings = settings
        self._clock = clock or SystemClock()
        self._stop = threading.Event()
        self._log = logger("writer", pipeline=plan.pipeline)
        self.probe = Probe(stale_after_s=10.0)
        registry = SchemaRegistry.of(settings)
        self._codecs = {topic.name: _codec(topic, registry) for topic in plan.path}
        self.runners = [self._runner(sink, outbox) for sink, outbox in self._sinks()]

    def run(self) -> None:
        """Read and write until `stop` is called; returns when all sinks have ended."""
        if isinstance(self._plan, ServedPlan):
            self.probe.check("database", self._database())
        self.probe.check("redis", self._redis())
        self.probe.check("kafka", self._kafka())
        pa.array([0])  # imports pandas, once; a second or more that decisions would otherwise wait for
        threads = []
        for runner in self.runners:
            self.probe.check(f"sink {runner.sink.name}", runner.check)
            threads.append(threading.Thread(target=runner.run, name=f"sink-{runner.sink.name}", daemon=True))
        collector.calm()
        for thread in threads:
            thread.start()
        self._log.info("started", sinks=[runner.sink.name for runner in self.runners])
        while not self._stop.wait(READY_S):
            waiting = [runner.sink.name for runner in self.runners if not runner.assigned]
            holding = [runner.sink.name for runner in self.runners if runner.problem]
            reason = f"no partitions yet: {waiting}" if waiting else f"holding back: {holding}"
            self.probe.set_ready(not waiting and not holding, reason)
        self.probe.set_ready(False, "stopping")
        for thread in threads:
            thread.join(STOP_S / len(threads) + 1)
        left = [thread.name for thread in threads if thread.is_alive()]
        self._log.info("stopped", unfinished=left)

    def stop(self) -> None:
        """Finish the chunk in hand, commit, leave the groups."""
        self._stop.set()

    def _sinks(self) -> list[tuple[Sink, Outbox]]:
        plan = self._plan
        if isinstance(plan, ScoringPlan):
            sinks = self._of_scoring(plan)
        elif isinstance(plan, FeaturesPlan):
            sinks = self._of_features(plan)
        else:
            raise DeclarationError(f"no sinks for a {type(plan).__name__}", where=plan.pipeline)
        return [(make(outbox), outbox) for make in sinks for outbox in [self._outbox()]]

    def _of_scoring(self, plan: ScoringPlan) -> list[Callable[[Outbox], Sink]]:
        url, clock = self._settings.postgres.address, self._clock
        rows = RollingStore(_redis_client(self._settings), plan.view)
        return [
            lambda outbox: StatusSink(plan, PostgresStatusStore(url), outbox, self._codecs, clock),
            lambda _: ArrivalSink(plan, PostgresStatusStore(url), clock),
            lambda _: OnlineSink(plan.enriched, rows),
            lambda _: self._offline(plan.enriched, plan.view.time),
        ]

    def _of_features(self, plan: FeaturesPlan) -> list[Callable[[Outbox], Sink]]:
        values = PackedWriter(RedisPackedValues(_redis_client(self._settings)), layout_of(plan.view))
        sinks: list[Callable[[Outbox], Sink]] = [
            lambda _: PackedSink(plan.rows, values),
            lambda _: self._offline(plan.rows, WINDOW_END),
        ]
        if plan.takes_events:
            sinks.append(lambda _: self._offline(plan.source, plan.view.time, "events", dead_letters=True))
        if isinstance(plan, ForecastPlan):
            store = PostgresForecastStore(self._settings.postgres.address)
            sinks.append(lambda outbox: ForecastSink(plan, store, outbox, self._codecs, self._clock))
        return sinks

    def _offline(self, topic: Topic, time: str, name: str = "offline", *, dead_letters: bool = False) -> Sink:
        return OfflineSink(
            topic,
            time,
            self._settings.root,
            self._clock,
            interval_s=self._settings.writer.delta_interval_s,
            name=name,
            dead_letters=dead_letters,
        )

    def _outbox(self) -> Outbox:
        return Outbox(lambda: producer(self._settings, linger_ms=0))

    def _runner(self, sink: Sink, outbox: Outbox) -> SinkRunner:
        group = group_of(self._plan.pipeline, sink.name)
        return SinkRunner(
            sink,
            Surroundings(
                consumer=lambda: consumer(
                    self._settings,
                    group,
                    partition_assignment_strategy="cooperative-sticky",
                    **gathering(max(sink.wait_s * 1000, READ_MS)),
                    queued_max_messages_kbytes=16_384,
                ),
                codecs=self._codecs,
                outbox=outbox,
                job=f"writer.{sink.name}",
            ),
            self._stop,
            batch=self._settings.writer.batch,
            beat=lambda name: self.probe.beat(f"loop {name}", within_s=HEARTBEAT_S),
        )

    def _database(self) -> Callable[[], None]:
        held: list[psycopg.Connection[Any]] = []

        def check() -> None:
            try:
                if not held:
                    held.append(
                        psycopg.connect(
                            self._settings.postgres.address,
                            autocommit=True,
                            connect_timeout=2,
                            options="-c statement_timeout=2000",
                        )
                    )
                held[0].execute("SELECT 1")
            except psycopg.Error:
                while held:
                    held.pop().close()
                raise

        return check

    def _redis(self) -> Callable[[], None]:
        client = _redis_client(self._settings)

        def check() -> None:
            client.ping()

        return check

    def _kafka(self) -> Callable[[], None]:
        client = admin(self._settings)

        def check() -> None:
            known = client.list_topics(topic=self._plan.source.name, timeout=2.0).topics
            if self._plan.source.name not in known or known[self._plan.source.name].error is not None:
                raise Unavailable(f"no topic {self._plan.source.name}", mend="run `millstream apply`")

        return check


def run(plan: Plan, settings: Settings) -> None:
    """The process: serve the probe, write until SIGTERM or SIGINT, then end gracefully."""
    sys.setswitchinterval(SWITCH_S)
    writer = Writer(plan, settings)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: writer.stop())
    server = ProbeServer(writer.probe).start()
    try:
        writer.run()
    finally:
        writer.probe.close()
        server.stop()


def _codec(topic: Topic, registry: SchemaRegistry) -> RecordCodec[Any]:
    if topic.record is None:
        raise DeclarationError(f"topic {topic.name} has no record", mend="declare it with one")
    return RecordCodec(topic.record, registry, topic.subject, max_bytes=topic.max_bytes)


def _redis_client(settings: Settings) -> Redis:
    return Redis.from_url(settings.redis.address, socket_timeout=5.0, socket_connect_timeout=2.0)
