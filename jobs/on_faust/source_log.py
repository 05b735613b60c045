"""The source topic as a log, beside Faust's consumer: checkpoints in Kafka, and reading a range again.

A checkpoint is the offset that the group `<job>-checkpoints` has committed for the partition; its places and
watermarks are the metadata of that commit. Kafka forgets the offsets of a group without members after
`offsets.retention.minutes` (7 days), so that what does not change has to be committed again.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from core.errors import DeclarationError, Unavailable
from core.settings import Settings
from jobs.on_faust.partition import Checkpoint
from schemas.broker import consumer, watermarks

CHUNK = 1_000
_TIMEOUT_S = 10.0
_POLL_S = 0.1
_SILENT_POLLS = 100


@dataclass(frozen=True)
class SourceMessage:
    """A message of the source, whoever read it. at_ms: its timestamp, milliseconds since the epoch."""

    partition: int
    offset: int
    at_ms: int
    value: bytes | None


class SourceLog:
    """One topic for one job. Calls block; make them from one thread at a time.

    digest: of the view, so that no state of another meaning is taken up.
    """

    def __init__(self, settings: Settings, topic: str, job: str, digest: str) -> None:
        self._settings = settings
        self._topic = topic
        self._group = f"{job}-checkpoints"
        self._digest = digest
        self._committer = consumer(settings, self._group)

    def close(self) -> None:
        self._committer.close()

    def checkpoint(self, partition: int) -> Checkpoint | None:
        """The newest one; None where there is none. Raises Unavailable while Kafka is away, and
        DeclarationError for one of a view with another meaning."""
        try:
            (found,) = self._committer.committed([TopicPartition(self._topic, partition)], _TIMEOUT_S)
        except KafkaException as error:
            raise self._away(error) from error
        if found.offset < 0 or not found.metadata:
            return None
        told = json.loads(found.metadata)
        if told["view"] != self._digest:
            raise DeclarationError(
                "the state is that of a view with another meaning",
                where=f"{self._group}, {self._topic}[{partition}]",
                mend="declare the changed view with a new version",
            )
        return Checkpoint(told["replay"], told["windows"], found.offset, told["before"], told["reached"])

    def commit(self, checkpoints: Mapping[int, Checkpoint]) -> None:
        """Returns when Kafka has them; raises Unavailable when it has not."""
        if not checkpoints:
            return
        places = [
            TopicPartition(self._topic, partition, one.done, self._told(one))
            for partition, one in checkpoints.items()
        ]
        try:
            self._committer.commit(offsets=places, asynchronous=False)
        except KafkaException as error:
            raise self._away(error) from error

    def bounds(self, partition: int) -> tuple[int, int]:
        """(oldest offset, next offset). Raises Unavailable while Kafka is away."""
        try:
            return watermarks(self._committer, TopicPartition(self._topic, partition), _TIMEOUT_S)
        except KafkaException as error:
            raise self._away(error) from error

    def read(self, partition: int, start: int, end: int) -> Iterator[list[SourceMessage]]:
        """The messages of [start, end) in chunks; `end` is at most the next offset of the partition. Raises
        Unavailable when nothing comes for ten seconds."""
        if start >= end:
            return
        reader = consumer(self._settings, None, enable_partition_eof=True)
        try:
            reader.assign([TopicPartition(self._topic, partition, start)])
            position = start
            while position < end:
                position, chunk = self._chunk(reader, partition, position, end)
                yield chunk
        except KafkaException as error:
            raise self._away(error) from error
        finally:
            reader.close()

    def _chunk(
        self, reader: Consumer, partition: int, position: int, end: int
    ) -> tuple[int, list[SourceMessage]]:
        for _ in range(_SILENT_POLLS):
            chunk: list[SourceMessage] = []
            for message in reader.consume(CHUNK, _POLL_S):
                error = message.error()
                if error is None:
                    offset = int(message.offset() or 0)
                    position = offset + 1
                    if offset < end:
                        chunk.append(
                            SourceMessage(partition, offset, message.timestamp()[1], message.value())
                        )
                elif error.code() == KafkaError._PARTITION_EOF:
                    position = max(position, end)
                elif error.fatal() or not error.retriable():
                    raise KafkaException(error)
            if chunk or position >= end:
                return position, chunk
        raise Unavailable(
            f"no message for {_SILENT_POLLS * _POLL_S:g} s at {position}, up to {end}",
            where=f"{self._topic}[{partition}]",
            mend="look at the brokers",
        )

    def _told(self, one: Checkpoint) -> str:
        places = {"replay": one.replay, "windows": one.windows, "before": one.before, "reached": one.reached}
        return json.dumps({**places, "view": self._digest})

    def _away(self, error: KafkaException) -> Unavailable:
        return Unavailable(
            f"Kafka did not answer: {error.args[0].str()}", where=self._topic, mend="look at the brokers"
        )
