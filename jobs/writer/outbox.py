"""Producing with a promise: `settle` returns only when the brokers have acknowledged every message."""

import time
from collections.abc import Callable
from typing import Any

from confluent_kafka import KafkaException, Producer

from core.errors import Unavailable
from schemas.dead_letters import KafkaMessage, Stage, dead_letter
from schemas.headers import Headers

UNKNOWN_PARTITION = -1
SETTLE_S = 10.0


class Outbox:
    """One thread's producer. After any failure it is discarded with what it still held, and the caller
    sends the same messages again: delivery is at least once, and every reader takes the first.
    """

    def __init__(self, connect: Callable[[], Producer], *, settle_s: float = SETTLE_S) -> None:
        self._connect = connect
        self._settle_s = settle_s
        self._producer: Producer | None = None
        self._unsettled = 0
        self._error: str | None = None

    def open(self, topic: str) -> None:
        """Connect ahead of the first message; raises Unavailable when the brokers do not answer."""
        try:
            self._open().list_topics(topic=topic, timeout=5.0)
        except KafkaException as problem:
            self.discard()
            raise Unavailable(f"Kafka does not answer: {problem}", code="kafka_unavailable") from problem

    def send(
        self, topic: str, *, key: str, value: bytes, headers: Headers, partition: int = UNKNOWN_PARTITION
    ) -> None:
        """Queue one message; `partition` -1 leaves the choice to the key. Raises Unavailable when full."""
        more: dict[str, Any] = {} if partition == UNKNOWN_PARTITION else {"partition": partition}
        try:
            self._open().produce(
                topic, key=key.encode(), value=value, headers=headers, on_delivery=self._delivered, **more
            )
        except (BufferError, KafkaException) as problem:
            self.discard()
            raise Unavailable(f"Kafka takes no message: {problem}", code="kafka_unavailable") from problem
        self._unsettled += 1

    def dead_letter(self, message: KafkaMessage, *, code: str, reason: str, stage: Stage, job: str) -> None:
        """Queue the message for its dead-letter topic, bytes unchanged."""
        try:
            dead_letter(self._open(), message, code, reason, stage, job, on_delivery=self._delivered)
        except (BufferError, KafkaException) as problem:
            self.discard()
            raise Unavailable(f"Kafka takes no dead letter: {problem}", code="kafka_unavailable") from problem
        self._unsettled += 1

    def settle(self) -> None:
        """Wait until all sent messages are acknowledged; raises Unavailable when one is not, in time."""
        if self._unsettled == 0:
            return
        deadline = time.monotonic() + self._settle_s
        producer = self._open()
        while self._unsettled and self._error is None:
            left = deadline - time.monotonic()
            if left <= 0:
                self._error = f"no acknowledgement within {self._settle_s:.0f} s"
                break
            producer.poll(min(left, 0.1))
        if self._error is not None:
            error = self._error
            self.discard()
            raise Unavailable(f"Kafka: {error}", code="kafka_unavailable")

    def discard(self) -> None:
        """Drop the producer and whatever it holds."""
        producer, self._producer = self._producer, None
        self._unsettled, self._error = 0, None
        if producer is not None:
            producer.purge()

    def _open(self) -> Producer:
        if self._producer is None:
            self._producer = self._connect()
        return self._producer

    def _delivered(self, error: Any, message: Any) -> None:
        if error is not None:
            self._error = self._error or str(error)
        self._unsettled -= 1
