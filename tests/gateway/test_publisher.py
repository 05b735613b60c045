"""Acknowledgements, whoever looks for them: the publisher's thread while little is in flight, the event loop
while much is. On Kafka itself, and on a producer of librdkafka's whose broker is not there."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from confluent_kafka import KafkaError, Producer
from confluent_kafka.admin import NewTopic

from core.errors import QueueFull, Unavailable
from core.ids import new_id
from core.settings import settings
from gateway.publisher import Outcome, Outgoing, Publisher, _Batch
from schemas.broker import admin, producer, producer_config
from stack.local import Stack
from tests.stack_fixture import free_ports

MANY = 500


@asynccontextmanager
async def publishing(make: Callable[[], Producer], most: int = 10_000) -> AsyncIterator[Publisher]:
    publisher = Publisher(make, max_in_flight=most)
    try:
        yield publisher
    finally:
        await asyncio.to_thread(publisher.close, 5.0)


def message(topic: str, number: int = 0) -> Outgoing:
    return Outgoing(topic, f"key {number}", b"value", [], int(time.time() * 1e3))


async def all_of(publisher: Publisher, topic: str, count: int) -> list[list[Outcome]]:
    async with asyncio.timeout(60):
        return await asyncio.gather(*(publisher.publish([message(topic, n)]) for n in range(count)))


@pytest.fixture
def topic(stack: Stack) -> str:
    name = f"published-{new_id()}"
    client = admin(settings())
    for made in client.create_topics([NewTopic(name, 2, 1)], operation_timeout=20).values():
        made.result(20)
    return name


@pytest.mark.services
async def test_few_then_many_then_few_are_all_acknowledged(topic: str) -> None:
    async with publishing(lambda: producer(settings())) as publisher:
        for count in (1, MANY, 1, 2, MANY, 20, 1):
            assert await all_of(publisher, topic, count) == [[None]] * count
            assert publisher.in_flight == 0


@pytest.mark.services
async def test_one_request_of_many_has_an_outcome_for_each(topic: str) -> None:
    async with publishing(lambda: producer(settings())) as publisher:
        messages = [message(topic, number) for number in range(MANY)]
        messages[7] = Outgoing(topic, "large", bytes(2_000_000), [], 0)
        outcomes = await publisher.publish(messages)
        assert [type(one) for one in outcomes[6:9]] == [type(None), type(outcomes[7]), type(None)]
        assert outcomes[7] is not None
        assert "larger" in str(outcomes[7])
        assert sum(one is not None for one in outcomes) == 1


@pytest.mark.services
async def test_the_loop_looks_while_much_is_in_flight(topic: str) -> None:
    """Of a burst it takes all but what the thread had begun to wait for; of single ones none."""
    by: list[str] = []

    class Seen(Publisher):
        def _delivered(self, *given: object) -> None:
            by.append(threading.current_thread().name)
            super()._delivered(*given)  # type: ignore[arg-type]

    publisher = Seen(lambda: producer(settings()), max_in_flight=10_000)
    try:
        await publisher.publish([message(topic)])
        assert by == ["publisher"]
        by.clear()
        for _ in range(5):
            await all_of(publisher, topic, MANY)
        assert set(by) >= {threading.current_thread().name}
        await asyncio.sleep(0.15)  # the thread waits again
        by.clear()
        await publisher.publish([message(topic)])
        assert by == ["publisher"]
    finally:
        await asyncio.to_thread(publisher.close, 5.0)


def nowhere() -> Producer:
    (port,) = free_ports(1)
    config = producer_config(settings(), delivery_timeout_ms=1_000)
    return Producer(config | {"bootstrap.servers": f"127.0.0.1:{port}", "log_level": 0})


@pytest.mark.parametrize("count", [1, MANY])
async def test_what_nobody_acknowledges_is_unavailable_in_time(count: int) -> None:
    async with publishing(nowhere) as publisher:
        outcomes = await all_of(publisher, "nowhere", count)
        assert {type(outcome) for (outcome,) in outcomes} == {Unavailable}
        assert publisher.in_flight == 0


async def test_more_than_may_be_in_flight_is_refused_before_it_is_produced() -> None:
    async with publishing(nowhere, most=20) as publisher:
        waiting = asyncio.gather(*(publisher.publish([message("nowhere")]) for _ in range(20)))
        await asyncio.sleep(0)
        with pytest.raises(QueueFull):
            await publisher.publish([message("nowhere")])
        assert publisher.in_flight == 20
        assert len(await waiting) == 20


@pytest.mark.parametrize("count", [1, MANY])
async def test_a_producer_that_failed_for_good_is_replaced(count: int) -> None:
    """On librdkafka's mock cluster, in this process; that the producer is fenced is said here, as librdkafka
    says it of a message."""
    made: list[Producer] = []

    def make() -> Producer:
        config = producer_config(settings(), delivery_timeout_ms=10_000)
        del config["bootstrap.servers"]
        made.append(Producer(config | {"test.mock.num.brokers": 1, "log_level": 0}))
        return made[-1]

    async with publishing(make) as publisher:
        assert await all_of(publisher, "mock", 1) == [[None]]
        fatal = KafkaError(KafkaError._FENCED, "fenced", True)
        publisher._delivered(*_of_nobody(publisher), fatal, None)  # type: ignore[arg-type]
        deadline = time.monotonic() + 20
        while len(made) < 2:
            assert time.monotonic() < deadline
            await all_of(publisher, "mock", count)  # outcomes of any kind: some may be purged
        assert await all_of(publisher, "mock", count) == [[None]] * count


def _of_nobody(publisher: Publisher) -> tuple[object, int]:
    publisher._in_flight += 1
    return _Batch(1, asyncio.get_running_loop().create_future()), 0
