"""The worker process: puts the parts together and keeps one Kafka session after the other alive."""

import signal
import threading
from collections.abc import Mapping, Sequence
from datetime import timedelta
from types import FrameType
from typing import Any

import pyarrow as pa
import redis
from confluent_kafka import Consumer

from core import collector
from core.clock import Clock, SystemClock
from core.errors import DeclarationError, MillstreamError, Unavailable
from core.settings import Settings
from core.telemetry.log import logger
from core.telemetry.probe import Probe, ProbeServer
from features.online.rolling import Event, RollingStore
from jobs.worker import metrics
from jobs.worker.batch import BatchWork
from jobs.worker.control import control_of
from jobs.worker.forecasting import DeclaredForecast, Forecasting
from jobs.worker.host import Host, Limits, Route
from jobs.worker.outbox import PRODUCER_SETTINGS, SessionOutbox
from jobs.worker.rate_alerts import RateAlerts, rates_of
from jobs.worker.readback import Readback
from jobs.worker.scoring import Declared, Scoring, StreamStep
from jobs.worker.serving import ModelSource
from models.load import StoredModels
from models.registry import Following, open_registry
from operators.dedupe import Dedupe, Horizon
from operators.ports import FeatureReader
from pipelines.model_compatibility import require_compatible
from pipelines.on_redis.raised import RaisedAlerts
from pipelines.outbox import Outbox
from pipelines.plan import ForecastPlan, ScoringPlan, ServedPlan
from schemas import broker
from schemas.codec import RecordCodec
from schemas.registry import SchemaRegistry
from schemas.topic import Topic

_LOG = logger("worker")
CHECKPOINTS = 3
BACKLOG, MAX_BATCH = 8, 10_000
BACKOFF_FIRST_S, BACKOFF_LONGEST_S = 0.5, 10.0
REDIS_TIMEOUT_S = 0.25
GATHER_MS = 10
SESSION_MS = 6000  # the least that brokers allow by default: how long a killed worker's partitions wait


def run(plan: ServedPlan, settings: Settings, *, source: ModelSource | None = None) -> None:
    """Score the records that `plan` gives its model until SIGTERM or SIGINT; then finish the batch, commit,
    leave.

    Serves `/health`, `/ready` and `/metrics` from the start. What is away at the start (registry, brokers,
    the model) is waited for with bounded backoff. `source` replaces the model registry of the settings.
    Call it from the main thread: it installs signal handlers.
    """
    clock = SystemClock()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stopper(stop))
    probe = Probe()
    probe.beat("loop")
    server = ProbeServer(probe, settings.worker.port or None).start()
    worker = Worker(
        plan, settings, source=source or stored_models(plan, settings), clock=clock, probe=probe, stop=stop
    )
    try:
        worker.run()
    finally:
        probe.close()
        server.stop()
    _LOG.info("worker stopped", pipeline=plan.pipeline)


class OnlineFeatures:
    """The view's online store as a FeatureReader: what the client raises becomes Unavailable."""

    def __init__(self, client: redis.Redis, plan: ScoringPlan) -> None:
        self._store = RollingStore(client, plan.view)

    def read_rows(self, batch: pa.RecordBatch) -> Mapping[str, pa.Array]:
        """See FeatureReader."""
        try:
            read: Any = self._store.read_rows(batch)
        except (redis.RedisError, OSError) as error:
            raise _away(error) from error
        return {name: read[name] for name in self._store.view.feature_names}

    def read_events(self, events: Sequence[Event]) -> list[Mapping[str, object]]:
        """See `jobs.worker.answering.asked_step.EventReader`."""
        try:
            return [found.values for found in self._store.read_events(events)]
        except (redis.RedisError, OSError) as error:
            raise _away(error) from error


def _away(error: Exception) -> Unavailable:
    return Unavailable(f"Redis: {type(error).__name__}: {error}", where="online store")


