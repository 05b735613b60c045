"""A small pipeline on the local stack: topics, schemas, a database, and what a test does with them."""

import threading
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import NewTopic

from core.clock import SystemClock
from core.settings import Settings
from features.enriched import enriched_record
from features.view import Count, Feature, FeatureView
from jobs.writer.main import Writer
from operators.decide import Band, Bands
from pipelines.plan import Infer, Plan, ScoringPlan
from schemas.broker import admin, consumer, producer, watermarks
from schemas.catalog.alerts import Alert
from schemas.catalog.asking import REPLIES
from schemas.catalog.decisions import Decision, StatusChange, Verdict
from schemas.codec import RecordCodec
from schemas.keys import key_of
from schemas.record import Record, record
from schemas.registry import SchemaRegistry
from schemas.topic import Topic
from tests.jobs.writer.samples import START, TENANT

PARTITIONS = 2
WAIT_S = 40.0


@record(entity="card_id", time="occurred_at", namespace="millstream.tests")
class Swipe(Record, frozen=True, kw_only=True):
    """A card payment, with the least a view needs."""

    card_id: str
    occurred_at: datetime
    amount_cents: int


SWIPES = FeatureView(
    name="swipes",
    version=1,
    source=Swipe,
    entity="card_id",
    disorder=timedelta(0),
    features=(Feature("count_1h", Count(over=timedelta(hours=1)), unit="payments", empty=0),),
    ttl=timedelta(hours=1),
)
EnrichedSwipe = enriched_record(Swipe, SWIPES)


def plan_of(name: str) -> ScoringPlan:
    """The plan of a pipeline whose topics all carry `name`."""

    def topic(kind: str, of: type[Record], **more: Any) -> Topic:
        return Topic(f"test.{name}.{kind}.v1", of, partitions=PARTITIONS, **more)

    return ScoringPlan(
        pipeline=name,
        version=1,
        source=topic("events", Swipe),
        view=SWIPES,
        patterns=(),
        enriched=topic("enriched", EnrichedSwipe, append_time=True),
        infer=Infer("swipes"),
        bands=Bands((Band("block", "blocked", above=80.0),), Band("review", "in_review")),
        results=topic("results", Decision),
        status=topic("status", StatusChange),
        labels=topic("labels", Verdict),
        alerts=topic("alerts", Alert),
    )


class OnTopics:
    """The topics and schemas of a plan are there; `settings` point to the test's own stores."""

    plan: Plan

    def __init__(self, settings: Settings, plan: Plan, *, create: bool = True) -> None:
        self.settings = settings
        self.plan = plan
        self._registry = SchemaRegistry.of(settings)
        self._producer = producer(settings)
        self._codecs: dict[str, RecordCodec[Any]] = {}
        for topic in self.plan.topics:
            if topic.record is not None:
                codec = RecordCodec(topic.record, self._registry, topic.subject)
                self._codecs[topic.name] = codec
        if create:
            self._create()

    def _create(self) -> None:
        client = admin(self.settings)  # kept until the answers are here: its end cancels them
        made = client.create_topics(
            [
                NewTopic(topic.name, topic.partitions, 1, config=topic.config(min_insync=1))
                for topic in self.plan.topics
            ]
        )
        for name, outcome in made.items():
            try:
                outcome.result(timeout=30)
            except KafkaException as error:
                if name != REPLIES.name or error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise  # only replies are shared by pipelines
        for topic in self.plan.topics:
            if topic.name in self._codecs:
                self._registry.register(topic.subject, self._codecs[topic.name].text)

    def writer(self) -> Writer:
        return Writer(self.plan, self.settings)

    def send(self, topic: Topic, records: Iterable[Record]) -> None:
        """Produce records keyed as the pipeline keys them, and wait for the brokers."""
        for one in records:
            entity = getattr(one, str(one.spec().entity))
            value = self._codecs[topic.name].encode(one)
            self.send_raw(topic, value, key=key_of(one.tenant, entity))
        assert self._producer.flush(30) == 0

    def send_raw(self, topic: Topic, value: bytes | None, *, key: str = "k", headers: Any = None) -> None:
        self._producer.produce(topic.name, value=value, key=key.encode(), headers=headers)
        self._producer.poll(0)

    def messages(self, topic: Topic) -> list[Any]:
        """All that is on the topic now."""
        reader = consumer(self.settings, None)
        found: list[Any] = []
        try:
            ends = {}
            for partition in range(topic.partitions):
                _, ends[partition] = watermarks(reader, TopicPartition(topic.name, partition), 20)
            reader.assign([TopicPartition(topic.name, partition, 0) for partition in ends])
            deadline = time.monotonic() + 30
            while len(found) < sum(ends.values()) and time.monotonic() < deadline:
                found += [one for one in reader.consume(500, 0.2) if one.error() is None]
        finally:
            reader.close()
        return found

    def records(self, topic: Topic) -> list[Any]:
        codec = self._codecs[topic.name]
        return [codec.decode(message.value()) for message in self.messages(topic)]

    def committed(self, sink: str, topic: Topic) -> int:
        """How many messages of the topic the sink's group has committed."""
        reader = consumer(self.settings, f"{self.plan.pipeline}.writer.{sink}")
        try:
            asked = [TopicPartition(topic.name, partition) for partition in range(topic.partitions)]
            return sum(max(0, one.offset) for one in reader.committed(asked, timeout=10))
        finally:
            reader.close()


