"""A plan's stream on topics of a name of its own: the same view by the same engine, away from real events."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from confluent_kafka.admin import NewTopic

from core.errors import DeclarationError
from core.ids import new_id
from core.settings import Settings
from pipelines.plan import FeaturesPlan, Plan, ScoringPlan
from schemas.avro import schema_text
from schemas.broker import admin
from schemas.registry import SchemaRegistry
from schemas.topic import Topic

_TIMEOUT_S = 30.0


def shadow_name() -> str:
    """A new one."""
    return f"verify-{new_id()[-12:].lower()}"


def shadow_of(plan: Plan, name: str) -> Plan:
    """The plan with its stream's topics, reference tables included, renamed `<name>.<...>`; patterns and what
    follows the stream are not part of it. The same name gives the same topics."""

    def renamed(topic: Topic, kind: str) -> Topic:
        return replace(topic, name=f"{name}.{plan.view.name}.{kind}.v{plan.view.version}", dead_letters=False)

    if isinstance(plan, ScoringPlan):
        return replace(
            plan,
            pipeline=name,
            source=renamed(plan.source, "events"),
            enriched=renamed(plan.enriched, "enriched"),
            patterns=(),
        )
    if isinstance(plan, FeaturesPlan):
        lookups = tuple(
            replace(lookup, topic=replace(lookup.topic, name=f"{name}.{lookup.name}.events.v1"))
            for lookup in plan.view.lookups
            if lookup.topic is not None
        )
        return replace(
            plan,
            view=replace(plan.view, lookups=lookups),
            pipeline=name,
            source=renamed(plan.source, "events"),
            rows=renamed(plan.rows, "features"),
            late=renamed(plan.late, "late"),
        )
    raise DeclarationError(f"no stream in a {type(plan).__name__}", where=f"pipeline {plan.pipeline}")


def stream_topics(plan: Plan) -> tuple[Topic, ...]:
    """What the stream of a plan reads and writes."""
    if isinstance(plan, FeaturesPlan):
        return (plan.source, plan.rows, plan.late, *plan.references)
    if isinstance(plan, ScoringPlan):
        return (plan.source, plan.enriched)
    raise DeclarationError(f"no stream in a {type(plan).__name__}", where=f"pipeline {plan.pipeline}")


@contextmanager
def made(topics: Iterable[Topic], settings: Settings) -> Iterator[None]:
    """The topics with their schemas, for as long as it lasts. They keep events of any time: where a view
    looks back, they lie weeks back."""
    wanted = list(topics)
    client = admin(settings)
    registry = SchemaRegistry.of(settings)
    new = [
        NewTopic(
            topic.name,
            num_partitions=topic.partitions,
            replication_factor=settings.kafka.replication,
            config=topic.config(min_insync=settings.kafka.min_insync) | {"retention.ms": "-1"},
        )
        for topic in wanted
    ]
    try:
        for future in client.create_topics(new, operation_timeout=_TIMEOUT_S).values():
            future.result(_TIMEOUT_S)
        for topic in wanted:
            if topic.record is not None:
                registry.register(topic.subject, schema_text(topic.record.spec()))
        yield
    finally:
        for future in client.delete_topics([topic.name for topic in wanted]).values():
            future.exception(_TIMEOUT_S)
        for topic in wanted:
            registry.delete(topic.subject)
        registry.close()
