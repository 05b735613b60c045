"""The topics of model serving as one log: routings, states, commands' replies, decoded, in one consumer."""

import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from core.clock import Clock, to_millis
from core.errors import MillstreamError, Unavailable
from core.settings import Settings
from core.telemetry.log import logger
from pipelines.outbox import codec_of
from pipelines.serving.fleet import SILENT
from schemas import broker
from schemas.catalog.models import ROUTING, STATES
from schemas.record import Record
from schemas.registry import SchemaRegistry
from schemas.topic import Topic

_LOG = logger("serving.log")
_TIMEOUT_S = 5.0
_READ = 500


class ServingLog:
    """Reads routings from the first one, states of the last seconds, replies from now on. Not thread-safe.

    Raises Unavailable while a topic is not there or Kafka does not answer.
    """

    def __init__(
        self, settings: Settings, topics: Sequence[Topic], *, clock: Clock, registry: SchemaRegistry
    ) -> None:
        self._clock = clock
        self._codecs = {topic.name: codec_of(topic, registry) for topic in topics}
        self._behind = set(self._codecs)
        self._consumer: Consumer = broker.consumer(settings, None, enable_partition_eof=True)
        try:
            self._open()
        except KafkaException as error:
            self._consumer.close()
            raise Unavailable(f"Kafka: {error}", where="model serving topics") from error
        except BaseException:
            self._consumer.close()
            raise

    @property
    def caught_up(self) -> bool:
        """Whether the end of every topic was met once."""
        return not self._behind

    def read(self, timeout_s: float) -> list[tuple[Record, int]]:
        """Records with their offsets, as they come; waits at most `timeout_s` for the first. What cannot be
        decoded is logged and left out: nobody of ours wrote it."""
        try:
            first = self._consumer.poll(timeout_s)
            if first is None:
                return []
            messages = [first, *self._consumer.consume(_READ, timeout=0)]
        except KafkaException as error:
            raise Unavailable(f"Kafka: {error}", where="model serving topics") from error
        records: list[tuple[Record, int]] = []
        for message in messages:
            event = message.error()
            if event is None:
                record = self._decoded(message)
                if record is not None:
                    records.append((record, message.offset()))
            elif event.code() == KafkaError._PARTITION_EOF:
                self._behind.discard(message.topic())
            elif event.fatal():
                raise Unavailable(f"Kafka: {event.str()}", where="model serving topics")
        return records

    def catch_up(self, timeout_s: float) -> list[tuple[Record, int]]:
        """Everything up to the end; raises Unavailable when that is not reached in time."""
        end = time.monotonic() + timeout_s
        found: list[tuple[Record, int]] = []
        while not self.caught_up:
            if time.monotonic() > end:
                raise Unavailable(f"{', '.join(self._behind)} not read to the end in {timeout_s:g} s")
            found += self.read(0.2)
        return found

    def close(self) -> None:
        self._consumer.close()

    def _open(self) -> None:
        places = []
        for name in self._codecs:
            known = self._consumer.list_topics(name, timeout=_TIMEOUT_S).topics[name]
            if known.error is not None or not known.partitions:
                raise Unavailable(f"topic {name} is not there", mend="run `millstream apply`")
            for partition in known.partitions:
                place = TopicPartition(name, partition)
                low, high = broker.watermarks(self._consumer, place, _TIMEOUT_S)
                places.append(TopicPartition(name, partition, self._start(name, partition, low, high)))
        self._consumer.assign(places)

    def _start(self, name: str, partition: int, low: int, high: int) -> int:
        if name == ROUTING.name:
            return low
        if name != STATES.name:
            return high
        since = to_millis(self._clock.now() - SILENT - timedelta(seconds=1))
        (found,) = self._consumer.offsets_for_times(
            [TopicPartition(name, partition, since)], timeout=_TIMEOUT_S
        )
        return found.offset if found.offset >= 0 else high

    def _decoded(self, message: Any) -> Record | None:
        try:
            return self._codecs[message.topic()].decode(message.value())
        except Unavailable:
            raise
        except MillstreamError as error:
            _LOG.warning("not readable", topic=message.topic(), offset=message.offset(), error=error.what)
            return None
