"""The controller process: one loop that reads commands and states, decides, and publishes.

There may be several such processes; the one that has the only partition of the commands topic works, the
others wait for it. Its state is what is on Kafka: after a crash the next one reads the routings and goes on
with whatever operation they show. A process that lost its partition without noticing is fenced by the
revision: readers take the first record of a revision, and the one at work writes its own again, above it.

Delivery promise: a command's offset is committed after its routing, replies and alerts were acknowledged; a
command that comes again is known by its id.
"""

import os
import signal
import socket
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import timedelta
from types import FrameType
from typing import Any, Protocol

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition
from msgspec.structs import replace

from core import collector
from core.clock import Clock, SystemClock
from core.errors import MillstreamError, Unavailable
from core.settings import Settings
from core.telemetry.log import logger
from core.telemetry.probe import Probe, ProbeServer
from jobs.rollout.aliases import AliasMove, alias_move
from jobs.rollout.control import champion_moved, commanded, passed
from jobs.rollout.decision import NOTHING, Decision, Rules
from jobs.rollout.operations import CHAMPION
from jobs.rollout.registry_watch import AliasWatch, ModelNames
from jobs.rollout.registry_writer import RegistryWriter, RegistryWrites, Served, figures_of
from models.registry import RegistryChange, RegistryWatch, open_registry
from operators.generate import PIPELINE as PROMPTS
from pipelines.outbox import RecordOutbox, codec_of
from pipelines.serving.fleet import Fleet
from pipelines.serving.log import ServingLog
from schemas import broker
from schemas.catalog.alerts import ALERTS
from schemas.catalog.models import COMMANDS, REPLIES, ROUTING, STATES, ModelCommand, ModelState, Routing
from schemas.dead_letters import dead_letter
from schemas.record import Record
from schemas.registry import SchemaRegistry

_LOG = logger("rollout")
GROUP = "millstream-rollout"
JOB = "rollout"
SESSION_MS = 6000
LEASE_S, ASK_S = 4.0, 1.0
IDLE_S, BUSY_S = 0.1, 0.02
CATCH_UP_S = 30.0
MINUTE_S = 60.0
BACKOFF_FIRST_S, BACKOFF_LONGEST_S = 0.5, 10.0


class Aliases(ModelNames, RegistryWrites, Protocol):
    """A registry, as far as the controller reads and writes it."""


