"""The limiter: one behaviour, in memory and on Redis, asked each time or leased from in blocks. Redis has its
own time, so there waiting is waiting."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta

import pytest
import redis.asyncio

from core.clock import Clock, ManualClock, SystemClock
from core.errors import TooLarge
from core.ids import new_id
from operators.leases import LeasedLimiter
from operators.limits import (
    Allowed,
    InMemoryLimiter,
    Lease,
    LeasingLimiter,
    Limit,
    Limiter,
    Refused,
)
from pipelines.on_redis.limiter import RedisLimiter
from tests.features.redis_server import RedisServer, own_redis


@dataclass(frozen=True)
class Backend:
    """Limiters of the kind under test, and how its time passes."""

    shared: Callable[[Limit], LeasingLimiter]
    rest: Callable[[timedelta], Awaitable[None]]
    clock: Clock
    leased: bool

    def make(self, limit: Limit) -> Limiter:
        if not self.leased:
            return self.shared(limit)
        return LeasedLimiter(self.shared(limit), Away(), limit, clock=self.clock)


class Away:
    """A limiter that must not be asked."""

    async def take(self, key: str, cost: int = 1) -> Allowed | Refused:
        raise AssertionError(f"{key!r} was counted by one process alone")


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with own_redis() as running:
        yield running


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.services)])
def store(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


@pytest.fixture(params=[False, True], ids=["asked", "leased"])
async def backend(store: str, request: pytest.FixtureRequest) -> AsyncIterator[Backend]:
    if store == "memory":
        clock = ManualClock()

        async def advance(by: timedelta) -> None:
            clock.advance(by)

        yield Backend(lambda limit: InMemoryLimiter(limit, clock=clock), advance, clock, request.param)
        return
    server: RedisServer = request.getfixturevalue("server")
    client = redis.asyncio.Redis(port=server.port)

    async def wait(by: timedelta) -> None:
        await asyncio.sleep(by.total_seconds())

    def shared(limit: Limit) -> LeasingLimiter:
        return RedisLimiter(client, limit, name=new_id(), timeout_s=5.0)

    yield Backend(shared, wait, SystemClock(), request.param)
    await client.aclose()


async def refusal(taking: Awaitable[Allowed | Refused]) -> timedelta:
    found = await taking
    assert isinstance(found, Refused)
    return found.retry_after


async def test_the_burst_is_let_through_at_once_and_no_more(backend: Backend) -> None:
    limiter = backend.make(Limit(0.01, 5))
    assert [await limiter.take("k") for _ in range(5)] == [Allowed(left) for left in (4, 3, 2, 1, 0)]
    for _ in range(3):
        wait = await refusal(limiter.take("k"))
        assert timedelta(seconds=99) < wait <= timedelta(seconds=100)


async def test_what_was_refused_is_let_through_when_it_was_told(backend: Backend) -> None:
    limiter = backend.make(Limit(20.0, 4))
    assert isinstance(await limiter.take("k", 4), Allowed)
    wait = await refusal(limiter.take("k", 3))
    assert timedelta(0) < wait <= timedelta(milliseconds=150)
    await backend.rest(wait)
    assert isinstance(await limiter.take("k", 3), Allowed)


async def test_a_refusal_takes_nothing(backend: Backend) -> None:
    limiter = backend.make(Limit(0.01, 10))
    assert isinstance(await limiter.take("k", 8), Allowed)
    await refusal(limiter.take("k", 3))
    assert isinstance(await limiter.take("k", 2), Allowed)
    await refusal(limiter.take("k", 1))


async def test_resting_saves_up_no_more_than_the_burst(backend: Backend) -> None:
    limiter = backend.make(Limit(50.0, 2))
    assert isinstance(await limiter.take("k", 2), Allowed)
    await backend.rest(timedelta(milliseconds=300))
    slow = [await limiter.take("k", 2), await limiter.take("k", 2)]
    assert isinstance(slow[0], Allowed)
    assert isinstance(slow[1], Refused)


async def test_more_than_the_burst_is_told_the_limit_and_takes_nothing(backend: Backend) -> None:
    limiter = backend.make(Limit(0.01, 5))
    with pytest.raises(TooLarge, match="the limit is 5") as caught:
        await limiter.take("k", 6)
    assert caught.value.code == "over_burst"
    assert isinstance(await limiter.take("k", 5), Allowed)


async def test_keys_do_not_share(backend: Backend) -> None:
    limiter = backend.make(Limit(0.01, 1))
    assert isinstance(await limiter.take("a|x"), Allowed)
    assert isinstance(await limiter.take("b|x"), Allowed)
    await refusal(limiter.take("a|x"))


async def test_limits_of_two_names_do_not_share(backend: Backend) -> None:
    one, other = backend.make(Limit(0.01, 1)), backend.make(Limit(0.01, 1))
    assert [await one.take("k"), await other.take("k")] == [Allowed(0)] * 2


async def test_of_many_at_once_as_many_as_the_burst_are_let_through(backend: Backend) -> None:
    limiter = backend.make(Limit(0.01, 50))
    found = await asyncio.gather(*(limiter.take("k") for _ in range(200)))
    assert sum(isinstance(one, Allowed) for one in found) == 50


async def test_a_lease_takes_as_many_as_there_are_and_not_less_than_the_least(backend: Backend) -> None:
    limiter = backend.shared(Limit(0.01, 5))
    first = await limiter.lease("k", 1, 3)
    assert isinstance(first, Lease)
    assert (first.taken, first.ahead_s) == (3, pytest.approx(300.0, abs=1.0))
    refused = await limiter.lease("k", 3, 3)
    assert isinstance(refused, Refused)
    assert timedelta(seconds=99) < refused.retry_after <= timedelta(seconds=100)
    rest = await limiter.lease("k", 1, 3)
    assert isinstance(rest, Lease)
    assert (rest.taken, rest.ahead_s) == (2, pytest.approx(500.0, abs=1.0))
    assert isinstance(await limiter.lease("k", 1, 3), Refused)
    with pytest.raises(TooLarge):
        await limiter.lease("other", 6, 6)


@pytest.mark.services
async def test_while_redis_is_away_each_process_counts_alone_and_then_together_again() -> None:
    limit, clock = Limit(0.01, 3), SystemClock()
    with own_redis() as server:
        clients = [redis.asyncio.Redis(port=server.port) for _ in range(2)]
        one, other = (
            LeasedLimiter(
                RedisLimiter(client, limit, name="shared", timeout_s=5.0, rest_s=0.0),
                InMemoryLimiter(limit, clock=clock),
                limit,
                clock=clock,
            )
            for client in clients
        )
        assert isinstance(await one.take("k"), Allowed)
        server.kill()
        for limiter in (one, other):
            assert [type(await limiter.take("k")) for _ in range(4)] == [Allowed] * 3 + [Refused]
        server.start()
        again = [isinstance(await limiter.take("new"), Allowed) for limiter in (one, other) * 3]
        assert again.count(True) == 3
        for client in clients:
            await client.aclose()
