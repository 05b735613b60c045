"""Readback: what a partition's earlier owner has already answered, read from the outputs themselves.

Exactly those inputs can come again that were consumed but not committed, or that Flink emitted after its
last checkpoint. Their outcomes are the newest messages of the results partition with the same number.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from confluent_kafka import OFFSET_END, Consumer, KafkaError, KafkaException, Message, TopicPartition

from core.clock import Clock
from core.errors import MillstreamError, Unavailable
from operators.dedupe import Dedupe, Horizon, record_keys
from schemas.broker import watermarks
from schemas.codec import RecordCodec
from schemas.dead_letters import DeadLetter

CHUNK = 2000
DEAD_LETTERS = 2000
CALL_S = 10.0


class Readback:
    """Reads the tails of output topics. One instance per session; the client is made when first needed."""

    def __init__(self, connect: Callable[[], Consumer], *, clock: Clock, limit_s: float = 60.0) -> None:
        self._connect = connect
        self._clock = clock
        self._limit_s = limit_s

    def outcomes(
        self, topic: str, partitions: Sequence[int], codec: RecordCodec[Any], dedupe: Dedupe, *, floor: int
    ) -> int:
        """Remember the ids of `partitions` over the horizon of `dedupe`; returns how many messages were read.

        Per partition that is the newest message's last `age`, and at least `floor` messages. Messages that do
        not decode are skipped: no worker wrote them. Raises Unavailable when Kafka does not answer.
        """
        read = 0
        consumer = self._connect()
        try:
            for partition in partitions:
                where = TopicPartition(topic, partition)
                start, end = self._tail(consumer, where, dedupe.horizon, floor)
                for messages in self._range(consumer, topic, partition, start, end):
                    decoded = codec.decode_batch([message.value() for message in messages])
                    dedupe.remember(record_keys(decoded.batch), max(m.timestamp()[1] for m in messages))
                    read += len(messages)
        except KafkaException as error:
            raise _away(topic, error.args[0]) from error
        finally:
            consumer.close()
        return read

    def dead_letters(self, topic: str, source: str) -> set[tuple[int, int]]:
        """(partition, offset) of the newest messages of `source` that are dead letters on `topic` already."""
        found: set[tuple[int, int]] = set()
        consumer = self._connect()
        try:
            metadata = consumer.list_topics(topic, timeout=CALL_S).topics[topic]
            for partition in metadata.partitions:
                low, high = watermarks(consumer, TopicPartition(topic, partition), CALL_S)
                for messages in self._range(consumer, topic, partition, max(low, high - DEAD_LETTERS), high):
                    for message in messages:
                        letter = _letter(message)
                        if letter is not None and letter.topic == source:
                            found.add((letter.partition, letter.offset))
        except KafkaException as error:
            raise _away(topic, error.args[0]) from error
        finally:
            consumer.close()
        return found

    def _tail(
        self, consumer: Consumer, where: TopicPartition, horizon: Horizon, floor: int
    ) -> tuple[int, int]:
        low, high = watermarks(consumer, where, CALL_S)
        if high <= low:
            return high, high
        newest = next(self._range(consumer, where.topic, where.partition, high - 1, high), [])
        start = high - floor
        if newest:
            since = newest[-1].timestamp()[1] - horizon.age_ms
            (at,) = consumer.offsets_for_times(
                [TopicPartition(where.topic, where.partition, max(since, 0))], timeout=CALL_S
            )
            if at.offset not in (OFFSET_END, -1001) and at.offset >= 0:
                start = min(start, at.offset)
        return max(low, start, high - horizon.at_most), high

    def _range(
        self, consumer: Consumer, topic: str, partition: int, start: int, end: int
    ) -> Iterator[list[Message]]:
        """Messages of [start, end) in chunks."""
        if start >= end:
            return
        consumer.assign([TopicPartition(topic, partition, start)])
        deadline = self._clock.monotonic() + self._limit_s
        position = start
        while position < end:
            if self._clock.monotonic() > deadline:
                raise Unavailable(
                    f"reading back took more than {self._limit_s:g} s",
                    where=f"{topic}[{partition}] from {start} to {end}, at {position}",
                    mend="look at the brokers",
                )
            chunk: list[Message] = []
            for message in consumer.consume(CHUNK, timeout=0.1):
                error = message.error()
                if error is None:
                    position = message.offset() + 1
                    if position <= end:
                        chunk.append(message)
                elif error.code() == KafkaError._PARTITION_EOF:
                    position = end
                elif error.fatal() or not error.retriable():
                    raise KafkaException(error)
            if chunk:
                yield chunk
        consumer.unassign()


def _letter(message: Message) -> DeadLetter | None:
    try:
        return DeadLetter.read(message)
    except MillstreamError:  # written by somebody else; nothing of ours to repeat
        return None


def _away(topic: str, error: KafkaError) -> Unavailable:
    return Unavailable(
        f"Kafka did not answer: {error.str()}",
        where=f"reading back {topic}",
        mend="look at the brokers, and that the topic exists (`millstream apply`)",
    )
