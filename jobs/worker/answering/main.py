"""The answering process: the second host of a scoring pipeline's worker, alone in its process.

Alone, because a batch of the stream holds the interpreter for tens of milliseconds, which is what a request
has altogether (docs/adr/0015).
"""

import asyncio
import os
import signal
import socket
import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import redis
import redis.asyncio
import uvloop
from confluent_kafka import Consumer

from core import collector
from core.clock import Clock, SystemClock
from core.errors import MillstreamError
from core.settings import Settings
from core.telemetry.log import logger
from core.telemetry.probe import Probe, ProbeServer
from jobs.worker.answering import metrics
from jobs.worker.answering.asked_step import AskedStep
from jobs.worker.answering.replies import Replies
from jobs.worker.answering.scoring import ScoringAnswerer
from jobs.worker.answering.session import LEAVE_S, Session
from jobs.worker.answering.works import Rules, Works
from jobs.worker.control import control_of
from jobs.worker.main import (
    BACKOFF_FIRST_S,
    BACKOFF_LONGEST_S,
    REDIS_TIMEOUT_S,
    SESSION_MS,
    OnlineFeatures,
    stored_models,
)
from jobs.worker.rate_alerts import RateAlerts, rates_of
from jobs.worker.scoring import Declared
from jobs.worker.serving import ModelSource
from operators.asking import Answerer
from pipelines.asking.outcomes import InMemoryOutcomes, RedisOutcomes
from pipelines.on_redis.raised import RaisedAlerts
from pipelines.plan import ScoringPlan
from schemas import broker
from schemas.catalog.asking import REPLIES, Ask, Reply
from schemas.codec import RecordCodec
from schemas.registry import SchemaRegistry
from schemas.topic import Topic

_LOG = logger("answering")
BATCH = 256


def run(plan: ScoringPlan, settings: Settings, *, source: ModelSource | None = None) -> None:
    """Answer those who ask `plan` until SIGTERM or SIGINT; then finish what was begun, commit, leave.

    Serves `/health`, `/ready` and `/metrics` from the start; what is away is waited for. `source` replaces
    the model registry of the settings. Call it from the main thread: it installs signal handlers.
    """
    probe = Probe()
    probe.beat("loop")
    server = ProbeServer(probe).start()
    try:
        uvloop.run(_scoring(plan, settings, source or stored_models(plan, settings), probe))
    finally:
        probe.close()
        server.stop()
    _LOG.info("stopped", pipeline=plan.pipeline)


async def _scoring(plan: ScoringPlan, settings: Settings, source: ModelSource, probe: Probe) -> None:
    clock = SystemClock()
    stop = stopped_by_signal()
    client = redis.Redis.from_url(
        settings.redis.address, socket_timeout=REDIS_TIMEOUT_S, socket_connect_timeout=REDIS_TIMEOUT_S
    )
    probe.check("redis", lambda: _ping(client))
    control = control_of(
        settings,
        SchemaRegistry.of(settings),
        source,
        model=plan.infer.model,
        pipeline=plan.pipeline,
        clock=clock,
        stop=stop,
    )
    host = AnsweringHost(
        settings, plan.pipeline, plan.requests, clock=clock, probe=probe, stop=stop, looks_first=False
    )
    await host.waiting(control.start, "waiting for the model")
    declared = Declared(
        pipeline=plan.pipeline,
        entity=plan.view.single_entity,
        time=plan.view.time,
        features=tuple(plan.view.feature_names),
        bands=plan.bands,
        batch=BATCH,
    )

    def step(fields: Sequence[str]) -> AskedStep:
        return AskedStep(declared, fields, clock=clock, reader=OnlineFeatures(client, plan))

    answerer = ScoringAnswerer(plan, step, control.serving, batch=BATCH, clock=clock, rates=host.rates)
    try:
        await host.run(answerer)
    finally:
        answerer.close()
        control.close()
        client.close()


