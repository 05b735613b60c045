"""Correct the rows of a windowed view for events that came too late for the stream.

Reads the late topic from where the last run ended, what is known of the view's rows, and the recorded events;
sends the rows that change to the view's features topic, keyed as the stream keys them, with the next higher
sequence. The offsets of late events are committed after the brokers have acknowledged, and only up to the
first one that changes a window which is not due yet; of those that are read again only what still differs is
sent. So a run that was killed at any moment, or is run twice, sends nothing twice, but for two at one time:
then a row may be there twice, with equal id and values.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
from confluent_kafka import Consumer, KafkaException, TopicPartition

from core.clock import Clock, from_millis
from core.errors import InvalidInput, Unavailable
from core.settings import Settings
from features.feature_rows import ENTITY
from features.offline.batch import register_lookups
from features.offline.corrections import NOTHING, Corrections, Due
from features.offline.history import integers_fit
from features.offline.out_of_core import DEFAULT, Limits, connected
from features.offline.recorded_events import RecordedEvents
from features.view import FeatureView
from pipelines import recorded
from pipelines.outbox import Outbox
from pipelines.recorded import TIMEOUT_S, Recorded
from schemas.broker import consumer
from schemas.codec import RecordCodec
from schemas.keys import key_of
from schemas.registry import SchemaRegistry
from schemas.topic import Topic

ROWS_AT_ONCE = 5_000


@dataclass(frozen=True)
class CorrectedTopics:
    """What a correction reads and writes, of one view: the events, the view's feature rows, its late events
    (`features.feature_rows`)."""

    events: Topic
    rows: Topic
    late: Topic


@dataclass(frozen=True)
class Corrected:
    """changed: windows looked at. sent: rows that differed. waiting: partitions of the late topic with events
    that have to be looked at again, when the windows they change are closed."""

    changed: int
    sent: int
    waiting: int
    seconds: float


def group_of(view: FeatureView) -> str:
    """The consumer group that keeps how far late events were looked at."""
    return f"{view.name}.v{view.version}.corrections"


def correct(
    view: FeatureView,
    topics: CorrectedTopics,
    settings: Settings,
    outbox: Outbox,
    *,
    clock: Clock,
    lookups: Mapping[str, pa.Table] | None = None,
    limits: Limits = DEFAULT,
) -> Corrected:
    """Send what the late events change. One run; start it now and then, as often as corrections are wanted.

    Raises InvalidInput where events are gone that a corrected window is made of (the topic's retention is
    over and there is no table of them), Unavailable while Kafka is away: run it again.
    """
    begun = clock.monotonic()
    group = consumer(settings, group_of(view))
    registry = SchemaRegistry.of(settings)
    try:
        with (
            tempfile.TemporaryDirectory(prefix="correct-", dir=limits.folder) as folder,
            connected(limits, where="correct") as connection,
            integers_fit(view),
        ):
            # In this order: every event of a window of which a later row is known is among the events then.
            late = recorded.tables(topics.late, settings, Path(folder), since=_committed(group, topics.late))
            due, sent = NOTHING, 0
            if late.tables:
                register_lookups(connection, view, lookups or {})
                known = recorded.tables(topics.rows, settings, Path(folder))
                work = Corrections(connection, view, late.tables, known.tables)
                due = work.due()
                if due.changed:
                    events = recorded.tables(topics.events, settings, Path(folder))
                    _check_complete(connection, view, events, due)
                    assert topics.rows.record is not None  # tables() has refused it
                    codec = RecordCodec(topics.rows.record, registry, topics.rows.subject)
                    query = work.rows(due, events.tables)
                    sent = _send(connection, query, topics.rows.name, codec, outbox)
            _commit(group, topics.late, dict(late.ends) | dict(due.waiting))
        return Corrected(due.changed, sent, len(due.waiting), clock.monotonic() - begun)
    finally:
        registry.close()
        group.close()


def _send(
    connection: duckdb.DuckDBPyConnection,
    query: str,
    topic: str,
    codec: RecordCodec[Any],
    outbox: Outbox,
) -> int:
    sent = 0
    for batch in connection.sql(query).to_arrow_reader(ROWS_AT_ONCE):
        tenants, entities = batch.column("tenant").to_pylist(), batch.column(ENTITY).to_pylist()
        for tenant, entity, value in zip(tenants, entities, codec.encode_batch(batch), strict=True):
            outbox.send(topic, key=key_of(tenant, entity), value=value, headers=[])
        outbox.settle()
        sent += batch.num_rows
    return sent


def _check_complete(
    connection: duckdb.DuckDBPyConnection, view: FeatureView, events: Recorded, due: Due
) -> None:
    """Where older messages are gone, what is left must begin before what is read."""
    if not events.gone:
        return
    begins = RecordedEvents(connection, view, events.tables, name="__bounds").begins()
    for partition in events.gone:
        if begins.get(partition, due.reads_ms + 1) > due.reads_ms:
            raise InvalidInput(
                f"events since {from_millis(due.reads_ms)} are needed, partition {partition} begins later",
                where=view.where,
                mend="keep the events in the offline store, or on their topic for longer than late ones come",
                code="events_gone",
            )


def _committed(group: Consumer, late: Topic) -> dict[int, int]:
    try:
        asked = [TopicPartition(late.name, number) for number in range(late.partitions)]
        return {one.partition: max(0, one.offset) for one in group.committed(asked, timeout=TIMEOUT_S)}
    except KafkaException as problem:
        raise _away(problem) from problem


def _commit(group: Consumer, late: Topic, offsets: Mapping[int, int]) -> None:
    places = [TopicPartition(late.name, number, offset) for number, offset in offsets.items()]
    try:
        group.commit(offsets=places, asynchronous=False)
    except KafkaException as problem:
        raise _away(problem) from problem


def _away(problem: KafkaException) -> Unavailable:
    return Unavailable(f"Kafka does not answer: {problem}", code="kafka_unavailable")
