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
AT_ONCE = 1_000


@dataclass
class KafkaCopy:
    """check: the chains. waiting: of each writer the sequence from which on nobody has copied it yet.
    strange: messages that are no entries. begins_late: partitions whose oldest messages are gone."""

    check: CopyCheck = field(default_factory=lambda: CopyCheck("kafka"))
    waiting: dict[str, int] = field(default_factory=dict)
    strange: list[Finding] = field(default_factory=list)
    begins_late: set[int] = field(default_factory=set)


def read_kafka(
    settings: Settings, *, topic: str = SECURITY_EVENTS.name, clock: Clock | None = None
) -> KafkaCopy:
    """Every message of the trail's topic, or of a copy of it. Raises Unavailable while Kafka or the schema
    registry is away, or stops answering."""
    clock = clock or SystemClock()
    registry = SchemaRegistry.of(settings)
    reader = consumer(settings, GROUP)
    try:
        return _Reading(reader, codec_of(SECURITY_EVENTS, registry), topic, clock).all()
    except KafkaException as problem:
        raise Unavailable(f"Kafka does not answer: {problem}", code="kafka_unavailable") from problem
    finally:
        reader.close()
        registry.close()


class _Reading:
    def __init__(self, reader: Consumer, codec: RecordCodec[Record], topic: str, clock: Clock) -> None:
        self._reader = reader
        self._codec = codec
        self._topic = topic
        self._clock = clock
        self._copy = KafkaCopy()

    def all(self) -> KafkaCopy:
        known = self._reader.list_topics(topic=self._topic, timeout=5.0).topics[self._topic]
        if known.error is not None:
            raise Unavailable(f"no topic {self._topic}", mend="run `millstream apply`")
        for partition in sorted(known.partitions):
            self._read(partition)
        return self._copy

    def _read(self, partition: int) -> None:
        place = TopicPartition(self._topic, partition)
        low, high = watermarks(self._reader, place, 5.0)
        if low > 0:
            self._copy.begins_late.add(partition)
        if low == high:
            return
        (committed,) = self._reader.committed([place], timeout=5.0)
        place.offset = low
        self._reader.assign([place])
        following, heard = low, self._clock.monotonic()
        while following < high:
            messages = self._reader.consume(AT_ONCE, 0.2)
            for message in messages:
                error = message.error()
                if error is not None:
                    if error.code() != KafkaError._PARTITION_EOF and not error.retriable():
                        raise KafkaException(error)
                    continue
                following = message.offset() + 1
                if message.offset() < high:
                    self._take(message, copied=message.offset() < committed.offset)
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

    def _take(self, message: object, *, copied: bool) -> None:
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
        self._copy.check.take(entry)


def _where(message: object) -> str:
    return f"{message.topic()}[{message.partition()}]@{message.offset()}"  # type: ignore[attr-defined]
