"""The registry client, the codec and the Kafka clients on the real services."""

import time
from datetime import UTC, datetime
from uuid import uuid4

import pytest
from confluent_kafka import Message, TopicPartition
from confluent_kafka.admin import NewTopic

from core.settings import settings
from schemas.broker import admin, consumer, producer
from schemas.catalog.decisions import Verdict
from schemas.codec import RecordCodec
from schemas.dead_letters import DeadLetter, dead_letter
from schemas.keys import key_of
from schemas.registry import SchemaRegistry
from stack.local import Stack
from tests.schemas.generated import make_record
from tests.schemas.registry_behaviour import RegistryBehaviour
from tests.schemas.test_broker import jvm_partition

pytestmark = pytest.mark.services
AT = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def registry(stack: Stack) -> SchemaRegistry:
    return SchemaRegistry.of(settings())


@pytest.fixture
def second(stack: Stack) -> SchemaRegistry:
    return SchemaRegistry.of(settings())


class TestOnApicurio(RegistryBehaviour):
    """The real registry passes what the fake passes."""


def test_an_old_writer_and_a_new_reader_meet_over_kafka(
    registry: SchemaRegistry, second: SchemaRegistry
) -> None:
    """Bytes of both schemas on one topic, a damaged one between them, which is dead-lettered."""
    topic = f"test.evolution-{uuid4().hex[:8]}.events.v1"
    subject = f"{topic}-value"
    old_type, new_type = make_record([("a", int)]), make_record([("a", float), ("b", str | None, None)])
    manager = admin(settings())
    for future in manager.create_topics([NewTopic(topic, 4, 1), NewTopic(f"{topic}.dlq", 1, 1)]).values():
        future.result(20)
    old = RecordCodec(old_type, registry, subject)
    new = RecordCodec(new_type, second, subject)
    registry.register(subject, old.text)
    registry.set_compatibility(subject)
    second.register(subject, new.text)

    sending = producer(settings())
    keys = [key_of("bank", f"card-{n}") for n in range(30)]
    for n, key in enumerate(keys):
        if n == 7:
            value = b"\0\0\0\0"
        elif n % 2:
            value = old.encode(old_type(tenant="bank", id=str(n), at=AT, a=n))  # type: ignore[call-arg]
        else:
            value = new.encode(new_type(tenant="bank", id=str(n), at=AT, a=n / 2, b="new"))  # type: ignore[call-arg]
        sending.produce(topic, key=key, value=value, headers=[("ce_id", str(n).encode())])
    assert sending.flush(20) == 0

    messages = read(topic, 4, 30)
    assert {m.key().decode(): m.partition() for m in messages} == {
        k: jvm_partition(k.encode(), 4) for k in keys
    }
    decoded = RecordCodec(new_type, SchemaRegistry.of(settings()), subject).decode_batch(
        [message.value() for message in messages]
    )
    found = dict(
        zip(decoded.batch.column("id").to_pylist(), decoded.batch.column("a").to_pylist(), strict=True)
    )
    assert found == {str(n): float(n) if n % 2 else n / 2 for n in range(30) if n != 7}

    (bad,) = decoded.bad
    dead_letter(sending, messages[bad.index], bad.code, bad.reason, "decode", "test")
    assert sending.flush(20) == 0
    letter = DeadLetter.read(read(f"{topic}.dlq", 1, 1)[0])
    assert (letter.code, letter.value, letter.headers) == ("not_avro", b"\0\0\0\0", [("ce_id", b"7")])
    assert (letter.topic, letter.partition) == (topic, messages[bad.index].partition())


def test_ids_outlive_the_client(registry: SchemaRegistry, second: SchemaRegistry) -> None:
    subject = f"test.ids-{uuid4().hex[:8]}.events.v1-value"
    codec = RecordCodec(Verdict, registry, subject)
    registry.register(subject, codec.text)
    verdict = Verdict(
        tenant="t",
        id="1",
        entity="e",
        occurred_at=AT,
        pipeline="p",
        verdict="fraud",
        reviewer="r",
        decided_at=AT,
    )
    assert RecordCodec(Verdict, second, subject).decode(codec.encode(verdict)) == verdict


def read(topic: str, partitions: int, count: int) -> list[Message]:
    reading = consumer(settings(), None)
    reading.assign([TopicPartition(topic, partition, 0) for partition in range(partitions)])
    found: list[Message] = []
    deadline = time.monotonic() + 30
    while len(found) < count and time.monotonic() < deadline:
        for message in reading.consume(count, 0.1):
            assert message.error() is None
            found.append(message)
    reading.close()
    assert len(found) == count
    return found
