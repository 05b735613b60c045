"""Reading the trail from Kafka, whole, up to where it ends now."""

from dataclasses import dataclass, field

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from core.clock import Clock, SystemClock
from core.errors import MillstreamError, Unavailable
from core.settings import Settings
from pipelines.audit.copying import GROUP
from pipelines.audit.verify import CopyCheck, Finding
from pipelines.outbox import codec_of
from schemas.broker import consumer, watermarks
from schemas.catalog.security import SECURITY_EVENTS, AuditEntry
from schemas.codec import RecordCodec
from schemas.record import Record
from schemas.registry import SchemaRegistry

SILENT_S = 15.0
TIMEOUT_S = 5.0
AT_ONCE = 1_000


@dataclass
class KafkaCopy:
    """check: the chains. waiting: of each writer the sequence from which on nobody has copied it yet.
    strange: messages that are no entries. begins_late: partitions whose oldest messages are gone."""

    check: CopyCheck = field(default_factory=lambda: CopyCheck("kafka"))
    waiting: dict[str, int] = field(default_factory=dict)
    strange: list[Finding] = field(default_factory=list)
    begins_late: set[int] = field(default_factory=set)


Offsets = dict[int, int]


def copied_offsets(settings: Settings, topic: str = SECURITY_EVENTS.name) -> Offsets:
    """Of each partition the offset up to which everything has been copied. Raises Unavailable."""
    reader = consumer(settings, GROUP)
    try:
        places = [TopicPartition(topic, partition) for partition in _partitions(reader, topic)]
        return {place.partition: place.offset for place in reader.committed(places, timeout=TIMEOUT_S)}
    except KafkaException as problem:
        raise _away(problem) from problem
    finally:
        reader.close()


def read_kafka(
    settings: Settings,
    copied: Offsets | None = None,
    *,
    topic: str = SECURITY_EVENTS.name,
    clock: Clock | None = None,
) -> KafkaCopy:
    """Every message of the trail's topic, or of a copy of it; above the offsets `copied` they wait. Raises
    Unavailable while Kafka or the schema registry is away, or stops answering."""
    registry = SchemaRegistry.of(settings)
    reader = consumer(settings, None)
    try:
        codec = codec_of(SECURITY_EVENTS, registry)
        return _Reading(reader, codec, topic, copied or {}, clock or SystemClock()).all()
    except KafkaException as problem:
        raise _away(problem) from problem
    finally:
        reader.close()
        registry.close()


def _partitions(reader: Consumer, topic: str) -> list[int]:
    known = reader.list_topics(topic=topic, timeout=TIMEOUT_S).topics[topic]
    if known.error is not None:
        raise Unavailable(f"no topic {topic}", mend="run `millstream apply`")
    return sorted(known.partitions)


def _away(problem: KafkaException) -> Unavailable:
    return Unavailable(f"Kafka does not answer: {problem}", code="kafka_unavailable")


class _Reading:
    def __init__(
        self, reader: Consumer, codec: RecordCodec[Record], topic: str, copied: Offsets, clock: Clock
    ) -> None:
        self._reader = reader
        self._codec = codec
        self._topic = topic
        self._copied = copied
        self._clock = clock
        self._copy = KafkaCopy()

    def all(self) -> KafkaCopy:
        """Up to ends that are asked for twice: a head counts where it lies before the first of them, so that
        what it is about, on whichever partition, lies before the second."""
        partitions = _partitions(self._reader, self._topic)
        first = {partition: self._ends(partition)[1] for partition in partitions}
        for partition, (low, high) in {one: self._ends(one) for one in partitions}.items():
            if low > 0:
                self._copy.begins_late.add(partition)
            if low < high:
                self._read(partition, low, high, first[partition])
        return self._copy

    def _ends(self, partition: int) -> tuple[int, int]:
        return watermarks(self._reader, TopicPartition(self._topic, partition), TIMEOUT_S)

    def _read(self, partition: int, low: int, high: int, witnessing: int) -> None:
        copied = self._copied.get(partition, 0)
        self._reader.assign([TopicPartition(self._topic, partition, low)])
        following, heard = low, self._clock.monotonic()
        while following < high:
            messages = self._reader.consume(AT_ONCE, 0.2)
            for message in messages:
                error = message.error()
                if error is not None:
                    if error.code() != KafkaError._PARTITION_EOF and not error.retriable():
                        raise KafkaException(error)
                    continue
                offset = message.offset() or 0
                following = offset + 1
                if offset < high:
                    self._take(message, copied=offset < copied, witness=offset < witnessing)
            now = self._clock.monotonic()
            if messages:
                heard = now
            elif now - heard > SILENT_S:
                raise Unavailable(f"{self._topic}[{partition}] ends before {high}", code="kafka_unavailable")
            if not messages and self._position(partition) >= high:
                return  # what is left are markers, no messages

    def _position(self, partition: int) -> int:
        (place,) = self._reader.position([TopicPartition(self._topic, partition)])
        return int(place.offset)

    def _take(self, message: object, *, copied: bool, witness: bool) -> None:
        key, value, where = message.key(), message.value(), _where(message)  # type: ignore[attr-defined]
        try:
            entry = self._codec.decode(value or b"")
        except Unavailable:
            raise
        except MillstreamError as error:
            self._copy.strange.append(
                Finding("", 0, 0, "forged", "kafka", f"{where} is no entry: {error.what}")
            )
            return
        if not isinstance(entry, AuditEntry):
            return
        if key is None or key.decode("utf-8", "replace") != entry.writer:
            self._copy.strange.append(
                Finding("", 0, 0, "forged", "kafka", f"{where} has not its writer's key")
            )
        if not copied and entry.writer not in self._copy.waiting:
            self._copy.waiting[entry.writer] = entry.sequence
        self._copy.check.take(entry, witness=witness)


def _where(message: object) -> str:
    return f"{message.topic()}[{message.partition()}]@{message.offset()}"  # type: ignore[attr-defined]
