"""Dead-letter topics, read within bounds: list the newest, show one, send one back to where it came from."""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from core.errors import DeclarationError, Rejected, Unavailable, UnknownName
from core.settings import Settings
from schemas.broker import admin, consumer, producer, watermarks
from schemas.dead_letters import DeadLetter
from schemas.headers import rfc3339

SUFFIX = ".dlq"
MOST = 1000
READ_S = 15.0
ACK_S = 10.0


@dataclass(frozen=True)
class Entry:
    """A dead letter and where it lies: `topic` is the dead-letter topic itself."""

    topic: str
    partition: int
    offset: int
    letter: DeadLetter

    @property
    def reference(self) -> str:
        """What `show` and `requeue` take."""
        return f"{self.topic}:{self.partition}:{self.offset}"


def parse_reference(reference: str) -> tuple[str, int, int]:
    """`<topic>:<partition>:<offset>` in parts; raises Rejected when it is none."""
    topic, _, rest = reference.partition(":")
    partition, _, offset = rest.partition(":")
    if not topic or not partition.isdecimal() or not offset.isdecimal():
        raise Rejected(
            f"no reference of a dead letter: {reference!r}",
            fields={"/reference": "must be <topic>:<partition>:<offset>"},
            mend="copy it from `millstream dlq list`",
        )
    return topic, int(partition), int(offset)


class DeadLetters:
    """All dead-letter topics of the brokers. Every call is bounded: at most 1,000 letters, 15 s."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._admin: AdminClient = admin(settings)

    def topics(self) -> list[str]:
        """The names of the dead-letter topics, sorted. Raises Unavailable when Kafka is away."""
        return sorted(name for name in self._cluster() if name.endswith(SUFFIX))

    def newest(
        self, topics: Iterable[str] | None = None, *, limit: int = 50, code: str | None = None
    ) -> list[Entry]:
        """The newest letters, newest first, at most `limit` (1 to 1,000) of each topic are looked at.

        `topics` may name source topics or dead-letter topics; None means all. `code` keeps one code.
        Raises UnknownName for a topic without dead letters.
        """
        if not 1 <= limit <= MOST:
            raise Rejected("limit out of bounds", fields={"/limit": f"must be 1 to {MOST}"})
        known = self.topics()
        chosen = known if topics is None else [self._known(name, known) for name in topics]
        found: list[Entry] = []
        with _reading(self._settings) as reader:
            for topic in chosen:
                found += self._tail(reader, topic, limit)
        kept = [entry for entry in found if code is None or entry.letter.code == code]
        kept.sort(key=lambda entry: (entry.letter.at, entry.topic, entry.offset), reverse=True)
        return kept[:limit]

    def show(self, reference: str) -> Entry:
        """The letter at a reference. Raises UnknownName when nothing is there (any more)."""
        topic, partition, offset = parse_reference(reference)
        self._known(topic, self.topics())
        with _reading(self._settings) as reader:
            position = TopicPartition(topic, partition, offset)
            low, high = _bounds(reader, position)
            if low <= offset < high:
                for entry in _entries(reader, position, high, 1):
                    if entry.offset == offset:
                        return entry
        raise UnknownName("dead letter", reference, (), where=f"offsets {low} to {high} of {topic}")

    def requeue(self, references: Sequence[str]) -> list[Entry]:
        """Send the originals back to their source topics, bytes, headers and event time unchanged but for one
        more header, `dlq_requeued`, that tells which letter and when. The letters stay where they are.

        All references are read before the first is sent. Raises Unavailable when one is not acknowledged;
        sending again is safe, since an event counts once per id.
        """
        entries = [self.show(reference) for reference in references]
        sender = producer(self._settings)
        failures: list[str] = []

        def delivered(error: Any, _: Any) -> None:
            if error is not None:
                failures.append(str(error))

        for entry in entries:
            mark = f"{entry.reference} at {rfc3339(datetime.now(UTC))}"
            entry.letter.requeue(sender, mark, delivered)
        left = sender.flush(ACK_S)
        if left or failures:
            reason = failures[0] if failures else f"no acknowledgement within {ACK_S:.0f} s"
            raise Unavailable(
                f"{max(left, len(failures))} of {len(entries)} not requeued: {reason}",
                code="kafka_unavailable",
            )
        return entries

    def _tail(self, reader: Consumer, topic: str, limit: int) -> list[Entry]:
        found: list[Entry] = []
        for partition in self._cluster()[topic].partitions:
            low, high = _bounds(reader, TopicPartition(topic, partition))
            if low < high:
                start = TopicPartition(topic, partition, max(low, high - limit))
                found += _entries(reader, start, high, limit)
        return found

    def _cluster(self) -> dict[str, Any]:
        try:
            return dict(self._admin.list_topics(timeout=5.0).topics)
        except KafkaException as problem:
            raise Unavailable(f"Kafka does not answer: {problem}", code="kafka_unavailable") from problem

    def _known(self, name: str, known: Sequence[str]) -> str:
        topic = name if name.endswith(SUFFIX) else name + SUFFIX
        if topic not in known:
            raise UnknownName("dead-letter topic", topic, known)
        return topic


@contextmanager
def _reading(settings: Settings) -> Iterator[Consumer]:
    """A consumer without a group, closed at the end of the block."""
    reader = consumer(settings, None, enable_partition_eof=True)
    try:
        yield reader
    finally:
        reader.close()


def _bounds(reader: Consumer, position: TopicPartition) -> tuple[int, int]:
    try:
        low, high = watermarks(reader, position, 5.0)
    except KafkaException as problem:
        raise Unavailable(f"Kafka does not answer: {problem}", code="kafka_unavailable") from problem
    return low, high


def _entries(reader: Consumer, start: TopicPartition, high: int, most: int) -> Iterator[Entry]:
    """The letters from `start` up to `high` (exclusive), at most `most`; what is no letter is skipped."""
    reader.assign([start])
    deadline = time.monotonic() + READ_S
    count = 0
    while count < most and time.monotonic() < deadline:
        for message in reader.consume(most - count, 0.2):
            error = message.error()
            if error is not None and error.code() == KafkaError._PARTITION_EOF:
                return
            if error is not None:
                continue  # a broker that comes and goes; the deadline bounds the wait
            count += 1
            try:
                letter = DeadLetter.read(message)
            except (DeclarationError, ValueError):
                continue  # somebody else's message on a topic named like ours
            yield Entry(message.topic(), message.partition(), message.offset(), letter)
            if message.offset() + 1 >= high:
                return
