"""Outbox: results and dead letters on their way to Kafka, and whether all of them arrived.

Delivery promise: `settle` returns only when everything queued before it was acknowledged by all in-sync
replicas. After an error the outbox is useless by design: the session that owns it ends, and the next one
starts from the committed offsets.
"""

from collections.abc import Sequence
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from core.clock import Clock
from core.errors import Unavailable
from jobs.worker.batch import Outputs, Refused
from jobs.worker.inputs import Inputs
from schemas.dead_letters import dead_letter

PRODUCER_SETTINGS = {"delivery_report_only_error": True}
QUEUE_FULL_WAIT_S = 0.05


class Outbox:
    """Sends the outputs of one session. Results go to the partition number their input came from."""

    def __init__(
        self,
        producer: Producer,
        *,
        topic: str,
        job: str,
        clock: Clock,
        dead: set[tuple[int, int]],
        full_s: float = 60.0,
    ) -> None:
        self._producer = producer
        self._topic = topic
        self._job = job
        self._clock = clock
        self._dead = dead
        self._full_s = full_s
        self._error: KafkaError | None = None

    def send(self, inputs: Inputs, outputs: Outputs) -> None:
        """Queue everything. Waits while librdkafka's queue is full; raises Unavailable after `full_s`."""
        messages, partitions = inputs.messages, inputs.partitions
        keys = [message.key() for message in messages]
        if len(outputs.indexes) < len(messages):
            keys = [keys[index] for index in outputs.indexes]
            partitions = [partitions[index] for index in outputs.indexes]
        self._results(
            [
                {"value": value, "key": key, "partition": partition}
                for value, key, partition in zip(outputs.values, keys, partitions, strict=True)
            ]
        )
        for refused in outputs.refused:
            self._dead_letter(messages[refused.index], refused)
        self._producer.poll(0)
        self.check()

    def settle(self, timeout_s: float) -> None:
        """Wait until everything queued is acknowledged; raises Unavailable when it is not in time."""
        waiting = self._producer.flush(timeout_s)
        self.check()
        if waiting:
            raise Unavailable(
                f"{waiting} outputs were not acknowledged within {timeout_s:g} s",
                where=f"topic {self._topic}",
                mend="look at the brokers; the worker goes on from the last committed offsets",
            )

    def check(self) -> None:
        """Raises Unavailable when any output was given up by the client."""
        if self._error is not None:
            raise Unavailable(
                f"Kafka did not take an output: {self._error.str()}",
                where=f"topic {self._topic}",
                mend="look at the brokers; the worker goes on from the last committed offsets",
                code="undelivered",
            )

    def discard(self) -> None:
        """Throw away what was not sent; for an outbox whose session has failed."""
        self._producer.purge()
        self._producer.flush(1)

    def _results(self, waiting: Sequence[dict[str, Any]]) -> None:
        started = self._clock.monotonic()
        while waiting:
            queued = self._producer.produce_batch(self._topic, waiting, on_delivery=self._delivered)
            if queued == len(waiting):
                return
            waiting = [message for message in waiting if "_error" in message]
            for message in waiting:
                error = message.pop("_error")
                if error.code() != KafkaError._QUEUE_FULL:
                    raise KafkaException(error)
            self._wait(started)

    def _dead_letter(self, message: Message, refused: Refused) -> None:
        position = (message.partition(), message.offset())
        if position in self._dead:
            return
        started = self._clock.monotonic()
        while True:
            try:
                dead_letter(
                    self._producer,
                    message,
                    refused.code,
                    refused.reason,
                    refused.stage,
                    self._job,
                    clock=self._clock,
                    on_delivery=self._delivered,
                )
            except BufferError:
                self._wait(started)
            else:
                self._dead.add(position)
                return

    def _wait(self, started: float) -> None:
        self._producer.poll(QUEUE_FULL_WAIT_S)
        self.check()
        if self._clock.monotonic() - started > self._full_s:
            raise Unavailable(
                f"Kafka's send queue has been full for {self._full_s:g} s",
                where=f"topic {self._topic}",
                mend="look at the brokers",
                code="queue_full",
            )

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        del message
        if error is not None and self._error is None:
            self._error = error
