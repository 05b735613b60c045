"""The outbox on a real Kafka: what is settled is there, what is not is an error in bounded time."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from confluent_kafka import Consumer, Message, Producer, TopicPartition
from confluent_kafka.admin import NewTopic

from core.errors import InternalError, Unavailable
from core.ids import new_id
from core.settings import settings
from pipelines.changes import apply_topics
from pipelines.outbox import Outbox, RecordOutbox, codec_of
from schemas import broker
from schemas.catalog.alerts import ALERTS, SYSTEM_TENANT, Alert
from schemas.dead_letters import DeadLetter
from schemas.headers import header
from schemas.keys import key_of
from schemas.registry import SchemaRegistry
from schemas.topic import Topic
from stack.local import Stack

pytestmark = pytest.mark.services
NOBODY = "127.0.0.1:1"


@pytest.fixture
def topic(stack: Stack) -> str:
    del stack
    name = f"t{new_id()}"
    made = [NewTopic(f"{name}{end}", num_partitions=2, replication_factor=1) for end in ("", ".dlq")]
    client = broker.admin(settings())  # kept: what it was asked for ends with it
    for future in client.create_topics(made, operation_timeout=20).values():
        future.result()
    return name


def connecting(**more: Any) -> Callable[[], Producer]:
    return lambda: broker.producer(settings(), **more)


def away(**more: Any) -> Producer:
    """A producer whose brokers do not answer; it says so to nobody."""
    config = broker.producer_config(settings(), **more) | {"bootstrap.servers": NOBODY}
    return Producer(config | {"log_level": 0})


def messages(topic: str) -> list[Message]:
    """Everything there, in order of partition and offset."""
    reader: Consumer = broker.consumer(settings(), None)
    found: list[Message] = []
    try:
        for partition in range(2):
            low, high = broker.watermarks(reader, TopicPartition(topic, partition), 20)
            reader.assign([TopicPartition(topic, partition, low)])
            while low < high:
                for message in reader.consume(1000, timeout=0.05):
                    assert message.error() is None
                    found.append(message)
                    low = (message.offset() or 0) + 1
    finally:
        reader.close()
    return found


def send_many(outbox: Outbox, topic: str, count: int) -> None:
    for _ in range(count):
        outbox.send(topic, key="k", value=b"1", headers=[])
        outbox.check()


def test_what_is_settled_is_there_as_it_was_sent(topic: str) -> None:
    outbox = Outbox(connecting())
    outbox.settle()  # of nothing
    outbox.open(topic)
    for number in range(50):
        outbox.send(
            topic, key=f"k{number}", value=b"%d" % number, headers=[("n", b"%d" % number)],
            partition=number % 2,
        )  # fmt: skip
    outbox.settle()
    found = messages(topic)
    assert [int(m.value() or b"") for m in found] == [*range(0, 50, 2), *range(1, 50, 2)]
    assert all(header(m.headers(), "n") == (m.value() or b"").decode() for m in found)
    assert all(m.key() == b"k" + (m.value() or b"") for m in found)


@pytest.mark.parametrize("settings_", [{}, {"delivery_report_only_error": True}], ids=["all", "errors"])
def test_more_than_the_queue_holds_goes_through_it(topic: str, settings_: dict[str, Any]) -> None:
    outbox = Outbox(connecting(queue_buffering_max_messages=16, **settings_))
    outbox.send_batch(topic, [{"value": b"%d" % n, "key": "k"} for n in range(0, 500, 2)], partition=0)
    outbox.send_batch(topic, [{"value": b"%d" % n, "key": "k"} for n in range(1, 500, 2)], partition=1)
    for number in range(500, 600):
        outbox.send(topic, key="k", value=b"%d" % number, headers=[], partition=number % 2)
    outbox.settle()
    assert [int(m.value() or b"") for m in messages(topic)] == [*range(0, 600, 2), *range(1, 600, 2)]


def test_a_dead_letter_keeps_its_bytes(topic: str) -> None:
    outbox = Outbox(connecting())
    outbox.send(topic, key="k", value=b"\x00odd", headers=[("h", b"1")])
    outbox.settle()
    (sent,) = messages(topic)
    outbox.dead_letter(sent, code="not_avro", reason="no magic", stage="decode", job="test")
    outbox.settle()
    (letter,) = messages(f"{topic}.dlq")
    read = DeadLetter.read(letter)
    assert (read.key, read.value, read.code, read.topic) == (b"k", b"\x00odd", "not_avro", topic)


def test_what_is_not_acknowledged_is_an_error_and_the_next_try_begins_anew(topic: str) -> None:
    producers = [lambda: away(), connecting()]
    outbox = Outbox(lambda: producers.pop(0)(), settle_s=0.2)
    outbox.send(topic, key="k", value=b"1", headers=[])
    with pytest.raises(Unavailable, match=r"1 messages were not acknowledged within 0\.2 s") as raised:
        outbox.settle()
    assert raised.value.code == "kafka_unavailable"
    assert raised.value.where == f"topic {topic}"
    assert raised.value.mend
    outbox.send(topic, key="k", value=b"1", headers=[])
    outbox.settle(20)
    assert len(messages(topic)) == 1


def test_a_full_queue_is_waited_for_in_bounds(topic: str) -> None:
    outbox = Outbox(lambda: away(queue_buffering_max_messages=4), full_s=0.1)
    with pytest.raises(Unavailable, match="has been full"):
        outbox.send_batch(topic, [{"value": b"1", "key": "k"} for _ in range(5)], partition=0)
    with pytest.raises(Unavailable, match="has been full"):
        send_many(outbox, topic, 5)


def test_what_the_client_gives_up_is_told_by_the_next_check(topic: str) -> None:
    outbox = Outbox(lambda: away(delivery_timeout_ms=1, delivery_report_only_error=True, linger_ms=0))
    with pytest.raises(Unavailable, match="Kafka did not take a message"):
        send_many(outbox, topic, 10**9)


def test_a_message_that_is_too_large_is_refused_at_once(topic: str) -> None:
    outbox = Outbox(connecting())
    with pytest.raises(Unavailable, match="takes no message"):
        outbox.send(topic, key="k", value=b"x" * 2_000_000, headers=[])


def test_brokers_that_do_not_answer_are_told_at_the_opening(topic: str, monkeypatch: Any) -> None:
    monkeypatch.setattr("pipelines.outbox.OPEN_S", 0.2)
    with pytest.raises(Unavailable, match="does not answer"):
        Outbox(away).open(topic)


def test_records_of_many_threads_all_arrive_as_events(stack: Stack) -> None:
    del stack
    apply_topics([ALERTS], settings())
    registry, source = SchemaRegistry.of(settings()), new_id()
    outbox = RecordOutbox(settings(), registry, source=source)
    at = datetime(2026, 1, 1, tzinfo=UTC)

    def alert(id: str) -> Alert:
        return Alert(
            tenant=SYSTEM_TENANT, id=id, severity="info", kind="k", source=source, subject=f"s{id}",
            text="t", deduplication_key=id, raised_at=at,
        )  # fmt: skip

    def publish(thread: int) -> None:
        for number in range(5):
            outbox.publish(ALERTS, [alert(f"{source}-{thread}-{number}-{n}") for n in range(3)])

    threads = [threading.Thread(target=publish, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    outbox.publish(ALERTS, [alert(f"{source}-queued")], within_s=0)
    outbox.publish(ALERTS, [alert(f"{source}-keyed")], entity="other")
    outbox.close()
    codec = codec_of(ALERTS, registry)
    reader = broker.consumer(settings(), None)
    low, high = broker.watermarks(reader, TopicPartition(ALERTS.name, 0), 20)
    reader.assign([TopicPartition(ALERTS.name, 0, low)])
    found: dict[str, Message] = {}
    while low < high:
        for message in reader.consume(1000, timeout=0.05):
            low = (message.offset() or 0) + 1
            if header(message.headers(), "ce_source") == source:
                found[codec.decode(message.value() or b"").id] = message
    reader.close()
    assert len(found) == 4 * 5 * 3 + 2
    for id, message in found.items():
        subject = "other" if id.endswith("keyed") else f"s{id}"
        assert message.key() == key_of(SYSTEM_TENANT, subject).encode()
        assert header(message.headers(), "ce_id") == id


def test_a_topic_without_records_has_no_codec(stack: Stack) -> None:
    del stack
    with pytest.raises(InternalError):
        codec_of(Topic("a.b.events.v1", None), SchemaRegistry.of(settings()))
