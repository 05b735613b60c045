"""What applying a plan would create or change, and doing it. Applying twice changes nothing.

The order is: schemas (an incompatible one is refused before anything is touched), topics, tables, views. A
topic's partition count never changes, because it would move keys to other partitions under running jobs.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import psycopg
from confluent_kafka import KafkaException
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
)

from core.errors import DeclarationError, IncompatibleSchema, Unavailable
from core.settings import Settings
from features.identity import changed_meaning
from pipelines.applied_views import applied_forms, record_applied
from pipelines.audit.table import create_audit_table
from pipelines.plan import Plan, ServedPlan
from pipelines.tables import create_tables
from schemas.avro import schema_text
from schemas.broker import admin
from schemas.catalog.models import SERVING_TOPICS
from schemas.catalog.security import TOPICS as SECURITY_TOPICS
from schemas.evolution import diff, explain
from schemas.registry import SchemaRegistry
from schemas.topic import Topic

TIMEOUT_S = 30.0


class Action(StrEnum):
    CREATE = "create"
    CHANGE = "change"
    KEEP = "keep"
    REFUSE = "refuse"


@dataclass(frozen=True)
class Change:
    """One thing of a plan against what is there. `detail` has a line per difference."""

    kind: str
    name: str
    action: Action
    detail: tuple[str, ...] = ()


def topics_of(plans: Iterable[Plan]) -> list[Topic]:
    """Every topic of the plans once, in the order of their paths; those of model serving where one scores;
    those of the audit trail."""
    plans = list(plans)
    topics = {topic.name: topic for plan in plans for topic in plan.topics}
    if any(isinstance(plan, ServedPlan) for plan in plans):
        topics |= {topic.name: topic for topic in SERVING_TOPICS}
    topics |= {topic.name: topic for topic in SECURITY_TOPICS}
    return list(topics.values())


def compare(plans: Sequence[Plan], settings: Settings) -> list[Change]:
    """Every topic, schema and view of the plans against broker, registry and database; nothing is written.

    Raises Unavailable when one of them is away.
    """
    return _compare(topics_of(plans), settings) + _compare_views(plans, settings)


def apply(plans: Sequence[Plan], settings: Settings) -> list[Change]:
    """Make it so; returns what was done. Raises IncompatibleSchema or DeclarationError before any change."""
    changes = compare(plans, settings)
    _carry_out(changes, topics_of(plans), settings)
    with _database(settings) as connection:
        create_tables(connection)
        create_audit_table(connection)
        record_applied(connection, [plan.view for plan in plans])
    return changes


def apply_topics(topics: Sequence[Topic], settings: Settings) -> list[Change]:
    """`apply` for topics that belong to no plan."""
    changes = _compare(topics, settings)
    _carry_out(changes, topics, settings)
    return changes


def _compare(topics: Sequence[Topic], settings: Settings) -> list[Change]:
    registry = SchemaRegistry.of(settings)
    try:
        changes = [_compare_schema(topic, registry) for topic in topics if topic.record is not None]
    finally:
        registry.close()
    return changes + _compare_topics(topics, settings)


def _carry_out(changes: Sequence[Change], topics: Sequence[Topic], settings: Settings) -> None:
    _refuse(changes)
    by_name = {topic.name: topic for topic in topics}
    _apply_schemas(
        [by_name[c.name] for c in changes if c.kind == "schema" and c.action is not Action.KEEP], settings
    )
    client = admin(settings)
    _create_topics(
        client,
        [by_name[c.name] for c in changes if c.kind == "topic" and c.action is Action.CREATE],
        settings,
    )
    _alter_topics(
        client,
        [by_name[c.name] for c in changes if c.kind == "topic" and c.action is Action.CHANGE],
        settings,
    )


def _refuse(changes: Iterable[Change]) -> None:
    """Raises for the first change that is refused."""
    for change in changes:
        if change.action is Action.REFUSE:
            refusal = IncompatibleSchema if change.kind == "schema" else DeclarationError
            raise refusal(
                f"{change.kind} {change.name} cannot be applied\n  " + "\n  ".join(change.detail),
                mend="declare a new version (a new topic name), or take the change back",
            )


def _compare_schema(topic: Topic, registry: SchemaRegistry) -> Change:
    if topic.record is None:
        return Change("schema", topic.name, Action.KEEP)
    text = schema_text(topic.record.spec())
    versions = registry.versions(topic.subject)
    if not versions:
        return Change("schema", topic.name, Action.CREATE, (f"{len(topic.record.spec().fields)} fields",))
    differences = tuple(str(change) for change in diff(versions[-1], text))
    if not differences:
        return Change("schema", topic.name, Action.KEEP)
    if any(change.rule for old in versions for change in diff(old, text)):
        return Change("schema", topic.name, Action.REFUSE, tuple(explain(versions, text).splitlines()))
    return Change("schema", topic.name, Action.CHANGE, differences)


def _apply_schemas(topics: Sequence[Topic], settings: Settings) -> None:
    registry = SchemaRegistry.of(settings)
    try:
        for topic in topics:
            if topic.record is not None:
                registry.register(topic.subject, schema_text(topic.record.spec()))
                registry.set_compatibility(topic.subject)
    finally:
        registry.close()


def _compare_topics(topics: Sequence[Topic], settings: Settings) -> list[Change]:
    client = admin(settings)
    try:
        there = client.list_topics(timeout=TIMEOUT_S).topics
    except KafkaException as error:
        raise Unavailable(
            f"no answer from Kafka: {error.args[0].str()}",
            where=settings.kafka.address,
            mend="start it (`millstream up`), or correct MILLSTREAM_KAFKA__BOOTSTRAP",
        ) from error
    known = [topic.name for topic in topics if topic.name in there]
    configs = _configs(client, known)
    changes = []
    for topic in topics:
        wanted = topic.config(min_insync=settings.kafka.min_insync)
        shape = f"{topic.partitions} partitions, {settings.kafka.replication} replicas"
        if topic.name not in there:
            detail = (shape, *(f"{name} = {value}" for name, value in wanted.items()))
            changes.append(Change("topic", topic.name, Action.CREATE, detail))
            continue
        count = len(there[topic.name].partitions)
        if count != topic.partitions:
            detail = (
                f"partitions {count} -> {topic.partitions}",
                "rule: a partition count never changes, it would move keys under running jobs",
            )
            changes.append(Change("topic", topic.name, Action.REFUSE, detail))
            continue
        found = configs[topic.name]
        differences = tuple(
            f"{name} {found.get(name)} -> {value}"
            for name, value in wanted.items()
            if found.get(name) != value
        )
        changes.append(
            Change("topic", topic.name, Action.CHANGE if differences else Action.KEEP, differences)
        )
    return changes


def _configs(client: AdminClient, names: Sequence[str]) -> dict[str, dict[str, str]]:
    if not names:
        return {}
    asked = client.describe_configs([ConfigResource(ResourceType.TOPIC, name) for name in names])
    return {
        resource.name: {name: entry.value for name, entry in future.result(TIMEOUT_S).items()}
        for resource, future in asked.items()
    }


def _create_topics(client: AdminClient, topics: Sequence[Topic], settings: Settings) -> None:
    if not topics:
        return
    wanted = [
        NewTopic(
            topic.name,
            num_partitions=topic.partitions,
            replication_factor=settings.kafka.replication,
            config=topic.config(min_insync=settings.kafka.min_insync),
        )
        for topic in topics
    ]
    _settle(client.create_topics(wanted, operation_timeout=TIMEOUT_S), already="TOPIC_ALREADY_EXISTS")


def _alter_topics(client: AdminClient, topics: Sequence[Topic], settings: Settings) -> None:
    if not topics:
        return
    resources = []
    for topic in topics:
        entries = [
            ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
            for name, value in topic.config(min_insync=settings.kafka.min_insync).items()
        ]
        resources.append(ConfigResource(ResourceType.TOPIC, topic.name, incremental_configs=entries))
    _settle(client.incremental_alter_configs(resources))


def _settle(futures: dict[Any, Any], already: str | None = None) -> None:
    for what, future in futures.items():
        try:
            future.result(TIMEOUT_S)
        except KafkaException as error:
            if already is None or error.args[0].name() != already:
                raise Unavailable(f"Kafka refused {what}: {error.args[0].str()}") from error


def _compare_views(plans: Sequence[Plan], settings: Settings) -> list[Change]:
    with _database(settings) as connection:
        applied = applied_forms(connection)
    changes = []
    for view in (plan.view for plan in plans):
        name, form = f"{view.name} v{view.version}", applied.get((view.name, view.version))
        if form is None:
            changes.append(Change("view", name, Action.CREATE, (f"{len(view.features)} features",)))
            continue
        differences = changed_meaning(form, view)
        changes.append(Change("view", name, Action.REFUSE if differences else Action.KEEP, differences))
    return changes


@contextmanager
def _database(settings: Settings) -> Iterator[psycopg.Connection[Any]]:
    try:
        with psycopg.connect(settings.postgres.address, connect_timeout=10) as connection:
            yield connection
    except psycopg.OperationalError as error:
        raise Unavailable(
            f"no answer from PostgreSQL: {error}",
            where=settings.postgres.address.rpartition("@")[2],
            mend="start it (`millstream up`), or correct MILLSTREAM_POSTGRES__URL",
        ) from error
