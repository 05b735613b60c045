"""Questions of one turn go together, none waits for another, and each is told what became of it."""

import asyncio
from collections.abc import Sequence
from typing import cast

import pytest

from core.errors import MillstreamError, QueueFull, TooLarge
from gateway.asking.sending import Sending
from gateway.publisher import Outcome, Outgoing, Publisher


class Kafka:
    """Takes batches, and acknowledges them when told to."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.asked_for: list[int] = []
        self.refuses: MillstreamError | None = None
        self._acknowledged: list[asyncio.Future[list[Outcome]]] = []

    def require(self, count: int) -> None:
        self.asked_for.append(count)

    async def publish(self, messages: Sequence[Outgoing]) -> list[Outcome]:
        if self.refuses is not None:
            raise self.refuses
        self.batches.append([message.key for message in messages])
        self._acknowledged.append(asyncio.get_running_loop().create_future())
        return await self._acknowledged[-1]

    def acknowledge(self, batch: int, *outcomes: Outcome) -> None:
        self._acknowledged[batch].set_result(list(outcomes) or [None] * len(self.batches[batch]))


class Told:
    def __init__(self) -> None:
        self.outcomes: dict[str, Outcome] = {}

    def send(self, through: Sending, key: str) -> None:
        def settled(outcome: Outcome) -> None:
            self.outcomes[key] = outcome

        through.send(message(key), settled)


def message(key: str) -> Outgoing:
    return Outgoing("t", key, b"", [], 0)


async def until(what: object) -> None:
    assert callable(what)
    async with asyncio.timeout(10):
        while not what():
            await asyncio.sleep(0)


@pytest.fixture
def kafka() -> Kafka:
    return Kafka()


@pytest.fixture
def through(kafka: Kafka) -> Sending:
    return Sending(cast(Publisher, kafka))


async def test_what_a_turn_brings_goes_together_and_each_is_told_of_its_own(
    kafka: Kafka, through: Sending
) -> None:
    told, large = Told(), TooLarge("a")
    for key in "abc":
        told.send(through, key)
    await until(lambda: kafka.batches)
    assert kafka.batches == [["a", "b", "c"]]
    assert told.outcomes == {}
    kafka.acknowledge(0, None, large, None)
    await until(lambda: told.outcomes)
    assert told.outcomes == {"a": None, "b": large, "c": None}


async def test_nobody_waits_for_the_acknowledgement_of_another(kafka: Kafka, through: Sending) -> None:
    told = Told()
    for number in range(3):
        told.send(through, str(number))
        await until(lambda: len(kafka.batches) == number + 1)  # noqa: B023
    assert kafka.batches == [["0"], ["1"], ["2"]]
    kafka.acknowledge(2)
    await until(lambda: told.outcomes == {"2": None})


async def test_a_refusal_is_told_to_all_and_the_next_go_on(kafka: Kafka, through: Sending) -> None:
    told, full = Told(), QueueFull("full")
    kafka.refuses = full
    told.send(through, "a")
    told.send(through, "b")
    await until(lambda: told.outcomes == {"a": full, "b": full})
    kafka.refuses = None
    told.send(through, "c")
    await until(lambda: kafka.batches == [["c"]])


async def test_who_waits_for_the_acknowledgement_is_told(kafka: Kafka, through: Sending) -> None:
    left = asyncio.create_task(through.through(message("a")))
    first = asyncio.create_task(through.through(message("b")))
    second = asyncio.create_task(through.through(message("c")))
    await until(lambda: kafka.batches == [["a", "b", "c"]])
    assert not first.done()
    left.cancel()
    await until(left.done)
    large = TooLarge("c")
    kafka.acknowledge(0, None, None, large)
    await first
    with pytest.raises(TooLarge):
        await second


async def test_what_has_gathered_counts_towards_what_may_be_in_flight(kafka: Kafka, through: Sending) -> None:
    told = Told()
    through.require()
    told.send(through, "a")
    told.send(through, "b")
    through.require()
    assert kafka.asked_for == [1, 3]
    await until(lambda: kafka.batches)
    through.require()
    assert kafka.asked_for[-1] == 1  # the publisher counts the others itself
