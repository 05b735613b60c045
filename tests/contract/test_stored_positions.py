"""Stored positions: one behaviour, in memory and on Redis."""

from collections.abc import AsyncIterator, Iterator
from random import Random

import pytest
import redis.asyncio

from core.errors import Unavailable
from core.ids import new_id
from gateway.push.positions import Position
from gateway.push.stored import InMemoryPositions, RedisPositions, StoredPositions
from tests.features.redis_server import RedisServer, own_redis

CHANNEL = "results:fraud"
EPOCH = 2**62 + 1  # as large as they come


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with own_redis() as made:
        yield made


@pytest.fixture(params=["memory", "redis"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[StoredPositions]:
    if request.param == "memory":
        yield InMemoryPositions()
        return
    server: RedisServer = request.getfixturevalue("server")
    client = redis.asyncio.Redis.from_url(server.settings.redis.address)
    yield RedisPositions(client)
    await client.aclose()


async def test_nothing_is_kept_under_a_new_name(store: StoredPositions) -> None:
    assert await store.read("acme", new_id(), CHANNEL) == []


async def test_each_partition_has_its_newest_position_whatever_the_order(store: StoredPositions) -> None:
    random, name = Random(4), new_id()
    newest: dict[int, int] = {}
    for _ in range(100):
        partition, offset = random.randrange(3), random.choice([random.randrange(-1, 50), 10**12])
        newest[partition] = max(newest.get(partition, -1), offset)
        position = Position(EPOCH, partition, offset, 0)
        await store.move("acme", name, CHANNEL, position, f"token-{partition}-{offset}")
    kept = await store.read("acme", name, CHANNEL)
    assert sorted(kept) == sorted(f"token-{partition}-{offset}" for partition, offset in newest.items())


async def test_a_topic_that_was_made_anew_begins_anew(store: StoredPositions) -> None:
    name = new_id()
    await store.move("acme", name, CHANNEL, Position(1, 0, 100, 0), "old")
    await store.move("acme", name, CHANNEL, Position(2, 0, 3, 0), "new")
    assert await store.read("acme", name, CHANNEL) == ["new"]


async def test_tenants_names_and_channels_are_apart(store: StoredPositions) -> None:
    name = new_id()
    await store.move("a|b", name, CHANNEL, Position(1, 0, 1, 0), "token")
    for tenant, other, channel in (
        ("a", f"b|{name}", CHANNEL),
        ("a|b", name, "alerts"),
        ("a|b", new_id(), CHANNEL),
    ):
        assert await store.read(tenant, other, channel) == []


async def test_a_redis_that_is_away_is_said(server: RedisServer) -> None:
    client = redis.asyncio.Redis.from_url("redis://127.0.0.1:1/0")
    with pytest.raises(Unavailable):
        await RedisPositions(client).read("acme", "desk", CHANNEL)
    await client.aclose()
