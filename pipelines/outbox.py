"""Producing with a promise: `settle` returns only when the brokers have acknowledged every message."""

import functools
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from core.clock import Clock
from core.errors import InternalError, Unavailable
from core.settings import Settings
from schemas import broker
from schemas.codec import RecordCodec
from schemas.dead_letters import KafkaMessage, Stage, dead_letter
from schemas.headers import Headers, event_headers
from schemas.keys import key_of
from schemas.record import Record
from schemas.registry import SchemaRegistry
from schemas.topic import Topic

UNKNOWN_PARTITION = -1
OPEN_S, SETTLE_S, FULL_S = 5.0, 10.0, 60.0
_POLL_S = 0.05
_MEND = "look at the brokers; what was not acknowledged is sent again"


class Outbox:
    """One thread's producer. After any failure it is discarded with what it still held, and the caller
    sends the same messages again, with a new one: delivery is at least once, and every reader takes the
    first. Every method but `discard` raises Unavailable, and nothing waits without bound: `full_s` while the
    client's queue is full, `settle_s` for acknowledgements.
    """

    def __init__(
        self, connect: Callable[[], Producer], *, settle_s: float = SETTLE_S, full_s: float = FULL_S
    ) -> None:
        self._connect = connect
        self._settle_s = settle_s
        self._full_s = full_s
        self._producer: Producer | None = None
        self._topic = ""
        self._errors: list[KafkaError] = []

    def open(self, topic: str) -> None:
        """Connect ahead of the first message."""
        try:
            self._open().list_topics(topic=topic, timeout=OPEN_S)
        except KafkaException as error:
            raise self._failed(f"Kafka does not answer: {error}", topic) from error

    def send(
        self, topic: str, *, key: str, value: bytes, headers: Headers, partition: int = UNKNOWN_PARTITION
    ) -> None:
        """Queue one message; `partition` -1 leaves the choice to the key."""
        more: dict[str, Any] = {} if partition == UNKNOWN_PARTITION else {"partition": partition}
        producer = self._open()
        told = functools.partial(_note, self._errors)
        self._queue(
            topic,
            lambda: producer.produce(
                topic, key=key.encode(), value=value, headers=headers, on_delivery=told, **more
            ),
        )

    def send_batch(self, topic: str, messages: Sequence[dict[str, Any]], *, partition: int) -> None:
        """Queue many, each a dictionary of `value` and `key`, in one call of the client. The partition is
        that of all: confluent-kafka 2.16 takes one of each message, and leaves it unheeded."""
        producer, began, waiting = self._open(), time.monotonic(), messages
        told = functools.partial(_note, self._errors)
        while waiting:
            queued = producer.produce_batch(topic, waiting, partition, on_delivery=told)
            if queued == len(waiting):
                return
            waiting = [message for message in waiting if "_error" in message]
            for message in waiting:
                error = message.pop("_error")
                if error.code() != KafkaError._QUEUE_FULL:
                    raise self._failed(f"Kafka takes no message: {error.str()}", topic)
            self._await_room(topic, began)

    def dead_letter(
        self,
        message: KafkaMessage,
        *,
        code: str,
        reason: str,
        stage: Stage,
        job: str,
        clock: Clock | None = None,
    ) -> None:
        """Queue the message for its dead-letter topic, bytes unchanged."""
        producer = self._open()
        told = functools.partial(_note, self._errors)
        self._queue(
            f"{message.topic()}.dlq",
            lambda: dead_letter(producer, message, code, reason, stage, job, clock=clock, on_delivery=told),
        )

    def check(self) -> None:
        """Take note of what was acknowledged meanwhile."""
        if self._producer is not None:
            self._producer.poll(0)
        if self._errors:
            raise self._failed(f"Kafka did not take a message: {self._errors[0].str()}", self._topic)

    def settle(self, within_s: float | None = None) -> None:
        """Wait until all sent messages are acknowledged, at most so long; `settle_s` by default."""
        producer = self._producer
        if producer is None:
            return
        within_s = self._settle_s if within_s is None else within_s
        deadline = time.monotonic() + within_s
        while True:
            waiting = producer.flush(min(_POLL_S, max(deadline - time.monotonic(), 0)))
            self.check()
            if not waiting:
                return
            if time.monotonic() >= deadline:
                raise self._failed(
                    f"{waiting} messages were not acknowledged within {within_s:g} s", self._topic
                )

    def discard(self) -> None:
        """Drop the producer and whatever it holds."""
        producer, self._producer = self._producer, None
        self._errors = []
        if producer is not None:
            producer.purge()

    def _open(self) -> Producer:
        if self._producer is None:
            self._producer = self._connect()
        return self._producer

    def _queue(self, topic: str, produce: Callable[[], None]) -> None:
        began, self._topic = time.monotonic(), topic
        while True:
            try:
                produce()
                return
            except BufferError:
                self._await_room(topic, began)
            except KafkaException as error:
                raise self._failed(f"Kafka takes no message: {error}", topic) from error

    def _await_room(self, topic: str, began: float) -> None:
        self._topic = topic
        self._open().poll(_POLL_S)
        self.check()
        if time.monotonic() - began > self._full_s:
            raise self._failed(f"Kafka's send queue has been full for {self._full_s:g} s", topic)

    def _failed(self, what: str, topic: str) -> Unavailable:
        self.discard()
        return Unavailable(what, where=f"topic {topic}", mend=_MEND, code="kafka_unavailable")


