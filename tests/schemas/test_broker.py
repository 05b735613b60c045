"""Kafka clients: where keys land, the defaults, and a round trip on librdkafka's mock cluster."""

import socket
import time
from typing import Any
from uuid import uuid4

import pytest
from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition

from core.errors import Unavailable
from core.settings import Kafka, Settings
from schemas.broker import (
    consumer,
    consumer_config,
    producer,
    producer_config,
    require,
    spaced,
    watermarks,
)
from schemas.keys import key_of


def murmur2(data: bytes) -> int:
    """Kafka's murmur2 (org.apache.kafka.common.utils.Utils), written from its description."""
    mask, mix = 0xFFFFFFFF, 0x5BD1E995
    state = 0x9747B28C ^ len(data)
    whole = len(data) // 4 * 4
    for at in range(0, whole, 4):
        part = int.from_bytes(data[at : at + 4], "little") * mix & mask
        part = (part ^ part >> 24) * mix & mask
        state = state * mix & mask ^ part
    if rest := data[whole:]:
        state = (state ^ int.from_bytes(rest, "little")) * mix & mask
    state = (state ^ state >> 13) * mix & mask
    return state ^ state >> 15


def jvm_partition(key: bytes, partitions: int) -> int:
    return (murmur2(key) & 0x7FFFFFFF) % partitions


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        # the vectors of Kafka's own UtilsTest.testMurmur2
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_the_oracle_is_kafkas_murmur2(key: bytes, expected: int) -> None:
    assert murmur2(key) == expected & 0xFFFFFFFF


def settings() -> Settings:
    return Settings.model_validate({"kafka": {"bootstrap": "127.0.0.1:1"}})


def test_keys_land_where_the_jvm_puts_them_and_come_back_in_order() -> None:
    """On librdkafka's in-process mock cluster: its topics have four partitions."""
    topic = f"test-{uuid4().hex[:8]}"
    sending = producer(settings(), test_mock_num_brokers=1, bootstrap_servers="ignored:1")
    address = f"127.0.0.1:{_port_of(sending)}"
    keys = [key_of(tenant, f"{n}|%é") for tenant in ("a", "b|c") for n in range(50)]
    landed: dict[str, tuple[int, int]] = {}

    def delivered(error: KafkaError | None, message: Message) -> None:
        assert error is None
        landed[message.key().decode()] = (message.partition(), message.offset())

    for key in keys:
        sending.produce(topic, key=key, value=key.encode(), on_delivery=delivered)
    assert sending.flush(20) == 0
    assert {key: jvm_partition(key.encode(), 4) for key in keys} == {k: p for k, (p, _) in landed.items()}
    assert len({partition for partition, _ in landed.values()}) == 4

    reading = consumer(settings(), None, bootstrap_servers=address)
    reading.assign([TopicPartition(topic, partition, 0) for partition in range(4)])
    seen: dict[str, tuple[int, int]] = {}
    deadline = time.monotonic() + 20
    while len(seen) < len(keys) and time.monotonic() < deadline:
        for message in reading.consume(100, 0.1):
            assert message.error() is None
            seen[message.value().decode()] = (message.partition(), message.offset())
    reading.close()
    assert seen == landed


def _port_of(client: object) -> int:
    metadata = client.list_topics(timeout=10)  # type: ignore[attr-defined]
    return int(next(iter(metadata.brokers.values())).port)


def test_producers_wait_for_every_replica_and_agree_on_partitions() -> None:
    config = producer_config(settings(), linger_ms=7)
    assert config["acks"] == "all"
    assert config["enable.idempotence"] is True
    assert config["partitioner"] == "murmur2_random"
    assert config["linger.ms"] == 7
    assert config["bootstrap.servers"] == "127.0.0.1:1"


def test_consumers_commit_nothing_of_their_own_accord() -> None:
    config = consumer_config(settings(), "group")
    assert config["group.id"] == "group"
    assert config["enable.auto.commit"] is False
    assert config["enable.auto.offset.store"] is False
    assert config["allow.auto.create.topics"] is False
    assert config["fetch.queue.backoff.ms"] <= 2
    assert 10 <= config["fetch.wait.max.ms"] <= 50


def test_two_readers_without_a_group_share_nothing() -> None:
    assert consumer_config(settings(), None)["group.id"] != consumer_config(settings(), None)["group.id"]


def test_security_settings_reach_every_client_and_callbacks_keep_their_names() -> None:
    given = Settings.model_validate({"kafka": {"security": {"security.protocol": "SSL"}}})
    config = producer_config(given, error_cb=print, on_delivery=print)
    assert config["security.protocol"] == "SSL"
    assert config["error_cb"] is print
    assert config["on_delivery"] is print


class Answers:
    """A consumer that gives prepared answers to `get_watermark_offsets`."""

    def __init__(self, *answers: tuple[int, int] | int) -> None:
        self.left = list(answers)

    def get_watermark_offsets(self, place: TopicPartition, timeout: float) -> tuple[int, int]:
        answer = self.left.pop(0) if len(self.left) > 1 else self.left[0]
        if isinstance(answer, int):
            raise KafkaException(KafkaError(answer))
        return answer


def test_watermarks_waits_for_a_leader_and_no_longer_than_it_may() -> None:
    moving, place = KafkaError.NOT_LEADER_FOR_PARTITION, TopicPartition("t", 0)
    reader: Any = Answers(KafkaError._UNKNOWN_PARTITION, moving, KafkaError.LEADER_NOT_AVAILABLE, (3, 7))
    assert watermarks(reader, place, 20) == (3, 7)

    reader = Answers(moving)
    with pytest.raises(KafkaException) as caught:
        watermarks(reader, place, 0.15)
    assert caught.value.args[0].code() == moving


def test_watermarks_reports_any_other_fault_at_once() -> None:
    reader: Any = Answers(KafkaError.TOPIC_AUTHORIZATION_FAILED, (0, 1))
    with pytest.raises(KafkaException):
        watermarks(reader, TopicPartition("t", 0), 20)
    assert reader.left == [(0, 1)]


def test_a_broker_that_takes_no_connection_is_told_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        require(Settings(kafka=Kafka(bootstrap=f"127.0.0.1:1,127.0.0.1:{port}")))
    with pytest.raises(Unavailable, match="no broker"):
        require(Settings(kafka=Kafka(bootstrap=f"nowhere,127.0.0.1:{port}")))


@pytest.mark.parametrize("by_ms", [0.1, 5, 40])
def test_a_fetch_that_leaves_partitions_out_is_soon_over(by_ms: float) -> None:
    """A fetch of quiet partitions alone would hold the busy ones up for as long as it waits."""
    given = spaced(by_ms)
    assert 1 <= given["fetch_queue_backoff_ms"] <= given["fetch_wait_max_ms"] <= max(1, 2 * by_ms)
    assert given["fetch_min_bytes"] == 1
