"""The rolling store in a real Redis: the common behaviour, and what only a server has."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import redis

from core.settings import settings
from features.online.client import connect
from features.online.rolling import RollingStore
from stack.local import Stack
from tests.features.rolling_behaviour import Make, RollingBehaviour, at, batch
from tests.features.views import VIEW, swipe

pytestmark = pytest.mark.services


@pytest.fixture
def client(stack: Stack) -> Iterator[redis.Redis]:
    del stack
    connection = connect(settings())
    yield connection
    connection.close()


class TestRedisRollingStore(RollingBehaviour):
    @pytest.fixture
    def make(self, client: redis.Redis) -> Make:
        def fresh(**more: Any) -> RollingStore:
            for key in client.scan_iter(f"ms:{VIEW.name}:*", count=1000):
                client.delete(key)
            return RollingStore(client, more.pop("view", VIEW), **more)

        return fresh

    def test_an_idle_entity_expires(self, client: redis.Redis) -> None:
        store = RollingStore(client, replace(VIEW, name="expiring"))
        store.write(batch([swipe(0, 0)]))
        left: Any = [client.pttl(key) for key in store.keys("t", "a")]
        assert 80_000 < left[0] <= 90_000
        assert 80_000 < left[1] <= 90_000

    @pytest.mark.parametrize("garbage", [b"\xff{", b"5", b"[1]", b'{"a": 1}', b"null"])
    def test_an_entity_with_damaged_rows_is_missing_and_no_error(
        self, make: Make, client: redis.Redis, garbage: bytes
    ) -> None:
        store = make()
        store.write(batch([swipe(0, 0), swipe(1, 1)]))
        rows = store.keys("t", "a")[1]
        for field in client.hkeys(rows):
            client.hset(rows, field, garbage)
        assert set(store.read("t", "a", at(1)).statuses.values()) == {"missing"}

    def test_the_keys_of_an_entity_share_a_slot(self, client: redis.Redis) -> None:
        store = RollingStore(client, VIEW)
        for tenant, entity in (("t", "a"), ("t}", "{a}"), ("", ""), ("ü", "a|b%")):
            tags = {key.partition("{")[2].partition("}")[0] for key in store.keys(tenant, entity)}
            assert len(tags) == 1

    def test_scripts_come_back_after_the_server_forgot_them(self, make: Make, client: redis.Redis) -> None:
        store = make()
        store.write(batch([swipe(0, 0)]))
        client.script_flush()
        store.write(batch([swipe(1, 1)]))
        client.script_flush()
        assert store.read("t", "a", at(1)).values["count_10s"] == 2

    def test_folding_gives_way_to_a_row_written_in_between(self, make: Make, client: redis.Redis) -> None:
        store = make(cap=4, resolution=timedelta(seconds=5))
        assert isinstance(store, RollingStore)
        wide = RollingStore(client, VIEW)  # writes without folding
        wide.write(batch([swipe(n, n) for n in range(8)]))
        read = store._read

        def read_then_interfere(*args: Any, **more: Any) -> Any:
            found = read(*args, **more)
            wide.write(batch([swipe(99, 0.5)]))
            return found

        store._read = read_then_interfere  # type: ignore[assignment]
        store.fold_oldest("t", "a")
        store._read = read
        assert store.read("t", "a", at(8)).values["count_10s"] == 9
        store.fold_oldest("t", "a")
        assert store.read("t", "a", at(8)).values["count_10s"] == 9
        kept: Any = client.zcard(store.keys("t", "a")[0])
        assert kept < 9
