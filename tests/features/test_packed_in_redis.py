"""Packed values in a real Redis: the common behaviour, and what only a server has."""

import asyncio
import itertools
import socket
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import redis
import redis.asyncio
from redis.cluster import key_slot

from core.clock import ManualClock
from core.errors import Unavailable
from features.online.client import connect, connect_async
from features.online.packed_codec import PackedCodec
from features.online.packed_reader import AsyncPackedReader, PackedReader
from features.online.packed_redis import AsyncRedisPackedValues, RedisPackedValues
from features.online.packed_values import AsyncPackedValues, Entry
from features.online.packed_writer import PackedRow, PackedWriter
from features.online.rolling import RollingStore
from tests.features.packed_backend import Backend, fresh_tenant, row, told
from tests.features.packed_behaviour import PackedBehaviour
from tests.features.packed_coroutine_behaviour import PackedCoroutineBehaviour
from tests.features.packed_layouts import DEMAND, NOW, NOW_MS, WORDS
from tests.features.redis_server import RedisServer, own_redis
from tests.features.views import VIEW

pytestmark = pytest.mark.services


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with own_redis() as running:
        yield running


@pytest.fixture
def client(server: RedisServer) -> Iterator[redis.Redis]:
    connection = connect(server.settings)
    yield connection
    connection.close()


class InRedis:
    def __init__(self, client: redis.Redis, server: RedisServer, keys_per_script: int = 32) -> None:
        self.client = client
        self.server = server
        self.values = RedisPackedValues(client, keys_per_script=keys_per_script)

    def plant(self, key: bytes, value: bytes) -> None:
        self.client.set(key, value)

    def pass_time(self, by: timedelta) -> None:
        until = time.monotonic() + by.total_seconds()
        while time.monotonic() < until:
            time.sleep(max(until - time.monotonic(), 0))

    def coroutine_values(self) -> AsyncPackedValues:
        return AsyncRedisPackedValues(connect_async(self.server.settings), timeout_s=5.0)


class TestRedisPackedValues(PackedBehaviour, PackedCoroutineBehaviour):
    @pytest.fixture(params=[32, 1], ids=["many keys a script", "one key a script"])
    def backend(self, request: pytest.FixtureRequest, client: redis.Redis, server: RedisServer) -> Backend:
        return InRedis(client, server, request.param)


@pytest.fixture
def backend(client: redis.Redis, server: RedisServer) -> InRedis:
    return InRedis(client, server)


def calls(client: redis.Redis, command: str) -> int:
    stats: Any = client.info("commandstats")
    return int(stats.get(f"cmdstat_{command}", {"calls": 0})["calls"])


def test_each_value_has_its_own_time_to_live(backend: InRedis, client: redis.Redis) -> None:
    tenant = fresh_tenant()
    PackedWriter(backend.values, DEMAND).write([row("a", NOW_MS, tenant=tenant)])
    left: Any = client.pttl(DEMAND.key(tenant, "a"))
    assert 115_000 < left <= 120_000
    client.pexpire(DEMAND.key(tenant, "a"), 5_000)
    PackedWriter(backend.values, DEMAND).write([row("a", NOW_MS - 1, tenant=tenant)])
    left = client.pttl(DEMAND.key(tenant, "a"))
    assert left <= 5_000  # one that is older does not keep it alive
    PackedWriter(backend.values, DEMAND).write([row("a", NOW_MS + 1, tenant=tenant)])
    left = client.pttl(DEMAND.key(tenant, "a"))
    assert left > 115_000


def test_all_keys_of_an_entity_share_a_slot(client: redis.Redis) -> None:
    rolling = RollingStore(client, VIEW)
    for tenant, entity in (("t", "a"), ("t", "{a}"), ("t}", "a"), ("", ""), ("ü", "a|b%")):
        keys = [DEMAND.key(tenant, entity), WORDS.key(tenant, entity)]
        keys += [key.encode() for key in rolling.keys(tenant, entity)]
        assert len({key_slot(key) for key in keys}) == 1


def test_a_read_and_a_batch_are_one_command_each(backend: InRedis, client: redis.Redis) -> None:
    reader = PackedReader(backend.values, ManualClock(NOW))
    before = calls(client, "mget")
    reader.read(DEMAND, "t", "a")
    reader.read_batch(DEMAND, "t", [f"e{n}" for n in range(500)])
    assert calls(client, "mget") - before == 2


async def test_a_thousand_reads_of_a_tick_are_two_commands(backend: InRedis, client: redis.Redis) -> None:
    reader = AsyncPackedReader(backend.coroutine_values(), ManualClock(NOW), keys_per_call=512)
    before = calls(client, "mget")
    await asyncio.gather(*(reader.read(DEMAND, "t", f"e{n}") for n in range(1000)))
    assert calls(client, "mget") - before == 2


def test_a_batch_is_written_in_few_scripts(backend: InRedis, client: redis.Redis) -> None:
    tenant, before = fresh_tenant(), calls(client, "evalsha")
    rows = [row(f"e{n}", NOW_MS, tenant=tenant) for n in range(2_500)]
    assert PackedWriter(backend.values, DEMAND).write(rows) == ["written"] * 2_500
    assert calls(client, "evalsha") - before <= 2_500 / 32 + 3
    batch = PackedReader(backend.values, ManualClock(NOW)).read_batch(
        DEMAND, tenant, [one.entity for one in rows]
    )
    assert batch.column("bookings").to_pylist() == [3] * 2_500