def run(settings: Settings, *, registry: Aliases | None = None) -> None:
    """Control until SIGTERM or SIGINT. Call it from the main thread: it installs signal handlers. `registry`:
    another one than that of the settings."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stopper(stop))
    probe = Probe()
    probe.beat("loop")
    server = ProbeServer(probe).start()
    clock = SystemClock()
    if registry is None:  # read from the cache, which this process keeps up with MLflow
        models = open_registry(settings)
        watch = AliasWatch(models.cache, every_s=settings.rollout.poll_s)
        writer = RegistryWriter(models, watch.look, clock=clock)

        def tell(change: RegistryChange) -> None:
            _tell(change)
            watch.wake()

        changes = RegistryWatch(models, timedelta(seconds=settings.mlflow.poll_s), tell)
        changes.start()
        news, ends = changes.wake, [changes.stop]
    else:
        watch = AliasWatch(registry, every_s=settings.rollout.poll_s)
        writer = RegistryWriter(registry, watch.look, clock=clock)
        news, ends = watch.wake, []
    watch.start()
    writer.start()
    collector.calm()
    try:
        Controller(settings, watch, writer, news, clock=clock, probe=probe, stop=stop).run()
    finally:
        for end in (writer.stop, watch.stop, *ends):
            end()
        probe.close()
        server.stop()
    _LOG.info("controller stopped")


def _tell(change: RegistryChange) -> None:
    """What changed in MLflow is in the cache now."""
    _LOG.info(
        "registry changed",
        model=change.name,
        kind=change.kind,
        version=change.version,
        alias=change.alias,
        refused=change.problem.what if change.problem else None,
    )


def rules_of(settings: Settings) -> Rules:
    given = settings.rollout
    return Rules(
        min_health=given.min_health,
        max_error_rate=given.max_error_rate,
        min_records=given.min_records,
        kept=given.kept_versions,
        standby=given.standby_versions,
        patience=timedelta(seconds=given.patience_s),
    )


class Controller:
    """Sessions, one after the other; each begins with what is on Kafka. `news` has the registry looked at."""

    def __init__(
        self,
        settings: Settings,
        watch: AliasWatch,
        writer: RegistryWriter,
        news: Callable[[], None],
        *,
        clock: Clock,
        probe: Probe,
        stop: threading.Event,
    ) -> None:
        self._settings = settings
        self._watch = watch
        self._writer = writer
        self._news = news
        self._clock = clock
        self._probe = probe
        self._stop = stop
        self._rules = rules_of(settings)
        self._registry = SchemaRegistry.of(settings)
        self._commands = codec_of(COMMANDS, self._registry)
        self._name = f"{socket.gethostname()}:{os.getpid()}"
        self._fleets: dict[str, Fleet] = {}
        self._contested: set[str] = set()
        self._mine = self._joined = False
        self._polled_at = 0.0
        self._logged_at = clock.monotonic()

    def run(self) -> None:
        wait_s = BACKOFF_FIRST_S
        while not self._stop.is_set():
            self._probe.set_ready(False, "joining")
            began = self._clock.monotonic()
            try:
                self._session()
            except (MillstreamError, KafkaException) as error:
                if self._clock.monotonic() - began > BACKOFF_LONGEST_S:
                    wait_s = BACKOFF_FIRST_S
                _LOG.warning("session ended", error=str(error), retry_in_s=wait_s)
                until = self._clock.monotonic() + wait_s
                while self._clock.monotonic() < until and not self._stop.wait(0.2):
                    self._probe.beat("loop")
                wait_s = min(wait_s * 2, BACKOFF_LONGEST_S)

    def _session(self) -> None:
        group = broker.consumer(
            self._settings,
            GROUP,
            session_timeout_ms=SESSION_MS,
            partition_assignment_strategy="cooperative-sticky",  # control stays where it is
        )
        outbox: RecordOutbox | None = None
        log: ServingLog | None = None
        self._mine = self._joined = False
        try:
            if group.list_topics(COMMANDS.name, timeout=5.0).topics[COMMANDS.name].error is not None:
                raise Unavailable(f"topic {COMMANDS.name} is not there", mend="run `millstream apply`")
            outbox = RecordOutbox(self._settings, self._registry, source=self._name)
            group.subscribe(
                [COMMANDS.name], on_assign=self._taken, on_revoke=self._given, on_lost=self._given
            )
            while not self._stop.is_set():
                messages = self._consume(group)
                if not self._mine:
                    self._probe.set_ready(self._joined, "joining")  # to take over
                    if log is not None:
                        self._writer.hold()
                        log.close()
                        log = None
                    continue
                if log is None:
                    log = ServingLog(
                        self._settings, (ROUTING, STATES), clock=self._clock, registry=self._registry
                    )
                    self._fleets, self._contested = {}, set()
                    self._read(log.catch_up(CATCH_UP_S))
                    _LOG.info("in control", models=sorted(self._fleets), name=self._name)
                self._read(log.read(BUSY_S if self._busy() else IDLE_S))
                self._turn(group, outbox, messages)
        finally:
            self._writer.hold()
            if log is not None:
                log.close()
            if outbox is not None:
                outbox.close()
            group.close()

    def _consume(self, group: Consumer) -> list[Message]:
        self._probe.beat("loop")
        messages: list[Message] = group.consume(100, timeout=0.0 if self._mine else 0.2)
        self._polled_at = self._clock.monotonic()
        for message in messages:
            error = message.error()
            if error is not None and error.fatal():
                raise KafkaException(error)
        return [message for message in messages if message.error() is None]

    def _turn(self, group: Consumer, outbox: RecordOutbox, messages: Sequence[Message]) -> None:
        moving = self._writer.hold()
        for message in messages:
            self._command(group, outbox, message)
            if self._mine:  # one by one: the routing knows the last command alone when it comes again
                done = TopicPartition(COMMANDS.name, message.partition(), message.offset() + 1)
                group.commit(offsets=[done], asynchronous=False)
        now = self._clock.now()
        for model, version in self._champions().items():
            if model != moving:
                fleet = self._fleet(model)
                self._publish(group, outbox, champion_moved(fleet, model, version, now, self._rules))
        for model in list(self._fleets):
            self._publish(group, outbox, passed(self._fleet(model), self._clock.now(), self._rules))
        for model in list(self._contested):
            self._assert_own(group, outbox, model)
        if self._mine:
            self._writer.want(self._moves())
        self._probe.set_ready(self._settled(), "the registry's champions are not routed yet")
        if self._clock.monotonic() - self._logged_at >= MINUTE_S:
            self._logged_at = self._clock.monotonic()
            self._log_figures()

    def _command(self, group: Consumer, outbox: RecordOutbox, message: Message) -> None:
        try:
            command: Record = self._commands.decode(message.value())
        except Unavailable:
            raise
        except MillstreamError as error:
            client = broker.producer(self._settings)
            dead_letter(client, message, error.code, error.what, "decode", JOB, clock=self._clock)
            if client.flush(10.0):
                raise Unavailable("a dead letter was not acknowledged", where=COMMANDS.dlq.name) from error
            return
        if not isinstance(command, ModelCommand):
            return
        if command.kind == "look":
            self._news()
        elif self._fleet(command.model).routing is None:
            self._route_new(group, outbox, command.model)
        needed = command.kind in ("load", "deploy")
        registered = self._registered(command) if needed else None
        fleet, now = self._fleet(command.model), self._clock.now()
        decision = commanded(fleet, command, now, self._rules, registered=registered)
        _LOG.info(
            "command", command=command.id, kind=command.kind, model=command.model, sender=command.sender
        )
        self._publish(group, outbox, decision)

    def _route_new(self, group: Consumer, outbox: RecordOutbox, model: str) -> None:
        """A model whose first champion came to the registry since the last look."""
        version = self._champions().get(model) if model == PROMPTS else self._watch.champion_of(model)
        if version is not None:
            now = self._clock.now()
            moved = champion_moved(self._fleet(model), model, version, now, self._rules)
            self._publish(group, outbox, moved)

    def _champions(self) -> Mapping[str, str]:
        """Those of the registry; and of LLMs, which are in no registry, the first that the settings name, as
        soon as a process answers by them."""
        if not self._fleet(PROMPTS).states:
            return self._watch.champions
        return {**self._watch.champions, PROMPTS: self._settings.llm.addresses[0][0]}

    def _registered(self, command: ModelCommand) -> Collection[str] | None:
        if command.model == PROMPTS:
            return [model for model, _ in self._settings.llm.addresses]
        return self._watch.registered(command.model, command.version)

    def _publish(self, group: Consumer, outbox: RecordOutbox, decision: Decision) -> None:
        if decision is NOTHING or not self._still_mine(group):
            return
        if decision.routing is not None:
            routing = replace(decision.routing, controller=self._name)
            outbox.publish(ROUTING, [routing])
            self._fleets[routing.model] = self._fleets.get(routing.model, Fleet()).routed(routing)
            _LOG.info("routed", model=routing.model, revision=routing.revision, reason=routing.reason)
        if decision.replies:
            outbox.publish(REPLIES, decision.replies)
        if decision.alerts:
            outbox.publish(ALERTS, decision.alerts)

    def _still_mine(self, group: Consumer) -> bool:
        """Asked after a long silence, that of a process that was stopped: lets the client find out whether
        another one is in control now."""
        if self._clock.monotonic() - self._polled_at > LEASE_S:
            until = self._clock.monotonic() + ASK_S
            while (left := until - self._clock.monotonic()) > 0 and self._mine:
                message = group.poll(min(left, 0.2))
                if message is not None and message.error() is None:
                    group.seek(TopicPartition(COMMANDS.name, message.partition(), message.offset()))
            self._polled_at = self._clock.monotonic()
        return self._mine

    def _read(self, records: Sequence[tuple[Record, int]]) -> None:
        for record, _ in records:
            if isinstance(record, ModelState):
                self._fleets[record.model] = self._fleets.get(record.model, Fleet()).told(record)
            elif isinstance(record, Routing):
                fleet = self._fleets.get(record.model, Fleet())
                known = fleet.routing
                if known is not None and record.revision <= known.revision and record != known:
                    if record.controller not in (known.controller, self._name):
                        self._contested.add(record.model)
                    continue
                self._fleets[record.model] = fleet.routed(record)

    def _assert_own(self, group: Consumer, outbox: RecordOutbox, model: str) -> None:
        """Another process wrote a revision that was written before. Compaction would keep the later record,
        so the routing that counts is written once more, above both."""
        self._contested.discard(model)
        routing = self._fleets[model].routing
        if routing is None:
            return
        _LOG.warning("another controller wrote a revision again", model=model, revision=routing.revision)
        revision = routing.revision + 1
        again = replace(routing, revision=revision, id=f"{model}:{revision}", decided_at=self._clock.now())
        self._publish(group, outbox, Decision(again))

    def _fleet(self, model: str) -> Fleet:
        return self._fleets.get(model, Fleet()).living(self._clock.now())

    def _moves(self) -> list[AliasMove]:
        """What the registry's aliases should be moved to."""
        found = []
        for model, seen in self._watch.aliases.items():
            routing = self._fleets[model].routing if model in self._fleets else None
            move = None if routing is None else alias_move(routing, seen)
            if move is not None:
                found.append(move)
        return found

    def _settled(self) -> bool:
        """Whether every champion of the registry was acted on: workers that start now start with it."""
        if not self._watch.looked:
            return False
        for model, version in self._watch.champions.items():
            routing = self._fleets[model].routing if model in self._fleets else None
            if routing is None or version not in (routing.champion, *routing.promoted):
                return False
            if routing.operation is not None and routing.operation.kind == CHAMPION:
                return False
        return True

    def _busy(self) -> bool:
        return any(fleet.routing and fleet.routing.operation for fleet in self._fleets.values())

    def _log_figures(self) -> None:
        now = self._clock.now()
        for model in self._fleets:
            if model == PROMPTS:
                continue  # no registry has it
            fleet = self._fleet(model)
            for version in fleet.versions:
                view = fleet.view(version)
                if view is not None and view.records + view.errors:
                    self._writer.log(Served(model, version, figures_of(view), now))

    def _taken(self, consumer: Consumer, partitions: Sequence[TopicPartition]) -> None:
        consumer.incremental_assign(list(partitions))
        self._mine, self._joined = self._mine or bool(partitions), True

    def _given(self, consumer: Consumer, partitions: Sequence[TopicPartition]) -> None:
        consumer.incremental_unassign(list(partitions))
        if partitions:
            self._mine = False
            _LOG.info("control was given away", name=self._name)


def _stopper(stop: threading.Event) -> Any:
    def on_signal(number: int, frame: FrameType | None) -> None:
        del number, frame
        stop.set()

    return on_signal
