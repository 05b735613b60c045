"""aiokafka reads what librdkafka has compressed, with each codec that Kafka knows."""

import uuid

import aiokafka
import pytest
from aiokafka.structs import TopicPartition
from confluent_kafka.admin import NewTopic

from core.settings import settings
from jobs.on_faust import compression
from schemas import broker
from stack.local import Stack


@pytest.mark.services
@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
async def test_each_codec(stack: Stack, codec: str) -> None:
    del stack
    compression.install()
    topic = f"compressed-{uuid.uuid4().hex}"
    client = broker.admin(settings())
    for made in client.create_topics([NewTopic(topic, 1, 1)]).values():
        made.result(30)
    values = [b"the same again " * n + bytes([n % 256]) for n in range(2_000)]
    producer = broker.producer(settings(), compression_type=codec, linger_ms=200)
    for value in values:
        producer.produce(topic, value=value)
    assert producer.flush(30) == 0
    consumer = aiokafka.AIOKafkaConsumer(bootstrap_servers=settings().kafka.address)
    await consumer.start()
    try:
        consumer.assign([TopicPartition(topic, 0)])
        await consumer.seek_to_beginning()
        found = [(await consumer.getone()).value for _ in values]
    finally:
        await consumer.stop()
    assert found == values