class Deployed(OnTopics):
    """The small pipeline of this module; one of a name that is there already, or a new one."""

    plan: ScoringPlan

    def __init__(self, settings: Settings, name: str | None = None) -> None:
        plan = plan_of(name or f"t{uuid.uuid4().hex[:10]}")
        super().__init__(settings, plan, create=name is None)


class Running:
    """A writer in this process, on a thread, stopped gracefully at the end of the block."""

    def __init__(self, deployed: OnTopics) -> None:
        self.writer = deployed.writer()
        self._thread = threading.Thread(target=self.writer.run, daemon=True)

    def __enter__(self) -> Writer:
        self._thread.start()
        return self.writer

    def __exit__(self, *_: object) -> None:
        self.writer.stop()
        self._thread.join(timeout=30)
        self.writer.probe.close()
        assert not self._thread.is_alive()


def until(condition: Callable[[], bool], what: str, within_s: float = WAIT_S) -> None:
    """Poll until true; fails with `what` at the deadline."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within_s:.0f} s: {what}")
        time.sleep(0.05)


def swipes(ids: Sequence[int]) -> list[Swipe]:
    return [
        Swipe(tenant=TENANT, id=f"s{id}", card_id=f"card-{id % 17}", occurred_at=START, amount_cents=id)
        for id in ids
    ]


def enriched(ids: Sequence[int]) -> list[Record]:
    return [
        EnrichedSwipe(  # type: ignore[call-arg]
            tenant=TENANT,
            id=f"s{id}",
            card_id=f"card-{id % 17}",
            occurred_at=START + timedelta(seconds=id),
            amount_cents=id,
            count_1h=1,
        )
        for id in ids
    ]


def results(name: str, ids: Sequence[int], *, score: float | None = None) -> list[Decision]:
    """One decision per id; every fifth is blocked, every fifth but one is for review."""
    now = SystemClock().now()
    made = []
    for id in ids:
        status, word = {0: ("blocked", "block"), 1: ("in_review", "review")}.get(
            id % 5, ("confirmed", "confirm")
        )
        made.append(
            Decision(
                tenant=TENANT,
                id=f"s{id}",
                entity=f"card-{id % 17}",
                occurred_at=START,
                pipeline=name,
                score=score if score is not None else float(id % 100),
                decision=word,
                status=status,
                model="swipes",
                model_version="1",
                decided_at=now,
            )
        )
    return made