class Worker:
    """Sessions of one worker, one after the other, sharing the model, the codecs and nothing else."""

    def __init__(
        self,
        plan: ServedPlan,
        settings: Settings,
        *,
        source: ModelSource,
        clock: Clock,
        probe: Probe,
        stop: threading.Event,
        reader: FeatureReader | None = None,
    ) -> None:
        self._plan = plan
        self._settings = settings
        self._clock = clock
        self._probe = probe
        self._stop = stop
        self._name = f"{plan.pipeline}-worker"
        registry = SchemaRegistry.of(settings)
        self._decoder = _codec(plan.given, registry)
        self._encoder = _codec(plan.results, registry)
        self._control = control_of(
            settings,
            registry,
            source,
            model=plan.infer.model,
            pipeline=plan.pipeline,
            clock=clock,
            stop=stop,
        )
        self._serving = self._control.serving
        self._redis = redis.Redis.from_url(
            settings.redis.address, socket_timeout=REDIS_TIMEOUT_S, socket_connect_timeout=REDIS_TIMEOUT_S
        )
        self._rates = rates_of(plan.pipeline, settings, clock)
        self._limits = limits(plan, settings)
        self._scoring = self._step(plan, reader)

    def run(self) -> None:
        """Until told to stop: load the model, then one session after the other."""
        self._probe.check("redis", self._ping)
        self._waiting(self._control.start, "waiting for the model")
        self._probe.check("model", self._has_model)
        self._watch_rates()
        collector.calm()  # once: what a session leaves behind must not be kept for good
        try:
            while not self._stop.is_set():
                self._waiting(self._session, "joining")
        finally:
            self._control.close()
            self._redis.close()

    def _watch_rates(self) -> None:
        name, settings = self._plan.pipeline, self._settings
        raised = RaisedAlerts(self._redis, source=name, instance=self._control.instance)
        RateAlerts(
            self._rates, raised, pipeline=name, settings=settings, clock=self._clock, stop=self._stop
        ).start()

    def _waiting(self, attempt: Any, reason: str) -> None:
        """Try until it returns or the worker is told to stop; bounded backoff between attempts."""
        wait_s = BACKOFF_FIRST_S
        while not self._stop.is_set():
            began = self._clock.monotonic()
            self._probe.set_ready(False, reason)
            try:
                attempt()
                return
            except MillstreamError as error:
                if self._clock.monotonic() - began > BACKOFF_LONGEST_S:
                    wait_s = BACKOFF_FIRST_S  # it had worked for a while
                _LOG.warning(reason, error=str(error), retry_in_s=wait_s)
                self._probe.set_ready(False, error.what)
            until = self._clock.monotonic() + wait_s
            while self._clock.monotonic() < until and not self._stop.wait(0.5):
                self._probe.beat("loop")
            wait_s = min(wait_s * 2, BACKOFF_LONGEST_S)

    def _step(self, plan: ServedPlan, reader: FeatureReader | None) -> StreamStep:
        if isinstance(plan, ForecastPlan):
            return Forecasting(
                DeclaredForecast(
                    pipeline=plan.pipeline,
                    scale=plan.scale,
                    horizons=plan.horizons,
                    every=plan.every,
                    unit=plan.unit,
                ),
                clock=self._clock,
            )
        return Scoring(
            Declared(
                pipeline=plan.pipeline,
                entity=self._decoder.spec.entity or "",
                time=self._decoder.spec.time or "",
                features=tuple(plan.view.feature_names),
                bands=plan.bands,
                batch=self._limits.batch,
            ),
            clock=self._clock,
            reader=reader or OnlineFeatures(self._redis, plan),
        )

    def _session(self) -> None:
        plan, settings = self._plan, self._settings
        metrics.SESSIONS.labels(plan.pipeline).inc()
        dedupe = Dedupe(horizon(settings))
        dead: set[tuple[int, int]] = set()
        outbox = SessionOutbox(
            Outbox(lambda: broker.producer(settings, **PRODUCER_SETTINGS)),
            topic=plan.results.name,
            job=self._name,
            clock=self._clock,
            dead=dead,
        )
        host = Host(
            connect=self._consumer,
            outbox=outbox,
            work=BatchWork(
                decoder=self._decoder,
                encoder=self._encoder,
                dedupe=dedupe,
                scoring=self._scoring,
                clock=self._clock,
                rates=self._rates,
            ),
            serving=self._serving,
            readback=Readback(self._tail_reader, clock=self._clock),
            results_codec=self._encoder,
            dead=dead,
            route=Route(
                pipeline=plan.pipeline,
                source=plan.given.name,
                results=plan.results.name,
                dead_letters=plan.given.dlq.name,
            ),
            limits=self._limits,
            clock=self._clock,
            probe=self._probe,
            stop=self._stop,
        )
        try:
            host.run()
        except BaseException:
            outbox.discard()
            raise

    def _consumer(self, committed: Any) -> Consumer:
        return broker.consumer(
            self._settings,
            self._name,
            on_commit=committed,
            partition_assignment_strategy="cooperative-sticky",
            session_timeout_ms=SESSION_MS,
            **broker.gathering(GATHER_MS),
        )

    def _tail_reader(self) -> Consumer:
        return broker.consumer(self._settings, None, enable_partition_eof=True)

    def _ping(self) -> None:
        self._redis.ping()

    def _has_model(self) -> None:
        _ = self._serving.current


def limits(plan: ServedPlan, settings: Settings) -> Limits:
    """The plan's batch and wait, unless the settings give their own.

    What waits already is worked in bites of up to `BACKLOG` batches; the wait is the same, so only a backlog
    makes them larger. At 4,096 the CPU per record is a third below that at 512: fewer calls on cold caches.
    """
    own = settings.worker.model_fields_set
    wait = plan.infer.wait
    return Limits(
        batch=settings.worker.batch if "batch" in own else min(plan.infer.batch * BACKLOG, MAX_BATCH),
        wait_s=settings.worker.wait_ms / 1000 if "wait_ms" in own else wait.total_seconds(),
        commit_s=settings.worker.commit_interval_s,
    )


def horizon(settings: Settings) -> Horizon:
    """Three checkpoint intervals: what Flink emits again after a failure was emitted since its last
    checkpoint, and one more may have been under way."""
    return Horizon(age=CHECKPOINTS * timedelta(seconds=settings.flink.checkpoint_interval_s))


def _codec(topic: Topic, registry: SchemaRegistry) -> RecordCodec[Any]:
    if topic.record is None:
        raise DeclarationError(f"topic {topic.name} has no record", mend="declare it with one")
    return RecordCodec(topic.record, registry, topic.subject, max_bytes=topic.max_bytes)


def stored_models(plan: ServedPlan, settings: Settings) -> ModelSource:
    """The versions of the plan's model in the registry of the settings; those that do not fit are refused."""
    registry = Following(open_registry(settings))
    return StoredModels(registry, plan.infer.model, check=lambda stored: require_compatible(stored, plan))


def _stopper(stop: threading.Event) -> Any:
    def on_signal(number: int, frame: FrameType | None) -> None:
        del number, frame
        stop.set()

    return on_signal
