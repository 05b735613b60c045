"""What a topic has recorded, for DuckDB to read: its offline table, and from there on the topic itself.

The table's log says up to which offset it has each partition, so both together have every message once. The
rest is read from Kafka to Parquet files, so many messages at a time, with the columns of the table.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from deltalake import DeltaTable

from core.errors import DeclarationError, Unavailable
from core.settings import Settings
from features.offline.tabular import Tabular
from jobs.writer.chunk import decode
from jobs.writer.sinks.offline import positioned
from pipelines.offline import application_id, offline_path
from schemas.broker import consumer, watermarks
from schemas.codec import RecordCodec
from schemas.registry import SchemaRegistry
from schemas.topic import Topic

MESSAGES = 20_000
"""Decoded at once, and one row group: at 500 bytes a message 10 MB."""
TIMEOUT_S = 30.0

Offsets = Mapping[int, int]


@dataclass(frozen=True)
class Recorded:
    """tables: in their order of arrival. gone: partitions whose messages began only at a later offset than
    what is known before: older ones are gone, by the topic's retention. ends: the offset after the last
    message that is here, per partition."""

    tables: tuple[Tabular, ...]
    gone: Offsets
    ends: Offsets


def recorded(topic: Topic, settings: Settings, folder: Path, *, since: Offsets | None = None) -> Recorded:
    """Everything there is of the topic now: the table in the data folder, if there is one, and the messages
    after it, or those from `since` on only, without the table. `folder` takes the files and is the caller's.

    Messages that are no record of the topic are left out. Raises Unavailable when Kafka does not answer.
    """
    tables: list[Tabular] = []
    path, start = offline_path(settings.root, topic.name), dict(since or {})
    if since is None and DeltaTable.is_deltatable(str(path)):
        table = DeltaTable(path)
        tables.append(table)
        for partition in range(topic.partitions):
            stored = table.transaction_version(application_id(path.name, topic.name, partition))
            start[partition] = stored or 0
    low, high = bounds(topic, settings)
    ranges = {number: (max(start.get(number, 0), low[number]), high[number]) for number in high}
    file = folder / f"{topic.name}.parquet"
    if _spool(topic, settings, ranges, file):
        tables.append(str(file))
    gone = {number: first for number, first in low.items() if first > start.get(number, 0)}
    return Recorded(tuple(tables), gone, high)


def bounds(topic: Topic, settings: Settings) -> tuple[dict[int, int], dict[int, int]]:
    """Per partition the oldest offset there is, and the next one."""
    reader = consumer(settings, None)
    low, high = {}, {}
    try:
        for number in range(topic.partitions):
            place = TopicPartition(topic.name, number)
            low[number], high[number] = watermarks(reader, place, TIMEOUT_S)
    except KafkaException as error:
        raise Unavailable(
            f"no answer from Kafka: {error.args[0].str()}", where=topic.name, code="kafka_unavailable"
        ) from error
    finally:
        reader.close()
    return low, high


def _spool(topic: Topic, settings: Settings, ranges: Mapping[int, tuple[int, int]], file: Path) -> bool:
    """Writes the messages of these ranges to a file; whether there is any record."""
    record = topic.record
    if record is None or record.spec().time is None:
        raise DeclarationError(f"topic {topic.name} has no record with an event time", where="recorded topic")
    registry = SchemaRegistry.of(settings)
    codec = RecordCodec(record, registry, topic.subject, max_bytes=topic.max_bytes)
    writer: Any = None
    try:
        for messages in _messages(topic, settings, ranges):
            chunk = decode(topic, codec, messages)
            if len(chunk):
                rows = pa.Table.from_batches([positioned(chunk, str(record.spec().time))])
                writer = writer or pq.ParquetWriter(file, rows.schema)
                writer.write_table(rows)
    finally:
        registry.close()
        if writer is not None:
            writer.close()
    return writer is not None


def _messages(
    topic: Topic, settings: Settings, ranges: Mapping[int, tuple[int, int]]
) -> Iterator[Sequence[Any]]:
    """The messages of [first, end) per partition, at most `MESSAGES` at a time."""
    left = {number: end for number, (first, end) in ranges.items() if first < end}
    if not left:
        return
    reader = consumer(settings, None)
    try:
        reader.assign([TopicPartition(topic.name, number, ranges[number][0]) for number in left])
        held: list[Any] = []
        deadline = time.monotonic() + TIMEOUT_S
        while left:
            found = reader.consume(MESSAGES - len(held), 0.2)
            for message in found:
                problem = message.error()
                if problem is not None and problem.code() != KafkaError._PARTITION_EOF:
                    raise Unavailable(f"{topic.name} cannot be read: {problem.str()}", where="recorded topic")
                if problem is None and message.offset() < ranges[message.partition()][1]:
                    held.append(message)
            if found:
                deadline = time.monotonic() + TIMEOUT_S
            elif time.monotonic() > deadline:
                raise Unavailable(
                    f"{topic.name} delivers nothing for {TIMEOUT_S:.0f} s", where="recorded topic"
                )
            for place in reader.position([TopicPartition(topic.name, number) for number in left]):
                if place.offset >= left[place.partition]:
                    del left[place.partition]
            if len(held) >= MESSAGES or (held and not left):
                yield held
                held = []
    finally:
        reader.close()
