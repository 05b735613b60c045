"""The limit in Redis: its script against the oracle, several gateways together, what stays behind."""

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from fractions import Fraction

import pytest
import redis
import redis.asyncio
from hypothesis import given

from core.clock import SystemClock
from core.errors import Unavailable
from core.ids import new_id
from operators.leases import LeasedLimiter
from operators.limits import Allowed, InMemoryLimiter, Limit, Refused
from pipelines.on_redis.limiter import KEY, SCRIPT, RedisLimiter
from tests.features.redis_server import RedisServer, own_redis
from tests.operators.token_bucket import STEP, TokenBucket, takings

pytestmark = pytest.mark.services

NOW_US = 1_790_000_000_000_000


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with own_redis() as running:
        yield running


@pytest.fixture(scope="module")
def client(server: RedisServer) -> Iterator[redis.Redis]:
    with redis.Redis(port=server.port) as connected:
        yield connected


def timed() -> str:
    """The script with the time given to it, and without an end of its keys: Redis' time does not pass."""
    text = SCRIPT.replace("redis.call('TIME')", "{ARGV[5], ARGV[6]}").replace(", 'PX', lasts", "")
    assert "PX" not in text
    assert "TIME" not in text
    assert "ARGV[6]" in text
    return text


def take_at(client: redis.Redis, key: str, limit: Limit, cost: int, at_us: int) -> int:
    """Microseconds to wait."""
    each = repr(1e6 / limit.rate)
    found = client.eval(timed(), 1, key, each, limit.burst, cost, cost, at_us // 10**6, at_us % 10**6)
    assert isinstance(found, list)
    taken, wait, _ = found
    assert taken == (0 if wait else cost)
    assert isinstance(wait, int)
    return wait


@given(given_=takings())
def test_the_script_is_a_token_bucket(
    client: redis.Redis, given_: tuple[Limit, list[tuple[int, int]]]
) -> None:
    limit, wanted = given_
    key, oracle, at = new_id(), TokenBucket(limit), Fraction(0)
    for steps, cost in wanted:
        at += steps * STEP
        wait = take_at(client, key, limit, cost, NOW_US + int(at * 10**6))
        expected = oracle.take(cost, at)
        assert (wait == 0) == (expected == 0)
        assert abs(wait - expected * 10**6) <= 1


def test_a_clock_that_was_set_back_locks_nobody_out(client: redis.Redis) -> None:
    limit, key = Limit(1.0, 3), new_id()
    assert take_at(client, key, limit, 3, NOW_US) == 0
    an_hour_before = NOW_US - 3_600_000_000
    assert take_at(client, key, limit, 1, an_hour_before) == 1_000_000
    assert take_at(client, key, limit, 1, an_hour_before + 999_999) == 1
    assert take_at(client, key, limit, 1, an_hour_before + 1_000_000) == 0


def test_a_limit_that_was_lowered_counts_at_once(client: redis.Redis) -> None:
    key = new_id()
    assert take_at(client, key, Limit(1.0, 100), 100, NOW_US) == 0
    assert take_at(client, key, Limit(1.0, 2), 1, NOW_US) == 1_000_000
    assert take_at(client, key, Limit(1.0, 2), 1, NOW_US + 1_000_000) == 0


async def test_gateways_share_the_limit(server: RedisServer) -> None:
    name = new_id()
    clients = [redis.asyncio.Redis(port=server.port) for _ in range(4)]
    gateways = [RedisLimiter(one, Limit(0.01, 100), name=name, timeout_s=5.0) for one in clients]
    found = await asyncio.gather(*(gateways[n % 4].take("acme|demand", 3) for n in range(80)))
    assert sum(isinstance(one, Allowed) for one in found) == 33
    for one in clients:
        await one.aclose()


async def test_gateways_that_lease_share_the_limit_to_the_last_one(server: RedisServer) -> None:
    """What is asked for without a rest is spent before it is lost, so that the burst is exact."""
    name, limit = new_id(), Limit(0.01, 1_000)
    clients = [redis.asyncio.Redis(port=server.port) for _ in range(3)]
    gateways = [
        LeasedLimiter(
            RedisLimiter(one, limit, name=name, timeout_s=5.0),
            InMemoryLimiter(Limit(0.01, 1), clock=SystemClock()),
            limit,
            clock=SystemClock(),
        )
        for one in clients
    ]
    found = await asyncio.gather(*(gateways[n % 3].take("acme") for n in range(1_200)))
    assert sum(isinstance(one, Allowed) for one in found) == 1_000
    for one in clients:
        await one.aclose()


async def test_a_key_goes_when_it_says_nothing_more(server: RedisServer, client: redis.Redis) -> None:
    asking = redis.asyncio.Redis(port=server.port)
    name = new_id()
    limiter = RedisLimiter(asking, Limit(10.0, 100), name=name, timeout_s=5.0)
    await limiter.take("k", 40)
    left = client.pttl(f"{KEY}{name}:k")
    assert isinstance(left, int)
    assert 3_000 < left <= 4_000
    await asking.aclose()


async def test_time_in_redis_passes(server: RedisServer) -> None:
    """At 200 a second and 20 at once, half a second of asking without pause gives what was promised."""
    asking = redis.asyncio.Redis(port=server.port)
    limiter = RedisLimiter(asking, Limit(200.0, 20), name=new_id(), timeout_s=5.0)
    loop = asyncio.get_running_loop()
    begun, taken = loop.time(), 0
    while loop.time() < begun + 0.5:
        taken += isinstance(await limiter.take("k"), Allowed)
    assert taken <= 20 + 200 * (loop.time() - begun)
    assert taken >= 20 + 200 * 0.5 * 0.8
    await asking.aclose()


async def test_a_redis_that_is_away_is_unavailable_and_then_back() -> None:
    with own_redis() as server:
        asking = redis.asyncio.Redis(port=server.port)
        limiter = RedisLimiter(asking, Limit(0.01, 1), name="n", rest_s=0.05)
        assert isinstance(await limiter.take("k"), Allowed)
        server.kill()
        with pytest.raises(Unavailable, match="away") as caught:
            await limiter.take("k")
        assert (caught.value.code, caught.value.where) == ("limiter_unavailable", "limiter n")
        server.start()
        async with asyncio.timeout(10):
            while True:
                try:
                    found = await limiter.take("k")
                    break
                except Unavailable:
                    await asyncio.sleep(0.01)
        assert isinstance(found, Refused), "what was taken is in the append-only file"
        assert found.retry_after > timedelta(seconds=80)
        await asking.aclose()
