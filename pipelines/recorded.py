"""What a topic holds, read back as one table; for checks, rebuilds and training."""

import time
from collections.abc import Iterator, Mapping

import pyarrow as pa
import pyarrow.compute as pc
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from core.errors import DeclarationError, Unavailable
from core.settings import Settings
from schemas.broker import consumer, watermarks
from schemas.codec import RecordCodec, arrow_schema
from schemas.registry import SchemaRegistry
from schemas.topic import Topic

TIMEOUT_S = 30.0
BATCH = 2000

Offsets = Mapping[int, int]


def ends(topic: Topic, settings: Settings) -> dict[int, int]:
    """The offset after the last message of each partition, now."""
    reader = consumer(settings, None)
    try:
        return {number: high for number, (_low, high) in _bounds(reader, topic).items()}
    finally:
        reader.close()


def read(
    topic: Topic, settings: Settings, *, since: Offsets | None = None, tenant: str | None = None
) -> pa.Table:
    """Every record of the topic up to its present end, in order of partition and offset.

    since: offsets to begin at, the oldest message by default. tenant: only that tenant's. Messages that
    are no record of the topic (dead letters of its readers, ticks) are left out. Raises Unavailable when
    Kafka does not deliver for 30 s. The topic is held in memory whole.
    """
    if topic.record is None:
        raise DeclarationError(f"topic {topic.name} declares no record", mend="read its dead letters instead")
    registry = SchemaRegistry.of(settings)
    codec = RecordCodec(topic.record, registry, topic.subject)
    empty = arrow_schema(topic.record.spec()).empty_table()
    parts = []
    try:
        for messages in messages_of(topic, settings, since or {}):
            values = [value for message in messages if (value := message.value()) is not None]
            batch = codec.decode_batch(values).batch
            if tenant is not None:
                batch = batch.filter(pc.equal(batch.column("tenant"), tenant))
            parts.append(batch)
    finally:
        registry.close()
    return pa.Table.from_batches(parts).combine_chunks() if parts else empty


def count(
    topic: Topic, settings: Settings, *, since: Offsets | None = None, tenant: str | None = None
) -> int:
    """How many messages the topic holds, whatever they are; of a tenant by the header `ce_tenant`."""
    total = 0
    for messages in messages_of(topic, settings, since or {}):
        for message in messages:
            headers = dict(message.headers() or [])
            if tenant is None or headers.get("ce_tenant") == tenant.encode():
                total += 1
    return total


def messages_of(topic: Topic, settings: Settings, since: Offsets) -> Iterator[list[Message]]:
    """Its messages up to its present end, some at a time, from these offsets on (the oldest by default).
    Raises Unavailable when Kafka does not deliver for 30 s."""
    reader = consumer(settings, None)
    try:
        bounds = _bounds(reader, topic)
        left = {}
        for number, (low, high) in bounds.items():
            start = max(low, since.get(number, low))
            if start < high:
                left[number] = (start, high)
        if not left:
            return
        reader.assign([TopicPartition(topic.name, number, start) for number, (start, _) in left.items()])
        waiting = {number: high for number, (_, high) in left.items()}
        deadline = time.monotonic() + TIMEOUT_S
        while waiting:
            found = []
            for message in reader.consume(BATCH, 0.2):
                problem = message.error()
                if problem is not None:
                    if problem.code() != KafkaError._PARTITION_EOF:
                        raise Unavailable(f"{topic.name} cannot be read: {problem.str()}")
                    continue
                number, high = message.partition(), bounds[message.partition()][1]
                if message.offset() < high:
                    found.append(message)
                if message.offset() >= high - 1:
                    waiting.pop(number, None)
            if found:
                deadline = time.monotonic() + TIMEOUT_S
                yield found
            elif time.monotonic() > deadline:
                raise Unavailable(
                    f"{topic.name} delivers nothing for {TIMEOUT_S:.0f} s", where=settings.kafka.address
                )
            positions = reader.position([TopicPartition(topic.name, number) for number in waiting])
            for place in positions:
                if place.offset >= waiting[place.partition]:
                    waiting.pop(place.partition)
    finally:
        reader.close()


def _bounds(reader: Consumer, topic: Topic) -> dict[int, tuple[int, int]]:
    try:
        known = reader.list_topics(topic.name, timeout=TIMEOUT_S).topics[topic.name]
        if known.error is not None:
            raise Unavailable(f"{topic.name}: {known.error.str()}", mend="run `millstream apply`")
        return {
            number: watermarks(reader, TopicPartition(topic.name, number), TIMEOUT_S)
            for number in known.partitions
        }
    except KafkaException as error:
        raise Unavailable(
            f"no answer from Kafka: {error.args[0].str()}",
            where=topic.name,
            mend="start it (`millstream up`), or correct MILLSTREAM_KAFKA__BOOTSTRAP",
        ) from error
