"""A stream of the tests on the real stack: topics, schemas, a keeper in a thread, what came out."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
from confluent_kafka import TopicPartition
from confluent_kafka.admin import NewTopic

from core.clock import to_millis
from core.settings import Settings
from core.telemetry.probe import Probe
from features.compile.flink import Stream
from features.compile.flink_windows import WindowedStream
from jobs.on_flink.java_parts import JavaParts
from jobs.on_flink.keeper import keep
from jobs.on_flink.rest import FlinkRest
from jobs.on_flink.submit import FlinkJob
from schemas.avro import schema_text
from schemas.broker import admin, consumer, producer, watermarks
from schemas.codec import RecordCodec
from schemas.headers import event_headers
from schemas.keys import key_of
from schemas.record import Record
from schemas.registry import SchemaRegistry
from schemas.topic import Topic
from stack.artifacts import ArtifactCache
from stack.service import java
from tests.jobs.on_flink.payments import ACTIVITY

QUIET = timedelta(milliseconds=150)


def java_parts(settings: Settings) -> JavaParts:
    cache = ArtifactCache(settings.cache)
    return JavaParts(java(), cache.verified("java-compiler")[0], cache.verified("flink-connectors"))


def wait_for(what: str, done: Callable[[], bool], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not done():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s:g} s: {what}")
        time.sleep(0.05)


@dataclass
class Live:
    """One stream with its topics made and its schemas registered."""

    settings: Settings
    stream: Stream | WindowedStream
    sent: list[Record] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.registry = SchemaRegistry(self.settings.registry.address)
        topics = [topic for topic in vars(self.stream).values() if isinstance(topic, Topic)]
        client = admin(self.settings)
        made = client.create_topics(
            [NewTopic(topic.name, topic.partitions, 1, config=topic.config(min_insync=1)) for topic in topics]
        )
        for future in made.values():
            future.result(30)
        for topic in topics:
            assert topic.record is not None
            self.registry.register(topic.subject, schema_text(topic.record.spec()))
        self.codec = RecordCodec(self.stream.source.record, self.registry, self.stream.source.subject)
        self.producer = producer(self.settings)
        self.rest = FlinkRest(self.settings.flink.address)

    # -- sending ----------------------------------------------------------------------------------

    def send(self, records: Sequence[Record], *, rate: float | None = None) -> None:
        """Publish as the gateway does, the event time as the message's timestamp; `rate` per second."""
        begun = time.monotonic()
        for index, record in enumerate(records):
            if rate is not None:
                time.sleep(max(0.0, begun + index / rate - time.monotonic()))
            self.publish(record)
        assert self.producer.flush(30) == 0
        self.sent += records

    def publish(self, record: Record, *, partition: int | None = None) -> None:
        more = {} if partition is None else {"partition": partition}
        spec = record.spec()
        at = getattr(record, spec.time)
        self.producer.produce(
            self.stream.source.name,
            key=key_of(record.tenant, getattr(record, spec.entity)),
            value=self.codec.encode(record),
            timestamp=to_millis(at),
            headers=event_headers(
                id=record.id, source="tests", type=spec.name.lower(), time=at,
                tenant=record.tenant, received_at=datetime.now(UTC), traceparent="00-" + "a" * 32,
            ),
            **more,
        )  # fmt: skip
        self.producer.poll(0)

    def raw(self, value: bytes, *, at: datetime, partition: int = 0) -> None:
        """Bytes that no gateway would send."""
        self.producer.produce(
            self.stream.source.name, key=b"raw", value=value, partition=partition, timestamp=to_millis(at)
        )
        assert self.producer.flush(30) == 0

    # -- what came out ----------------------------------------------------------------------------

    def enriched(self) -> list[Any]:
        return [record for record, _ in self.read(self.stream.enriched)]

    def alerts(self) -> list[Any]:
        return [record for record, _ in self.read(self.stream.alerts)]

    def read(self, topic: Topic) -> list[tuple[Any, int]]:
        """All records of a topic with the time the broker or the producer gave them (ms)."""
        assert topic.record is not None
        codec = RecordCodec(topic.record, self.registry, topic.subject)
        reader = consumer(self.settings, None)
        out: list[tuple[Any, int]] = []
        try:
            for number in range(topic.partitions):
                place = TopicPartition(topic.name, number)
                low, high = watermarks(reader, place, 10)
                if high == low:
                    continue
                reader.assign([TopicPartition(topic.name, number, low)])
                at = low
                while at < high:
                    for message in reader.consume(1000, 1.0):
                        assert message.error() is None
                        at = (message.offset() or 0) + 1
                        value = message.value()
                        if value is not None:
                            out.append((codec.decode(value), message.timestamp()[1]))
        finally:
            reader.close()
        return out

    def settled(self, count: int, timeout_s: float = 60.0) -> list[Any]:
        """The enriched records once there are `count`, and half a second later, for any too many."""
        wait_for(f"{count} enriched records", lambda: self.count(self.stream.enriched) >= count, timeout_s)
        time.sleep(0.5)
        return self.enriched()

    def count(self, topic: Topic) -> int:
        reader = consumer(self.settings, None)
        try:
            ends = [
                watermarks(reader, TopicPartition(topic.name, number), 10)
                for number in range(topic.partitions)
            ]
        finally:
            reader.close()
        return sum(high - low for low, high in ends)

    # -- the job ----------------------------------------------------------------------------------

    @contextmanager
    def keeping(self, *, disorder: timedelta | None = None, quiet: timedelta = QUIET) -> Iterator[Probe]:
        """A keeper of the stream's job, ready; stops it with a savepoint at the end."""
        probe, stopping = Probe(), threading.Event()
        job = FlinkJob(self.stream, self.settings, java_parts(self.settings), disorder)
        keeper = threading.Thread(
            target=keep, args=(job, stopping), kwargs={"quiet": quiet, "probe": probe}, daemon=True
        )
        keeper.start()
        try:
            wait_for("the job runs", lambda: probe.readiness()[0], 150.0)
            yield probe
        finally:
            stopping.set()
            keeper.join(60)
            assert not keeper.is_alive()

    def close(self) -> None:
        """Cancel what a failed test left running."""
        for job in self.running():
            self.rest.cancel(job, timeout_s=20)
        self.rest.close()
        self.registry.close()

    def running(self) -> list[str]:
        return [job.id for job in self.rest.jobs(self.stream.pipeline) if not job.ended]


PAYMENTS = pa.schema(
    [
        ("tenant", pa.string()), ("id", pa.string()), ("card_id", pa.string()),
        ("occurred_at", pa.timestamp("ms", tz="UTC")), ("amount_cents", pa.int64()),
        ("email_domain", pa.string()), ("channel", pa.int32()), ("weight", pa.float64()),
    ]
)  # fmt: skip


def as_table(records: Sequence[Any]) -> pa.Table:
    """Payments, or enriched payments with their features and `late`, as columns."""
    schema = PAYMENTS
    if records and hasattr(records[0], "late"):
        features = [
            (feature.name, pa.int64() if ACTIVITY.kind(feature) == "long" else pa.float64())
            for feature in ACTIVITY.features
        ]
        schema = pa.schema([*PAYMENTS, *features, ("late", pa.bool_())])
    return pa.Table.from_pylist(
        [{name: getattr(record, name) for name in schema.names} for record in records], schema=schema
    )


def repeated(records: Sequence[Any]) -> list[tuple[str, str]]:
    """(tenant, id) of those that are there more than once."""
    seen = Counter((record.tenant, record.id) for record in records)
    return [key for key, times in seen.items() if times > 1]
