"""Commands of many requests at once: each gets its own answers, and nobody else waits for all of them."""

import asyncio

import pytest
import redis.asyncio

from core.settings import settings
from core.turns import MOST
from pipelines.on_redis.round_trips import RoundTrips
from stack.local import Stack

pytestmark = pytest.mark.services
MANY = 5 * MOST + 3


async def test_each_of_many_gets_its_own_answers_in_pieces(stack: Stack) -> None:
    async with redis.asyncio.Redis.from_url(settings().redis.address) as client:
        trips = RoundTrips(client, where="test", code="redis_unavailable")
        got: dict[int, list[bytes]] = {}
        at_once: list[int] = []

        async def ask(number: int) -> None:
            commands = [("ECHO", f"{number}.{n}") for n in range(1 + number % 3)]
            got[number] = await trips.ask(commands)

        async def beside() -> None:
            while len(got) < MANY:
                at_once.append(len(got))
                await asyncio.sleep(0)

        async with asyncio.timeout(20):
            await asyncio.gather(*map(ask, range(MANY)), beside())
        assert got == {n: [f"{n}.{i}".encode() for i in range(1 + n % 3)] for n in range(MANY)}
        steps = [after - before for before, after in zip(at_once, [*at_once[1:], MANY], strict=True)]
        assert 0 < max(steps) <= 2 * MOST
