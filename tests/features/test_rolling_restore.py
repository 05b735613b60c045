"""An entity put in place while a writer is at work: either all of it is right, or nothing is changed."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
import redis

from features.online.client import connect
from features.online.rolling import Event, RollingStore, events_of
from features.online.rolling_restore import RollingRestore
from tests.features.redis_server import RedisServer, own_redis
from tests.features.rolling_behaviour import at, batch
from tests.features.views import VIEW, Swipe, swipe

pytestmark = pytest.mark.services

TINY: Any = {"cap": 8, "resolution": timedelta(seconds=1)}
ME = ("t", "a")
ROWS = [swipe(number, number) for number in range(40)]


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with own_redis() as running:
        yield running


@pytest.fixture
def client(server: RedisServer) -> Iterator[redis.Redis]:
    connection = connect(server.settings)
    connection.flushall()
    yield connection
    connection.close()


def events(given: list[Swipe]) -> list[Event]:
    return events_of(VIEW, batch(given))


def interrupted(given: list[Swipe], meanwhile: Callable[[], None]) -> Iterator[list[Event]]:
    """In two parts, between which something happens: the entity has been looked at then."""
    yield events(given[:20])
    meanwhile()
    yield events(given[20:])


def held(client: redis.Redis, store: RollingStore) -> list[Any]:
    times, rows, tiles = store.keys(*ME)
    return [client.zrange(times, 0, -1, withscores=True), client.hgetall(rows), client.hgetall(tiles)]


def count(store: RollingStore, seconds: float) -> Any:
    return store.read(*ME, at(seconds)).values["count_60s"]


def test_a_fold_in_between_is_not_overwritten(client: redis.Redis) -> None:
    store, restore = RollingStore(client, VIEW, **TINY), RollingRestore(client, VIEW, **TINY)
    seen: list[Any] = []

    def folds() -> None:
        for number in range(40, 60):
            store.write(batch([swipe(number, number)]))
        assert client.hget(store.keys(*ME)[2], "until") is not None
        seen.append(held(client, store))

    assert restore.restore(interrupted(ROWS, folds), {}) == (0, [ME])
    assert seen == [held(client, store)], "nothing is changed"
    known = restore.folded([ME])
    every = [*ROWS, *(swipe(number, number) for number in range(40, 60))]
    assert restore.restore([events(every)], known) == (60, [])
    assert count(store, 59) == 60


def test_a_row_that_the_writer_brings_late_is_not_counted_twice(client: redis.Redis) -> None:
    """It is among the rows that are put into tiles, and was not there when the entity was looked at."""
    store, restore = RollingStore(client, VIEW, **TINY), RollingRestore(client, VIEW, **TINY)
    store.write(batch([ROWS[3]]))
    lagging = lambda: store.write(batch([ROWS[1], ROWS[2]]))  # noqa: E731
    assert restore.restore(interrupted(ROWS, lagging), {}) == (0, [ME])
    assert count(store, 39) == 3
    assert restore.restore([events(ROWS)], {}) == (40, [])
    assert count(store, 39) == 40
    store.write(batch(ROWS))
    assert count(store, 39) == 40, "the writer's repeats change nothing"


def test_rows_that_only_the_writer_has_are_kept(client: redis.Redis) -> None:
    store, restore = RollingStore(client, VIEW, **TINY), RollingRestore(client, VIEW, **TINY)
    newer = [swipe(number, number) for number in range(40, 45)]
    assert restore.restore(interrupted(ROWS, lambda: store.write(batch(newer))), {}) == (40, [])
    assert count(store, 44) == 45
    assert restore.restore([events([*ROWS, *newer])], restore.folded([ME])) == (45, [])
    assert count(store, 44) == 45


def test_rows_of_one_time_are_each_counted_once(client: redis.Redis) -> None:
    store, restore = RollingStore(client, VIEW, **TINY), RollingRestore(client, VIEW, **TINY)
    given = [swipe(number, number // 15) for number in range(40)]
    parts = (events(given[begin : begin + 7]) for begin in range(0, 40, 7))
    assert restore.restore(parts, {}) == (40, [])
    assert count(store, 3) == 40
    store.write(batch([*given, *(swipe(number, 3) for number in range(40, 60))]))
    assert count(store, 3) == 60