def test_scripts_come_back_after_the_server_forgot_them(backend: InRedis, client: redis.Redis) -> None:
    tenant, writer = fresh_tenant(), PackedWriter(backend.values, DEMAND)
    for at in range(3):
        client.script_flush()
        rows = [row(f"e{n}", NOW_MS + at, tenant=tenant) for n in range(100)]
        assert writer.write(rows) == ["written"] * 100


def test_a_key_of_another_type_reads_as_missing_and_is_replaced(
    backend: InRedis, client: redis.Redis
) -> None:
    tenant = fresh_tenant()
    key = DEMAND.key(tenant, "a")
    client.hset(key, "x", "y")  # type: ignore[arg-type]
    reader = PackedReader(backend.values, ManualClock(NOW))
    assert reader.read(DEMAND, tenant, "a").statuses["trend"] == "missing"
    assert PackedWriter(backend.values, DEMAND).write([row("a", NOW_MS, tenant=tenant)]) == ["written"]
    assert reader.read(DEMAND, tenant, "a").statuses["trend"] == "fresh"


def test_an_error_of_the_server_is_unavailable(backend: InRedis, client: redis.Redis) -> None:
    client.config_set("maxmemory", "1")
    try:
        with pytest.raises(Unavailable, match="OOM") as refused:
            PackedWriter(backend.values, DEMAND).write([row("a", NOW_MS)])
        assert refused.value.code == "redis_unavailable"
    finally:
        client.config_set("maxmemory", "0")


async def test_killed_and_back() -> None:
    with own_redis() as server:
        client = connect(server.settings)
        values = RedisPackedValues(client)
        writer, reader = PackedWriter(values, DEMAND), PackedReader(values, ManualClock(NOW))
        other = connect_async(server.settings)
        other.connection_pool.max_connections = 1  # none may get lost
        coroutines = AsyncPackedReader(AsyncRedisPackedValues(other, timeout_s=5.0), ManualClock(NOW))
        rows = [row(f"e{n}", NOW_MS) for n in range(200)]
        writer.write(rows)
        before = told(reader.read(DEMAND, "t", "e7"))
        assert told(await coroutines.read(DEMAND, "t", "e7")) == before

        server.kill()
        for _ in range(2):
            with pytest.raises(Unavailable):
                reader.read(DEMAND, "t", "e7")
            with pytest.raises(Unavailable):
                reader.read_batch(DEMAND, "t", ["e7"])
            with pytest.raises(Unavailable):
                writer.write(rows)
            failed = await asyncio.gather(
                *(coroutines.read(DEMAND, "t", "e7") for _ in range(20)), return_exceptions=True
            )
            assert all(isinstance(one, Unavailable) for one in failed)

        server.start()
        assert told(reader.read(DEMAND, "t", "e7")) == before  # it was in the append-only file
        assert told(await coroutines.read(DEMAND, "t", "e7")) == before
        assert writer.write(rows) == ["written"] * 200
        assert writer.write([row("e7", NOW_MS - 1)]) == ["older"]

        server.kill()
        server.start()  # and nobody noticed
        assert told(reader.read(DEMAND, "t", "e7")) == before
        assert told(await coroutines.read(DEMAND, "t", "e7")) == before
        assert writer.write(rows) == ["written"] * 200
        client.close()
        await other.aclose()


@pytest.mark.timeout(60)
async def test_a_redis_that_never_answers_is_given_up() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(16)
        port = silent.getsockname()[1]
        values = RedisPackedValues(redis.Redis(port=port, socket_timeout=0.2, socket_connect_timeout=0.2))
        with pytest.raises(Unavailable):
            PackedReader(values).read(DEMAND, "t", "a")
        with pytest.raises(Unavailable):
            PackedWriter(values, DEMAND).write([PackedRow("t", "a", 1, 0, (1, None, None, None, None))])
        client = redis.asyncio.Redis(port=port)
        coroutines = AsyncPackedReader(AsyncRedisPackedValues(client, timeout_s=0.2), keys_per_call=10)
        found = await asyncio.gather(
            *(coroutines.read(DEMAND, "t", "a") for _ in range(100)), return_exceptions=True
        )
        assert all(isinstance(one, Unavailable) for one in found)
        await client.aclose()


def test_versions_are_compared_in_all_their_bits(backend: InRedis) -> None:
    """Lua's numbers are doubles: neighbours above 2^53 would be equal."""
    codec, tenant = PackedCodec(DEMAND), fresh_tenant()
    row_values = (1, 0.5, True, 2, None)
    sequences = sorted(
        {
            at + near
            for at in (-(2**63) + 1, -(2**53), -(2**32), 0, 2**31, 2**32, 2**53, 2**62, 2**63 - 2)
            for near in (-1, 0, 1)
        }
    )
    for number, (older, newer) in enumerate(itertools.pairwise(sequences)):
        key = DEMAND.key(tenant, str(number))
        low, high = codec.encode(5, older, row_values), codec.encode(5, newer, row_values)
        assert backend.values.put([Entry(key, low)], 60_000) == [None]
        assert backend.values.put([Entry(key, high)], 60_000) == [None]
        assert backend.values.put([Entry(key, low)], 60_000) == [high]
