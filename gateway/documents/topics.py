"""The Kafka topics, for AsyncAPI: what is on each, and what this gateway sends to it or reads of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from gateway.documents.schemas import STRING, Schema, record
from gateway.documents.served import Served
from pipelines.generating import REQUESTS, TOPICS
from pipelines.plan import ScoringPlan
from schemas.avro import compile_schema
from schemas.catalog import models, security, training
from schemas.catalog.asking import REPLIES
from schemas.catalog.conversations import CONVERSATIONS
from schemas.headers import CONTENT_TYPE
from schemas.topic import Topic

AVRO = "application/vnd.apache.avro+json;version=1.9.0"
Action = Literal["send", "receive"]


@dataclass(frozen=True)
class Used:
    """A topic of some pipelines, and what this gateway does with it, each with the reason."""

    topic: Topic
    pipelines: tuple[str, ...] = ()
    actions: Mapping[Action, str] = field(default_factory=dict)


def topics(served: Served) -> dict[str, Used]:
    """By name, every topic of the pipelines and of this gateway."""
    found: dict[str, Used] = {}

    def add(topic: Topic, pipeline: str | None = None, action: Action | None = None, why: str = "") -> None:
        there = found.get(topic.name) or Used(topic)
        if pipeline is not None and pipeline not in there.pipelines:
            there = replace(there, pipelines=(*there.pipelines, pipeline))
        if action is not None and action not in there.actions:
            there = replace(there, actions={**there.actions, action: why})
        found[topic.name] = there

    for name, plan in sorted(served.plans.items()):
        for topic in plan.topics:
            add(topic, name)
        if name in served.intakes:
            add(
                plan.source,
                name,
                "send",
                "The events that were accepted; each is answered with 202 once Kafka has it.",
            )
        if isinstance(plan, ScoringPlan):
            add(plan.requests, name, "send", "Requests, and that somebody has left who asked.")
            add(plan.labels, name, "send", "The verdicts of analysts.")
    for feed in served.feeds:
        add(feed.topic, None, "receive", f"What is pushed on the channel `{feed.name}`.")
    add(REPLIES, None, "receive", "Answers, from the one partition that this gateway names in its requests.")
    for topic in (*training.TOPICS, *models.SERVING_TOPICS, *(TOPICS if served.llm else ())):
        add(topic)
    add(training.COMMANDS, None, "send", "Trainings that are asked for.")
    add(training.COMMANDS, None, "receive", "Trainings that no scheduler has taken yet.")
    add(training.STATUS, None, "receive", "How trainings stand.")
    add(models.COMMANDS, None, "send", "What is to be changed about the models that serve.")
    for topic, why in (
        (models.ROUTING, "Which versions should answer."),
        (models.STATES, "What the workers hold."),
        (models.REPLIES, "What the controller answers."),
    ):
        add(topic, None, "receive", why)
    for topic in security.TOPICS:
        add(topic)
    add(security.SECURITY_EVENTS, None, "send", "Who did what, and who was refused.")
    if served.llm:
        add(REQUESTS, None, "send", "Questions to language models.")
        add(CONVERSATIONS, None, "send", "What is said in conversations.")
    return dict(sorted(found.items()))


def payload(topic: Topic) -> Schema:
    """Of a message's value: Avro in Confluent's wire format. A dead letter is what the message was."""
    if topic.record is None:
        return {"description": "the bytes of the message that could not be handled, as they were"}
    return {"schemaFormat": AVRO, "schema": compile_schema(topic.record.spec())}


def message_headers(topic: Topic) -> Schema:
    """CloudEvents in binary mode, the W3C trace; of a dead letter why it was given up, too."""
    names = ["ce_specversion", "ce_id", "ce_source", "ce_type", "ce_time", "ce_tenant", "ce_receivedat"]
    optional = ["traceparent"]
    if topic.name.split(".")[-2:-1] in (["requests"], ["replies"]):
        optional += ["correlation_id", "reply_to", "deadline"]
    if topic.record is None:
        parts = ("reason", "code", "stage", "topic", "partition", "offset", "at", "job")
        optional = [*names, *optional]
        names = [f"dlq_{part}" for part in parts]
    properties: dict[str, Any] = dict.fromkeys((*names, *optional), STRING)
    properties["content-type"] = {"const": CONTENT_TYPE} if topic.record is not None else STRING
    made = dict(record(properties, required=()))
    del made["additionalProperties"]  # others may add theirs
    return made


def bindings(topic: Topic) -> dict[str, Any]:
    configuration = {
        "cleanup.policy": [topic.cleanup],
        "retention.ms": int(topic.retention.total_seconds() * 1000),
        "max.message.bytes": topic.max_bytes,
    }
    return {
        "kafka": {
            "topic": topic.name,
            "partitions": topic.partitions,
            "topicConfiguration": configuration,
            "bindingVersion": "0.5.0",
        }
    }


def key(topic: Topic) -> dict[str, Any]:
    spec = None if topic.record is None else topic.record.spec()
    about = (
        "of the message that could not be handled"
        if spec is None
        else f"tenant|{spec.entity}, % and | escaped"
    )
    if topic.name == security.SECURITY_EVENTS.name:
        about = "writer"  # alone: a chain lies in one partition, whatever tenants its entries are of
    return {
        "kafka": {
            "key": {"type": "string", "description": about},
            "schemaIdLocation": "payload",
            "schemaIdPayloadEncoding": "confluent",
            "bindingVersion": "0.5.0",
        }
    }
