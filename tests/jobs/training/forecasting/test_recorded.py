"""Examples out of recorded events, on a real Kafka: each event once, whichever partition it came by."""

import uuid
from dataclasses import replace as changed
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from confluent_kafka.admin import NewTopic
from msgspec.structs import replace

from core.clock import SystemClock
from core.settings import settings
from jobs.sources.generated_baskets import SOURCE
from jobs.training.beginning import Asked, begin
from jobs.training.forecasting import extract
from jobs.training.run_folder import RunFolder
from jobs.training.workspace import Workspace
from pipelines.load import load_plan
from pipelines.training.configuration import Configuration, Source
from schemas.avro import schema_text
from schemas.broker import admin, producer
from schemas.catalog.user_events import UserEvent
from schemas.codec import RecordCodec
from schemas.registry import SchemaRegistry
from schemas.topic import Topic
from stack.local import Stack
from tests.jobs.training.forecasting.small import QUICK, bookings, counted
from tests.jobs.training.small import surroundings

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]


def recorded_on(topic: Topic, events: pa.Table) -> None:
    given = settings()
    client = admin(given)
    for future in client.create_topics([NewTopic(topic.name, topic.partitions, 1)]).values():
        future.result(30)
    registry = SchemaRegistry.of(given)
    registry.register(topic.subject, schema_text(UserEvent.spec()))
    codec = RecordCodec(UserEvent, registry, topic.subject)
    sender = producer(given)
    (batch,) = events.combine_chunks().to_batches()
    for region, value in zip(events["region"].to_pylist(), codec.encode_batch(batch), strict=True):
        sender.produce(topic.name, key=region.encode(), value=value)
    assert sender.flush(30) == 0


def space(root: Path, configuration: Configuration, events: pa.Table | None = None) -> Workspace:
    folder = RunFolder(root, "run")
    begin(configuration, folder, Asked(), SystemClock())
    given = None if events is None else (events, SOURCE)
    return Workspace(folder, surroundings(root), SystemClock(), given=given)


def test_recorded_events_give_the_examples_of_the_events(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = load_plan("demand")
    topic = Topic(
        f"test.bookings-{uuid.uuid4().hex[:8]}.events.v1", UserEvent, partitions=plan.source.partitions
    )
    events = bookings({"north": counted(50, 9, 1), "south": counted(50, 7, 2)})
    recorded_on(topic, pa.concat_tables([events, events.slice(100, 50)]))  # some came twice
    monkeypatch.setattr(extract, "plan_of", lambda _: changed(plan, source=topic))

    given = replace(QUICK, source=Source(kind="recorded"))
    read = space(tmp_path / "read", given)
    found = extract.extract(read)
    plain = space(tmp_path / "plain", QUICK, events)
    extract.extract(plain)
    assert found["events"] == events.num_rows
    assert sum(found["offsets"][topic.name].values()) == events.num_rows + 50
    assert found["source"] == f"recorded events of {topic.name}"
    assert read.rows.equals(plain.rows)
    assert pc.sum(read.rows["target"]).as_py() > 0
