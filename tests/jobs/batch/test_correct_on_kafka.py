"""Corrections on a real Kafka: what is on the features topic in the end is DuckDB's over all events."""

import random
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import NewTopic

from core.clock import SystemClock, to_millis
from core.errors import InvalidInput
from core.settings import Settings, settings
from features.catalog.regional_demand import REGIONAL_DEMAND
from features.feature_rows import features_topic, late_topic, row_id
from features.offline.batch import Span
from features.offline.history import compute
from features.offline.tabular import register
from jobs.batch.backfill import backfill
from jobs.batch.correct import Corrected, CorrectedTopics, correct
from jobs.writer.chunk import decode
from jobs.writer.sinks.offline import OfflineSink
from pipelines import recorded
from pipelines.offline import read_offline
from pipelines.outbox import Outbox
from schemas.avro import schema_text
from schemas.broker import admin, consumer, producer
from schemas.catalog.user_events import UserEvent
from schemas.codec import RecordCodec
from schemas.keys import key_of, split_key
from schemas.registry import SchemaRegistry
from schemas.topic import Topic
from stack.local import Stack
from tests.features.oracle import same

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]

BEGIN = datetime(2026, 2, 2, 23, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)
VIEW = REGIONAL_DEMAND


@dataclass
class Pipeline:
    """The topics of one view, with their schemas, and a data folder."""

    settings: Settings
    topics: CorrectedTopics

    def __post_init__(self) -> None:
        self.registry = SchemaRegistry.of(self.settings)
        client = admin(self.settings)
        every = (self.topics.events, self.topics.rows, self.topics.late)
        made = client.create_topics(
            [NewTopic(topic.name, topic.partitions, 1, config=topic.config(min_insync=1)) for topic in every]
        )
        for future in made.values():
            future.result(30)
        self.codecs = {}
        for topic in every:
            assert topic.record is not None
            self.registry.register(topic.subject, schema_text(topic.record.spec()))
            self.codecs[topic.name] = RecordCodec(topic.record, self.registry, topic.subject)
        self.producer = producer(self.settings)

    def send(self, topic: Topic, table: pa.Table, entity: str) -> None:
        keys = [
            key_of(*pair) for pair in zip(*(table[n].to_pylist() for n in ("tenant", entity)), strict=True)
        ]
        for batch in table.combine_chunks().to_batches():
            for key, value in zip(keys, self.codecs[topic.name].encode_batch(batch), strict=True):
                self.producer.produce(topic.name, key=key.encode(), value=value)
        assert self.producer.flush(30) == 0

    def correct(self) -> Corrected:
        outbox = Outbox(lambda: producer(self.settings))
        return correct(VIEW, self.topics, self.settings, outbox, clock=SystemClock())

    def rows(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = recorded.read(self.topics.rows, self.settings).to_pylist()
        return found

    def newest(self) -> dict[tuple[str, str], dict[str, Any]]:
        out: dict[tuple[str, str], dict[str, Any]] = {}
        for row in self.rows():
            key = (row["tenant"], row_id(row["entity"], row["window_end"], 0))
            if key not in out or out[key]["sequence"] < row["sequence"]:
                out[key] = row
        return out

    def forget(self, topic: Topic, until: int) -> None:
        """What the topic's retention does: the first messages of each partition are gone."""
        _, high = recorded.bounds(topic, self.settings)
        places = [TopicPartition(topic.name, number, min(until, end)) for number, end in high.items()]
        client = admin(self.settings)  # kept until the answers are here
        for future in client.delete_records(places).values():
            future.result(30)

    def sunk(self, topic: Topic, time: str, most: int) -> None:
        """What the writer's sink makes of the first messages of each partition."""
        sink = OfflineSink(topic, time, self.settings.root, SystemClock(), interval_s=10)
        reader = consumer(self.settings, None)
        try:
            for number in range(topic.partitions):
                sink.positions([(topic.name, number)])
                reader.assign([TopicPartition(topic.name, number, 0)])
                messages = reader.consume(most, 3.0)
                if messages:
                    sink.write(decode(topic, self.codecs[topic.name], messages))
            sink.close()
        finally:
            reader.close()


@pytest.fixture
def pipeline(stack: Stack, tmp_path: Path) -> Pipeline:
    del stack
    domain = f"t{uuid.uuid4().hex[:8]}"
    kept: Any = {"partitions": 3, "retention": timedelta(days=3_000)}
    events = Topic(f"{domain}.user.events.v1", UserEvent, **kept)
    topics = CorrectedTopics(events, features_topic(domain, VIEW, **kept), late_topic(domain, VIEW, **kept))
    return Pipeline(settings().model_copy(update={"home": tmp_path}), topics)


def demand(number: int) -> list[UserEvent]:
    """Three hours on a day, the day before and a week before."""
    dice = random.Random(17)
    found = [
        UserEvent(
            tenant=dice.choice(["t", "u|"]), id=str(n), user_id="u", region=dice.choice(["a", "b|%", "c"]),
            kind=dice.choice(["booking", "booking", "search", "cancel"]),
            occurred_at=BEGIN - dice.choice([0, 0, 1, 7]) * DAY + timedelta(seconds=dice.randrange(10_800)),
        )
        for n in range(number)
    ]  # fmt: skip
    return sorted(found, key=lambda one: one.occurred_at)


def as_table(events: Sequence[UserEvent]) -> pa.Table:
    names = UserEvent.spec().names
    types = {name: pa.string() for name in names} | {"occurred_at": pa.timestamp("ms", tz="UTC")}
    return pa.Table.from_pylist(
        [{name: getattr(one, name) for name in names} for one in events], schema=pa.schema(types)
    )


def stream_rows(events: Sequence[UserEvent]) -> pa.Table:
    """What the Flink job sends."""
    rows = compute(VIEW, as_table(events))
    ids = [
        row_id(region, end, 0)
        for region, end in zip(rows["region"].to_pylist(), rows["window_end"].to_pylist(), strict=True)
    ]
    more = {"id": pa.array(ids), "entity": rows["region"], "sequence": pa.array([0] * len(ids), pa.int64())}
    for name, column in more.items():
        rows = rows.append_column(name, column)
    return rows


def check(pipeline: Pipeline, events: Sequence[UserEvent]) -> None:
    """Every window but those that end last is DuckDB's over all events."""
    wanted, found = compute(VIEW, as_table(events)).to_pylist(), pipeline.newest()
    last = max(row["window_end"] for row in wanted)
    assert len(found) == len(wanted)
    for right in wanted:
        if right["window_end"] < last:
            row = found[right["tenant"], row_id(right["region"], right["window_end"], 0)]
            same({name: row[name] for name in right}, right)


def test_rows_are_those_of_all_events_and_a_second_run_sends_nothing(pipeline: Pipeline) -> None:
    events = demand(600)
    late = random.Random(1).sample(events[:-20], 40)
    in_time = [one for one in events if one not in late]
    pipeline.send(pipeline.topics.events, as_table([*in_time[:300], *late, *in_time[290:]]), "region")
    pipeline.send(pipeline.topics.rows, stream_rows(in_time), "region")
    pipeline.send(pipeline.topics.late, as_table(late[:25]), "region")
    before = len(pipeline.rows())
    done = pipeline.correct()
    assert done.changed >= done.sent > 25
    assert len(pipeline.rows()) == before + done.sent
    assert pipeline.correct().sent == 0

    pipeline.send(pipeline.topics.late, as_table(late[25:]), "region")
    assert pipeline.correct().sent > 0
    assert pipeline.correct().sent == 0
    check(pipeline, events)
    assert max(row["sequence"] for row in pipeline.rows()) >= 1
    assert len({(row["tenant"], row["id"]) for row in pipeline.rows()}) == len(pipeline.rows())


def test_corrections_lie_beside_the_rows_they_correct(pipeline: Pipeline) -> None:
    events = demand(100)
    pipeline.send(pipeline.topics.events, as_table(events), "region")
    pipeline.send(pipeline.topics.rows, stream_rows(events[1:]), "region")
    pipeline.send(pipeline.topics.late, as_table(events[:1]), "region")
    assert pipeline.correct().sent >= 1
    reader = consumer(pipeline.settings, None)
    places: dict[bytes, set[int]] = {}
    try:
        for number in range(3):
            reader.assign([TopicPartition(pipeline.topics.rows.name, number, 0)])
            for message in reader.consume(500, 2.0):
                key, row = message.key(), pipeline.codecs[pipeline.topics.rows.name].decode(message.value())
                assert split_key(key.decode()) == (row.tenant, row.entity)
                places.setdefault(key, set()).add(message.partition())
    finally:
        reader.close()
    assert all(len(partitions) == 1 for partitions in places.values())


def test_what_waits_is_looked_at_again_when_its_windows_are_closed(pipeline: Pipeline) -> None:
    begin = BEGIN
    events = [
        UserEvent(
            tenant="t", id=str(n), user_id="u", region="a", kind="booking", occurred_at=begin + n * MINUTE
        )
        for n in range(90)
    ]
    late = events[40]
    in_time = [one for one in events if one is not late]
    pipeline.send(pipeline.topics.events, as_table(events[:60]), "region")
    pipeline.send(pipeline.topics.late, as_table([late]), "region")
    assert pipeline.correct().sent == 0, "no row is known: nothing is due"
    rows = stream_rows(in_time)
    pipeline.send(pipeline.topics.rows, rows.slice(0, 50), "region")
    first = pipeline.correct()
    assert (first.sent, first.waiting) == (10, 1)
    pipeline.send(pipeline.topics.events, as_table(events[60:]), "region")
    pipeline.send(pipeline.topics.rows, rows.slice(50), "region")
    assert pipeline.correct().sent > 0
    assert pipeline.correct().sent == 0
    check(pipeline, events)


def test_the_offline_tables_and_the_rest_of_the_topics_are_one(pipeline: Pipeline, tmp_path: Path) -> None:
    events = demand(300)
    late = events[30:60]
    in_time = [one for one in events if one not in late]
    pipeline.send(pipeline.topics.events, as_table(events), "region")
    pipeline.send(pipeline.topics.rows, stream_rows(in_time), "region")
    pipeline.send(pipeline.topics.late, as_table(late), "region")
    pipeline.sunk(pipeline.topics.events, "occurred_at", 50)
    pipeline.sunk(pipeline.topics.rows, "window_end", 20)
    (tmp_path / "files").mkdir()
    whole = recorded.tables(pipeline.topics.events, pipeline.settings, tmp_path / "files")
    assert len(whole.tables) == 2
    with duckdb.connect() as connection:
        for number, part in enumerate(whole.tables):
            register(connection, f"part_{number}", part, where="the test")
        ids = connection.sql("SELECT id FROM part_0 UNION ALL SELECT id FROM part_1").fetchall()
    assert sorted(ids) == sorted((one.id,) for one in events), "each message once"
    assert pipeline.correct().sent > 0
    check(pipeline, events)
    pipeline.forget(pipeline.topics.events, 45)
    assert recorded.tables(pipeline.topics.events, pipeline.settings, tmp_path / "files").gone == {}
    assert pipeline.correct().sent == 0


def test_events_that_are_gone_are_missed_and_not_taken_for_none(pipeline: Pipeline) -> None:
    events = demand(300)
    pipeline.send(pipeline.topics.events, as_table(events), "region")
    pipeline.send(pipeline.topics.rows, stream_rows(events[1:]), "region")
    pipeline.send(pipeline.topics.late, as_table(events[:1]), "region")
    pipeline.forget(pipeline.topics.events, 5)
    before = len(pipeline.rows())
    with pytest.raises(InvalidInput, match="begins later"):
        pipeline.correct()
    assert len(pipeline.rows()) == before


def test_a_backfill_from_a_recorded_topic(pipeline: Pipeline, tmp_path: Path) -> None:
    events = demand(400)
    pipeline.send(pipeline.topics.events, as_table([*events, *events[:50]]), "region")
    found = recorded.tables(pipeline.topics.events, pipeline.settings, tmp_path)
    span = Span(events[0].occurred_at - DAY, BEGIN + DAY)
    done = backfill(
        VIEW, pipeline.topics.rows, span, found.tables, root=pipeline.settings.root, clock=SystemClock()
    )
    rows = {
        (row["tenant"], row["region"], to_millis(row["window_end"])): row
        for row in read_offline(pipeline.settings.root, pipeline.topics.rows.name).to_pylist()
    }
    wanted = compute(VIEW, as_table(events)).to_pylist()
    assert done.added == len(rows) == len(wanted)
    for right in wanted:
        row = rows[right["tenant"], right["region"], to_millis(right["window_end"])]
        same({name: row[name] for name in right}, right)
