"""How often a batched read of the rolling store asks Redis: once, or twice where it forgot the script."""

from typing import Any

import pytest
import redis

from features.online.rolling import RollingStore
from tests.features.redis_server import own_redis
from tests.features.rolling_behaviour import at, batch
from tests.features.views import VIEW, swipe

pytestmark = pytest.mark.services


def test_a_batched_read_asks_for_nothing_but_what_is_stored() -> None:
    with own_redis() as server, redis.Redis(port=server.port) as client:
        store = RollingStore(client, VIEW)
        events = [swipe(n, n, card=f"c{n % 3}") for n in range(9)]
        store.write(batch(events))

        def asked(read: Any) -> dict[str, int]:
            client.config_resetstat()
            read()
            stats: Any = client.info("commandstats")
            return {
                name.removeprefix("cmdstat_").partition("|")[0]: found["calls"]
                for name, found in stats.items()
                if name.startswith(("cmdstat_script", "cmdstat_eval"))
            }

        def rows() -> list[Any]:
            return store.read_rows(batch(events)).column("count_10s").to_pylist()

        def entities() -> list[Any]:
            return [found.values["count_10s"] for found in store.read_many("t", ["c0", "c1", "c2"], at(8))]

        expected = [n // 3 + 1 for n in range(9)]
        assert rows() == expected
        assert asked(rows) == {"evalsha": 9}
        assert asked(entities) == {"evalsha": 3}
        for read, answer, calls in ((rows, expected, 9), (entities, [3, 3, 3], 3)):
            client.script_flush()
            assert read() == answer
            client.script_flush()
            assert asked(read) == {"evalsha": 2 * calls, "script": 1}


def test_another_error_of_the_server_comes_through() -> None:
    with own_redis() as server, redis.Redis(port=server.port) as client:
        store = RollingStore(client, VIEW)
        events = batch([swipe(n, n, card=f"c{n}") for n in range(3)])
        store.write(events)
        client.set(store.keys("t", "c1")[1], b"no hash")
        client.delete(store.keys("t", "c1")[0])
        client.set(store.keys("t", "c1")[0], b"no set")
        with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
            store.read_rows(events)