def stopped_by_signal() -> threading.Event:
    """An event that SIGTERM and SIGINT set; call it in the loop of the main thread."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


class AnsweringHost:
    """Sessions, one after the other, for any answerer. `ordered`, `looks_first` as in `Rules`. `rates` counts
    what was answered; an answerer may count there what its operators did."""

    def __init__(
        self,
        settings: Settings,
        pipeline: str,
        requests: Topic,
        *,
        clock: Clock,
        probe: Probe,
        stop: threading.Event,
        ordered: bool = False,
        looks_first: bool = True,
    ) -> None:
        self._settings = settings
        self._requests = requests
        self._name = f"{pipeline}-answering"
        self.rates = rates_of(pipeline, settings, clock)
        frame_s = settings.asking.frame_ms / 1000
        self._rules = Rules(pipeline, frame_s=frame_s, ordered=ordered, looks_first=looks_first)
        self._clock = clock
        self._probe = probe
        self._stop = stop
        registry = SchemaRegistry.of(settings)
        self._asks: RecordCodec[Ask] = RecordCodec(
            Ask, registry, requests.subject, max_bytes=requests.max_bytes
        )
        self._answers: RecordCodec[Reply] = RecordCodec(
            Reply, registry, REPLIES.subject, max_bytes=REPLIES.max_bytes
        )
        self._ttl = timedelta(seconds=settings.asking.outcome_ttl_s)
        self._recent = InMemoryOutcomes(ttl=self._ttl, clock=clock)

    async def run(self, answerer: Answerer) -> None:
        """Until told to stop. What fails is tried again with bounded backoff."""
        cache = redis.asyncio.Redis.from_url(
            self._settings.redis.address, socket_connect_timeout=REDIS_TIMEOUT_S
        )
        store = RedisOutcomes(cache, ttl=self._ttl, clock=self._clock)
        client = redis.Redis.from_url(
            self._settings.redis.address,
            socket_timeout=REDIS_TIMEOUT_S,
            socket_connect_timeout=REDIS_TIMEOUT_S,
        )
        self._watch_rates(client)
        collector.calm()
        try:
            while not self._stop.is_set():
                await self._session(answerer, store)
        finally:
            client.close()
            await cache.aclose()

    def _watch_rates(self, client: redis.Redis) -> None:
        name = self._rules.pipeline
        instance = f"{self._name}@{socket.gethostname()}:{os.getpid()}"
        RateAlerts(
            self.rates,
            RaisedAlerts(client, source=name, instance=instance),
            pipeline=name,
            settings=self._settings,
            clock=self._clock,
            stop=self._stop,
        ).start()

    async def waiting(self, attempt: Callable[[], None], reason: str) -> None:
        """Run what blocks in a thread until it returns or the host is told to stop; bounded backoff."""
        wait_s = BACKOFF_FIRST_S
        while not self._stop.is_set():
            began = self._clock.monotonic()
            self._probe.set_ready(False, reason)
            try:
                await asyncio.to_thread(attempt)
                return
            except MillstreamError as error:
                if self._clock.monotonic() - began > BACKOFF_LONGEST_S:
                    wait_s = BACKOFF_FIRST_S  # it had worked for a while
                _LOG.warning(reason, error=str(error), retry_in_s=wait_s)
                self._probe.set_ready(False, error.what)
            until = self._clock.monotonic() + wait_s
            while self._clock.monotonic() < until and not self._stop.is_set():
                self._probe.beat("loop")
                await asyncio.sleep(0.1)
            wait_s = min(wait_s * 2, BACKOFF_LONGEST_S)

    async def _session(self, answerer: Answerer, store: RedisOutcomes) -> None:
        """One session; a failed one is waited for as a failed start is."""
        await self.waiting(lambda: self._warm(), "waiting for the registry")
        if self._stop.is_set():
            return
        metrics.SESSIONS.labels(self._rules.pipeline).inc()
        producer = broker.asking_producer(self._settings)
        session: Session | None = None

        def done(place: Any) -> None:
            if session is not None:
                session.done(place)

        def broken(reason: str) -> None:
            if session is not None:
                session.broken(reason)

        replies = Replies(
            producer, self._answers, pipeline=self._rules.pipeline, clock=self._clock, broken=broken
        )
        works = Works(
            answerer,
            replies,
            store=store,
            recent=self._recent,
            rules=self._rules,
            clock=self._clock,
            rates=self.rates,
            done=done,
        )
        session = Session(
            connect=self._consumer,
            producer=producer,
            codec=self._asks,
            source=self._requests.name,
            replies=REPLIES.name,
            works=works,
            loop=asyncio.get_running_loop(),
            most=self._settings.asking.in_flight,
            commit_s=self._settings.worker.commit_interval_s,
            job=self._name,
            clock=self._clock,
            probe=self._probe,
            stop=self._stop,
        )
        try:
            await asyncio.to_thread(session.run)
        except MillstreamError as error:
            _LOG.warning("the session ended", error=str(error))
            self._probe.set_ready(False, error.what)
            works.abandon()
            await works.idle(LEAVE_S)
            producer.purge()
            await asyncio.sleep(BACKOFF_FIRST_S)

    def _warm(self) -> None:
        """Ask the registry now what the loop would wait for later."""
        self._asks.warm()
        self._answers.warm()

    def _consumer(self) -> Consumer:
        return broker.consumer(
            self._settings,
            self._name,
            partition_assignment_strategy="cooperative-sticky",
            session_timeout_ms=SESSION_MS,
        )


def _ping(client: redis.Redis) -> None:
    client.ping()
