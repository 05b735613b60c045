"""The breaker: one behaviour, in this process and shared on Redis, where waiting is waiting."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta

import pytest
import redis.asyncio

from core.clock import ManualClock
from core.errors import CircuitOpen, Unavailable
from core.ids import new_id
from operators.breaker import Breaker, Breaking, CircuitBreaker, LocalBreaker, guarded
from pipelines.on_redis.breaker import RedisBreaker
from tests.features.redis_server import RedisServer, own_redis

BREAKING = Breaking(failures=5, open_for=timedelta(seconds=0.4))


@dataclass(frozen=True)
class Backend:
    make: Callable[[], CircuitBreaker]
    rest: Callable[[timedelta], Awaitable[None]]


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with own_redis() as running:
        yield running


@pytest.fixture
async def client(server: RedisServer) -> "AsyncIterator[redis.asyncio.Redis]":
    connected = redis.asyncio.Redis(port=server.port)
    yield connected
    await connected.aclose()


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.services)])
async def backend(request: pytest.FixtureRequest) -> AsyncIterator[Backend]:
    if request.param == "memory":
        clock = ManualClock()

        async def advance(by: timedelta) -> None:
            clock.advance(by)

        yield Backend(lambda: LocalBreaker(Breaker(clock, BREAKING, name="server")), advance)
        return
    server: RedisServer = request.getfixturevalue("server")
    client = redis.asyncio.Redis(port=server.port)

    async def wait(by: timedelta) -> None:
        await asyncio.sleep(by.total_seconds())

    yield Backend(lambda: RedisBreaker(client, BREAKING, name=new_id(), timeout_s=5.0), wait)
    await client.aclose()


async def fail(breaker: CircuitBreaker, times: int = 1) -> None:
    for _ in range(times):
        with pytest.raises(Unavailable, match="reset"):
            async with guarded(breaker):
                raise Unavailable("reset by the server")


async def succeed(breaker: CircuitBreaker) -> None:
    async with guarded(breaker):
        pass


async def hears(breaker: CircuitBreaker) -> None:
    """Goes on calling until the breaker knows that the circuit is open."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        try:
            await succeed(breaker)
        except CircuitOpen:
            return
        await asyncio.sleep(0.01)
    pytest.fail("the process never heard of the opening")


async def test_five_failures_in_succession_open_it(backend: Backend) -> None:
    breaker = backend.make()
    await fail(breaker, 4)
    await succeed(breaker)
    await fail(breaker, 4)
    await succeed(breaker)
    await fail(breaker, 5)
    with pytest.raises(CircuitOpen) as refused:
        await succeed(breaker)
    assert refused.value.code == "circuit_open"
    assert 0 < refused.value.retry_after_s <= 0.4


async def test_a_failed_probe_opens_it_again_and_a_good_one_resets_the_count(backend: Backend) -> None:
    breaker = backend.make()
    await fail(breaker, 5)
    await backend.rest(BREAKING.open_for)
    await fail(breaker)
    with pytest.raises(CircuitOpen):
        await succeed(breaker)
    await backend.rest(BREAKING.open_for)
    await succeed(breaker)
    await fail(breaker, 4)
    await succeed(breaker)


async def test_one_probe_goes_through(backend: Backend) -> None:
    breaker = backend.make()
    await fail(breaker, 5)
    await backend.rest(BREAKING.open_for)
    probe = await breaker.admit()
    with pytest.raises(CircuitOpen):
        await breaker.admit()
    await breaker.abandoned(probe)
    await breaker.succeeded(await breaker.admit())
    await succeed(breaker)


@pytest.mark.services
async def test_processes_share_one_circuit(client: "redis.asyncio.Redis") -> None:
    name = new_id()
    first, second = (RedisBreaker(client, BREAKING, name=name, look_s=0.02, timeout_s=5.0) for _ in range(2))
    await succeed(second)
    await fail(first, 3)
    await fail(second, 2)
    with pytest.raises(CircuitOpen):
        await second.admit()
    await hears(first)
    await asyncio.sleep(0.4)
    probe = await first.admit()
    with pytest.raises(CircuitOpen):
        await second.admit()
    await first.succeeded(probe)
    await succeed(second)


@pytest.mark.services
async def test_what_another_process_saw_is_known_within_the_look(client: "redis.asyncio.Redis") -> None:
    name = new_id()
    first, second = (
        RedisBreaker(client, Breaking(5, timedelta(seconds=30)), name=name, look_s=0.05, timeout_s=5.0)
        for _ in range(2)
    )
    await succeed(second)
    await fail(first, 5)
    await hears(second)


@pytest.mark.services
async def test_without_redis_the_process_counts_for_itself() -> None:
    with own_redis() as server:
        client = redis.asyncio.Redis(port=server.port)
        breaker = RedisBreaker(client, BREAKING, name=new_id(), timeout_s=1.0, rest_s=0.05)
        await succeed(breaker)
    await fail(breaker, 5)
    with pytest.raises(CircuitOpen):
        await breaker.admit()
    await asyncio.sleep(0.4)
    await succeed(breaker)
    await client.aclose()
