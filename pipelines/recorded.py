"""What a topic has recorded, read between offsets: as one table in memory, or as files for DuckDB.

    rows = recorded.read(plan.rows, settings)                  # all of it, in memory
    found = recorded.tables(plan.source, settings, folder)     # the offline table, then the topic's rest

Messages that are no record of the topic (dead letters of its readers, ticks) are left out.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from deltalake import DeltaTable

from core.errors import DeclarationError, Unavailable
from core.settings import Settings
from features.offline.tabular import Tabular
from pipelines.offline import offline_path, positioned, stored_offsets
from schemas.broker import consumer, watermarks
from schemas.codec import RecordCodec, arrow_schema
from schemas.headers import header
from schemas.registry import SchemaRegistry
from schemas.topic import Topic

TIMEOUT_S = 30.0
MESSAGES = 20_000
"""Handed over at once, decoded at once, and one row group: at 500 bytes a message 10 MB."""
BYTES = 64 * 2**20
"""Of their values; beyond it fewer messages are handed over at once."""
ABSENT = "topic_absent"
"""Code of the error for a topic that does not exist."""

Offsets = Mapping[int, int]


@dataclass(frozen=True)
class Recorded:
    """tables: in their order of arrival. gone: partitions whose messages began only at a later offset than
    what is known before: older ones are gone, by the topic's retention. ends: the offset after the last
    message that is here, per partition."""

    tables: tuple[Tabular, ...]
    gone: Offsets
    ends: Offsets


def read(
    topic: Topic, settings: Settings, *, since: Offsets | None = None, tenant: str | None = None
) -> pa.Table:
    """Every record of the topic up to its present end, in order of partition and offset.

    since: offsets to begin at, the oldest message by default. tenant: only that tenant's. The topic is held
    in memory whole. Raises what `messages_of` does.
    """
    if topic.record is None:
        raise DeclarationError(f"topic {topic.name} declares no record", mend="read its dead letters instead")
    parts = []
    for batch, _ in _batches(topic, settings, messages_of(topic, settings, since or {})):
        kept = batch if tenant is None else batch.filter(pc.equal(batch.column("tenant"), tenant))
        parts.append(kept)
    if not parts:
        return arrow_schema(topic.record.spec()).empty_table()
    return pa.Table.from_batches(parts).combine_chunks()


def tables(topic: Topic, settings: Settings, folder: Path, *, since: Offsets | None = None) -> Recorded:
    """Everything there is of the topic now, each message once: the table in the data folder, if there is one,
    and the messages after it; or those from `since` on only, without the table.

    The table's log says up to which offset it has each partition. The rest goes to a Parquet file with the
    table's columns in `folder`, which is the caller's. Raises what `messages_of` does.
    """
    record = topic.record
    if record is None or record.spec().time is None:
        raise DeclarationError(f"topic {topic.name} has no record with an event time", where="recorded topic")
    found: list[Tabular] = []
    path, start = offline_path(settings.root, topic.name), dict(since or {})
    if since is None and DeltaTable.is_deltatable(str(path)):
        table = DeltaTable(path)
        found.append(table)
        start = stored_offsets(table, topic)
    low, high = bounds(topic, settings)
    ranges = {number: (max(start.get(number, 0), low[number]), high[number]) for number in high}
    file = folder / f"{topic.name}.parquet"
    if _spool(topic, settings, ranges, file):
        found.append(str(file))
    gone = {number: first for number, first in low.items() if first > start.get(number, 0)}
    return Recorded(tuple(found), gone, high)


def count(
    topic: Topic, settings: Settings, *, since: Offsets | None = None, tenant: str | None = None
) -> int:
    """How many messages the topic holds, whatever they are; of a tenant by the header `ce_tenant`."""
    return sum(
        tenant is None or header(message.headers(), "ce_tenant") == tenant
        for messages in messages_of(topic, settings, since or {})
        for message in messages
    )


def ends(topic: Topic, settings: Settings) -> dict[int, int]:
    """The offset after the last message of each partition, now. Raises what `bounds` does."""
    return bounds(topic, settings)[1]


def bounds(topic: Topic, settings: Settings) -> tuple[dict[int, int], dict[int, int]]:
    """Per partition the oldest offset there is, and the next one. Raises Unavailable while Kafka is away, and
    with the code `ABSENT` where the topic does not exist."""
    reader = consumer(settings, None)
    try:
        return _bounds(reader, topic, settings)
    finally:
        reader.close()


def messages_of(topic: Topic, settings: Settings, since: Offsets) -> Iterator[list[Message]]:
    """Its messages up to its present end, at most `MESSAGES` at a time, from these offsets on (the oldest by
    default). Raises Unavailable when Kafka does not deliver for 30 s, and what `bounds` does."""
    low, high = bounds(topic, settings)
    ranges = {number: (max(since.get(number, 0), low[number]), high[number]) for number in high}
    yield from _between(topic, settings, ranges)


def _batches(
    topic: Topic, settings: Settings, messages_at_once: Iterator[list[Message]]
) -> Iterator[tuple[pa.RecordBatch, Sequence[Message]]]:
    """The rows, and the message of each."""
    assert topic.record is not None  # refused before
    registry = SchemaRegistry.of(settings)
    codec: RecordCodec[Any] = RecordCodec(topic.record, registry, topic.subject, max_bytes=topic.max_bytes)
    try:
        for messages in messages_at_once:
            valued = [message for message in messages if message.value() is not None]
            decoded = codec.decode_batch([message.value() for message in valued])
            if decoded.batch.num_rows:
                yield decoded.batch, [valued[index] for index in decoded.kept.tolist()]
    finally:
        registry.close()


def _spool(topic: Topic, settings: Settings, ranges: Mapping[int, tuple[int, int]], file: Path) -> bool:
    """Writes the messages of these ranges to a file; whether there is any record."""
    assert topic.record is not None  # refused before
    at = str(topic.record.spec().time)
    writer: Any = None
    try:
        for batch, messages in _batches(topic, settings, _between(topic, settings, ranges)):
            rows = pa.Table.from_batches([positioned(batch, messages, at)])
            writer = writer or pq.ParquetWriter(file, rows.schema)
            writer.write_table(rows)
    finally:
        if writer is not None:
            writer.close()
    return writer is not None


def _between(
    topic: Topic, settings: Settings, ranges: Mapping[int, tuple[int, int]]
) -> Iterator[list[Message]]:
    """The messages of [first, end) per partition, at most `MESSAGES` at a time."""
    left = {number: end for number, (first, end) in ranges.items() if first < end}
    if not left:
        return
    reader = consumer(settings, None)
    try:
        reader.assign([TopicPartition(topic.name, number, ranges[number][0]) for number in left])
        held: list[Message] = []
        size = 0
        deadline = time.monotonic() + TIMEOUT_S
        while left:
            before = len(held), len(left)
            for message in reader.consume(MESSAGES - len(held), 0.2):
                problem = message.error()
                if problem is not None and problem.code() != KafkaError._PARTITION_EOF:
                    raise Unavailable(
                        f"{topic.name} cannot be read: {problem.str()}", where=settings.kafka.address
                    )
                if problem is None and message.offset() < ranges[message.partition()][1]:
                    held.append(message)
                    size += len(message.value() or b"")
            for place in reader.position([TopicPartition(topic.name, number) for number in left]):
                if place.offset >= left[place.partition]:
                    del left[place.partition]
            if (len(held), len(left)) != before:
                deadline = time.monotonic() + TIMEOUT_S
            elif time.monotonic() > deadline:
                raise Unavailable(
                    f"{topic.name} delivers nothing for {TIMEOUT_S:.0f} s", where=settings.kafka.address
                )
            if len(held) >= MESSAGES or size >= BYTES or (held and not left):
                yield held
                held, size = [], 0
                deadline = time.monotonic() + TIMEOUT_S
    finally:
        reader.close()


def _bounds(reader: Consumer, topic: Topic, settings: Settings) -> tuple[dict[int, int], dict[int, int]]:
    low, high = {}, {}
    try:
        known = reader.list_topics(topic.name, timeout=TIMEOUT_S).topics[topic.name]
        if known.error is not None:
            absent = known.error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART
            raise Unavailable(
                f"there is no topic {topic.name}" if absent else f"{topic.name}: {known.error.str()}",
                where=settings.kafka.address,
                mend="run `millstream apply`" if absent else None,
                code=ABSENT if absent else "kafka_unavailable",
            )
        for number in known.partitions:
            low[number], high[number] = watermarks(reader, TopicPartition(topic.name, number), TIMEOUT_S)
    except KafkaException as error:
        raise Unavailable(
            f"no answer from Kafka: {error.args[0].str()}",
            where=f"{topic.name} at {settings.kafka.address}",
            mend="start it (`millstream up`), or correct MILLSTREAM_KAFKA__BOOTSTRAP",
            code="kafka_unavailable",
        ) from error
    return low, high