class RecordOutbox:
    """Records on their way to the topics of their kind, encoded, keyed and with the headers of an event.

    For any thread: one publishes at a time. `source`: what the headers name as it.
    """

    def __init__(
        self, settings: Settings, registry: SchemaRegistry, *, source: str, settle_s: float = SETTLE_S
    ) -> None:
        self._outbox = Outbox(lambda: broker.producer(settings, linger_ms=0), settle_s=settle_s)
        self._registry = registry
        self._source = source
        self._codecs: dict[str, RecordCodec[Record]] = {}
        self._lock = threading.Lock()

    def publish(
        self,
        topic: Topic,
        records: Sequence[Record],
        *,
        entity: str | None = None,
        within_s: float | None = None,
    ) -> None:
        """Returns when all are acknowledged; raises Unavailable when they are not in time. With `within_s` 0
        they are only queued: for what is told again in a moment. `entity` is keyed by in place of theirs."""
        with self._lock:
            codec = self._codec(topic)
            spec = codec.spec
            for record in records:
                at = getattr(record, spec.time or "")
                self._outbox.send(
                    topic.name,
                    key=key_of(record.tenant, entity or getattr(record, spec.entity or "")),
                    value=codec.encode(record),
                    headers=event_headers(
                        id=record.id,
                        source=self._source,
                        type=spec.full_name,
                        time=at,
                        tenant=record.tenant,
                        received_at=at,
                    ),
                )
            if within_s == 0:
                self._outbox.check()
            else:
                self._outbox.settle(within_s)

    def close(self, within_s: float = 2.0) -> None:
        """Wait shortly for what was only queued; what is left then is dropped."""
        with self._lock:
            try:
                self._outbox.settle(within_s)
            except Unavailable:
                return
            self._outbox.discard()

    def _codec(self, topic: Topic) -> RecordCodec[Record]:
        if topic.name not in self._codecs:
            self._codecs[topic.name] = codec_of(topic, self._registry)
        return self._codecs[topic.name]


def codec_of(topic: Topic, registry: SchemaRegistry) -> RecordCodec[Record]:
    """The codec of a topic's records; InternalError for a topic without."""
    if topic.record is None:
        raise InternalError(f"topic {topic.name} has no record")
    return RecordCodec(topic.record, registry, topic.subject, max_bytes=topic.max_bytes)


def _note(errors: list[KafkaError], error: KafkaError | None, message: Message) -> None:
    del message
    if error is not None:
        errors.append(error)
