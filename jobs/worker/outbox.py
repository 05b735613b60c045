"""The outbox of a session: results and dead letters on their way to Kafka, and whether all of them arrived.

After an error the session that owns it ends, and the next one starts from the committed offsets.
"""

from collections import defaultdict
from typing import Any

from core.clock import Clock
from jobs.worker.batch import Outputs, Refused
from jobs.worker.inputs import Inputs
from pipelines.outbox import Outbox
from schemas.dead_letters import KafkaMessage

PRODUCER_SETTINGS = {"delivery_report_only_error": True}


class SessionOutbox:
    """Sends the outputs of one session. Results go to the partition number their input came from; a message
    whose position is in `dead` has its dead letter already. Raises what `Outbox` raises."""

    def __init__(
        self, outbox: Outbox, *, topic: str, job: str, clock: Clock, dead: set[tuple[int, int]]
    ) -> None:
        self._outbox = outbox
        self._topic = topic
        self._job = job
        self._clock = clock
        self._dead = dead

    def send(self, inputs: Inputs, outputs: Outputs) -> None:
        """Queue everything."""
        messages, partitions = inputs.messages, inputs.partitions
        keys = [message.key() for message in messages]
        if outputs.indexes != list(range(len(messages))):  # of several versions, each has its rows
            keys = [keys[index] for index in outputs.indexes]
            partitions = [partitions[index] for index in outputs.indexes]
        by_partition: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for value, key, partition in zip(outputs.values, keys, partitions, strict=True):
            by_partition[partition].append({"value": value, "key": key})
        for partition, results in by_partition.items():
            self._outbox.send_batch(self._topic, results, partition=partition)
        for refused in outputs.refused:
            self._dead_letter(messages[refused.index], refused)
        self._outbox.check()

    def settle(self, within_s: float) -> None:
        """Wait until everything queued is acknowledged."""
        self._outbox.settle(within_s)

    def discard(self) -> None:
        """Throw away what was not sent; for an outbox whose session has failed."""
        self._outbox.discard()

    def _dead_letter(self, message: KafkaMessage, refused: Refused) -> None:
        position = (message.partition() or 0, message.offset() or 0)
        if position in self._dead:
            return
        self._outbox.dead_letter(
            message,
            code=refused.code,
            reason=refused.reason,
            stage=refused.stage,
            job=self._job,
            clock=self._clock,
        )
        self._dead.add(position)
