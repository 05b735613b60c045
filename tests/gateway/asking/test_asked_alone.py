"""What is asked without the caches: known everywhere while it is under way, and one body for each id."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta

import pytest
import redis.asyncio

from core.clock import ManualClock
from core.ids import new_id
from pipelines.asking.outcomes import InMemoryOutcomes, RedisOutcomes
from tests.features.redis_server import RedisServer, own_redis
from tests.gateway.asked_through_caches import Gateway, SharedInMemory, World, header_of, said
from tests.gateway.samples import NOW, payment

HOUR = timedelta(hours=1)
ANEW = {"cache-control": "no-cache, no-store"}


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with own_redis() as running:
        yield running


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.services)])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    clock = ManualClock(NOW)
    if request.param == "memory":
        yield World(InMemoryOutcomes(ttl=HOUR, clock=clock), SharedInMemory(clock), clock)
        return
    server: RedisServer = request.getfixturevalue("server")
    client = redis.asyncio.Redis(port=server.port)
    yield World(RedisOutcomes(client, ttl=HOUR, timeout_s=30.0), SharedInMemory(clock), clock)
    await client.aclose()


async def worked(world: World, count: int) -> None:
    async with asyncio.timeout(60):
        while len(world.worker.worked) < count:
            await asyncio.sleep(0)


async def state(gateway: Gateway, id: str) -> str:
    """As `GET /api/v1/requests/{id}` tells it, once that finds it."""
    async with asyncio.timeout(60):
        while (response := await gateway.read(id)).status == 404:
            await asyncio.sleep(0)
    return str(said(response)["state"])


async def test_a_request_whose_id_was_made_here_is_found_on_any_gateway(world: World) -> None:
    one, other = world.gateway(), world.gateway()
    world.worker.may_answer.clear()
    asking = [asyncio.create_task(one.ask(payment(amount_cents=n), ANEW)) for n in range(5)]
    await worked(world, 5)
    assert [await state(other, id) for id in world.worker.worked] == ["pending"] * 5
    world.worker.may_answer.set()
    answers = [said(await answer) for answer in asking]
    assert sorted(answer["id"] for answer in answers) == sorted(world.worker.worked)
    assert [await state(other, answer["id"]) for answer in answers] == ["answered"] * 5


async def test_an_id_is_of_one_body_before_and_after_its_answer(world: World) -> None:
    one, other, id = world.gateway(), world.gateway(), new_id()
    headers = ANEW | {"idempotency-key": id}
    world.worker.may_answer.clear()
    first = asyncio.create_task(one.ask(payment(), headers))
    await worked(world, 1)
    assert (await other.ask(payment(amount_cents=1), headers)).status == 409
    world.worker.may_answer.set()
    answer = await first
    assert (await other.ask(payment(amount_cents=1), headers)).status == 409
    again = await other.ask(payment(), headers)
    assert (again.body, header_of(again, "idempotent-replayed")) == (answer.body, "true")
    assert world.worker.worked == [id]


async def test_who_leaves_at_once_cancels_what_was_asked(world: World) -> None:
    gateway, gone = world.gateway(), asyncio.Event()
    world.worker.may_answer.clear()
    gone.set()
    assert (await gateway.ask(headers=ANEW, gone=gone)).status == 499
    async with asyncio.timeout(60):
        while not world.worker.cancelled:
            await asyncio.sleep(0)
    assert world.worker.cancelled == world.worker.worked
    assert len(gateway.waiters) == 0
