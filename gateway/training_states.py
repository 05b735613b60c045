"""How trainings stand, followed on their topics and kept in memory: the last state of each.

A job that was asked for and that no scheduler has taken yet stands as `scheduled`.
"""

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from core.errors import MillstreamError, Unavailable
from core.settings import Settings
from core.telemetry.log import logger
from schemas.broker import consumer, watermarks
from schemas.catalog.training import COMMANDS, STATUS, SYSTEM_TENANT, TrainingCommand, TrainingStatus
from schemas.codec import RecordCodec
from schemas.record import Record
from schemas.registry import SchemaRegistry

MOST_JOBS = 10_000
SCHEDULED = "scheduled"
_POLL_S, _AGAIN_S, _BOUNDS_S = 0.2, 1.0, 2.0
_log = logger("gateway.training")


@dataclass(frozen=True)
class Job:
    """A training as clients see it. Times are UTC."""

    id: str
    model: str
    state: str
    asked_by: str
    created_at: datetime
    status: TrainingStatus | None = None


class TrainingStates:
    """Follows both topics in a thread of its own, from their beginning. The rest is for any thread."""

    def __init__(self, settings: Settings, connect: Callable[[], Consumer] | None = None) -> None:
        self._settings = settings
        self._connect = connect or (lambda: consumer(settings, None))
        self._jobs: dict[tuple[str, str], Job] = {}
        self._mutex = threading.Lock()
        self._trouble = ""
        self._complete, self._stopping = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="training-states", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._stopping.set()
        self._thread.join(timeout=5.0)

    def job(self, tenant: str, id: str) -> Job | None:
        """The tenant's own job, or one of the schedule. Raises Unavailable before the topics were read."""
        self._require()
        with self._mutex:
            return self._jobs.get((tenant, id)) or self._jobs.get((SYSTEM_TENANT, id))

    def jobs(self, tenant: str, *, most: int) -> list[Job]:
        """The tenant's own jobs and those of the schedule, newest first. Raises Unavailable as `job` does."""
        self._require()
        with self._mutex:
            found = [job for (owner, _), job in self._jobs.items() if owner in (tenant, SYSTEM_TENANT)]
        return sorted(found, key=lambda job: (job.created_at, job.id), reverse=True)[:most]

    def took(self, tenant: str, job: Job) -> None:
        """A job that was just asked for: to be seen before its command comes back."""
        with self._mutex:
            self._keep((tenant, job.id), job)

    def _require(self) -> None:
        if not self._complete.is_set():
            raise Unavailable(
                "the states of trainings are not read yet", code="training_unavailable", retry_after_s=1.0
            )

    def _run(self) -> None:
        while not self._stopping.is_set():
            registry = SchemaRegistry.of(self._settings)
            reader = self._connect()
            try:
                self._follow(reader, registry)
            except (KafkaException, MillstreamError) as error:
                self._warn(str(error)[:200])
                self._stopping.wait(_AGAIN_S)
            finally:
                reader.close()
                registry.close()

    def _warn(self, reason: str) -> None:
        """Once, until it is another reason, or trainings were followed in between."""
        if reason != self._trouble:
            self._trouble = reason
            _log.warning("trainings cannot be followed; trying again", reason=reason)

    def _follow(self, reader: Consumer, registry: SchemaRegistry) -> None:
        codecs: dict[str, RecordCodec[Record]] = {
            COMMANDS.name: RecordCodec(TrainingCommand, registry, COMMANDS.subject),
            STATUS.name: RecordCodec(TrainingStatus, registry, STATUS.subject),
        }
        left = {}
        for topic in codecs:
            low, high = watermarks(reader, TopicPartition(topic, 0), _BOUNDS_S)
            if low < high:
                left[topic] = high
        reader.assign([TopicPartition(topic, 0, 0) for topic in codecs])
        while not self._stopping.is_set():
            if not left:
                self._complete.set()
                self._trouble = ""
            for message in reader.consume(500, _POLL_S):
                self._read(message, codecs)
            places = reader.position([TopicPartition(topic, 0) for topic in left])
            left = {place.topic: left[place.topic] for place in places if place.offset < left[place.topic]}

    def _read(self, message: Message, codecs: dict[str, RecordCodec[Record]]) -> None:
        problem = message.error()
        if problem is not None:
            if problem.code() not in (KafkaError._PARTITION_EOF, KafkaError._AUTO_OFFSET_RESET):
                raise KafkaException(problem)
            return
        value, topic = message.value(), message.topic()
        if value is None or topic is None:
            return
        with suppress(MillstreamError):  # what is no record of the topic is the scheduler's to report
            record = codecs[topic].decode(value)
            with self._mutex:
                self._note(record)

    def _note(self, record: Record) -> None:
        key = (record.tenant, record.id)
        known = self._jobs.get(key)
        if isinstance(record, TrainingStatus):
            if known is None or known.status is None or known.status.changed_at <= record.changed_at:
                job = Job(record.id, record.model, record.state, record.asked_by, record.created_at, record)
                self._keep(key, job)
        elif isinstance(record, TrainingCommand) and record.kind == "train" and known is None:
            self._keep(key, Job(record.id, record.model, SCHEDULED, record.asked_by, record.asked_at))

    def _keep(self, key: tuple[str, str], job: Job) -> None:
        self._jobs[key] = job
        if len(self._jobs) > MOST_JOBS:
            oldest = min(self._jobs, key=lambda one: self._jobs[one].created_at)
            del self._jobs[oldest]
