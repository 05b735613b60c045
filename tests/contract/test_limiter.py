"""The limiter: one behaviour, in memory and on Redis. Redis has its own time, so there waiting is waiting."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta

import pytest
import redis.asyncio

from core.clock import ManualClock
from core.errors import TooLarge
from core.ids import new_id
from operators.limits import Allowed, InMemoryLimiter, Limit, Limiter, Refused
from pipelines.on_redis.limiter import RedisLimiter
from tests.features.redis_server import RedisServer, own_redis


@dataclass(frozen=True)
class Backend:
    """Limiters of the kind under test, and how its time passes."""

    make: Callable[[Limit], Limiter]
    rest: Callable[[timedelta], Awaitable[None]]


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with own_redis() as running:
        yield running


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.services)])
async def backend(request: pytest.FixtureRequest) -> AsyncIterator[Backend]:
    if request.param == "memory":
        clock = ManualClock()

        async def advance(by: timedelta) -> None:
            clock.advance(by)

        yield Backend(lambda limit: InMemoryLimiter(limit, clock=clock), advance)
        return
    server: RedisServer = request.getfixturevalue("server")
    client = redis.asyncio.Redis(port=server.port)

    async def wait(by: timedelta) -> None:
        await asyncio.sleep(by.total_seconds())

    yield Backend(lambda limit: RedisLimiter(client, limit, name=new_id(), timeout_s=5.0), wait)
    await client.aclose()


async def refusal(taking: Awaitable[Allowed | Refused]) -> timedelta:
    found = await taking
    assert isinstance(found, Refused)
    return found.retry_after


async def test_the_burst_is_let_through_at_once_and_no_more(backend: Backend) -> None:
    limiter = backend.make(Limit(0.01, 5))
    assert [await limiter.take("k") for _ in range(5)] == [Allowed()] * 5
    for _ in range(3):
        wait = await refusal(limiter.take("k"))
        assert timedelta(seconds=99) < wait <= timedelta(seconds=100)


async def test_what_was_refused_is_let_through_when_it_was_told(backend: Backend) -> None:
    limiter = backend.make(Limit(20.0, 4))
    assert await limiter.take("k", 4) == Allowed()
    wait = await refusal(limiter.take("k", 3))
    assert timedelta(0) < wait <= timedelta(milliseconds=150)
    await backend.rest(wait)
    assert await limiter.take("k", 3) == Allowed()


async def test_a_refusal_takes_nothing(backend: Backend) -> None:
    limiter = backend.make(Limit(0.01, 10))
    assert await limiter.take("k", 8) == Allowed()
    await refusal(limiter.take("k", 3))
    assert await limiter.take("k", 2) == Allowed()
    await refusal(limiter.take("k", 1))


async def test_resting_saves_up_no_more_than_the_burst(backend: Backend) -> None:
    limiter = backend.make(Limit(50.0, 2))
    assert await limiter.take("k", 2) == Allowed()
    await backend.rest(timedelta(milliseconds=300))
    slow = [await limiter.take("k", 2), await limiter.take("k", 2)]
    assert slow[0] == Allowed()
    assert isinstance(slow[1], Refused)


async def test_more_than_the_burst_is_told_the_limit_and_takes_nothing(backend: Backend) -> None:
    limiter = backend.make(Limit(0.01, 5))
    with pytest.raises(TooLarge, match="the limit is 5") as caught:
        await limiter.take("k", 6)
    assert caught.value.code == "over_burst"
    assert await limiter.take("k", 5) == Allowed()


async def test_keys_do_not_share(backend: Backend) -> None:
    limiter = backend.make(Limit(0.01, 1))
    assert await limiter.take("a|x") == Allowed()
    assert await limiter.take("b|x") == Allowed()
    await refusal(limiter.take("a|x"))


async def test_limits_of_two_names_do_not_share(backend: Backend) -> None:
    one, other = backend.make(Limit(0.01, 1)), backend.make(Limit(0.01, 1))
    assert [await one.take("k"), await other.take("k")] == [Allowed()] * 2


async def test_of_many_at_once_as_many_as_the_burst_are_let_through(backend: Backend) -> None:
    limiter = backend.make(Limit(0.01, 50))
    found = await asyncio.gather(*(limiter.take("k") for _ in range(200)))
    assert found.count(Allowed()) == 50
