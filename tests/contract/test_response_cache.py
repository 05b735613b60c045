"""The cache of answers over the shared store: one behaviour with the one in Redis and with one in memory."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import timedelta

import pytest
import redis.asyncio

from core.clock import ManualClock
from core.errors import ModelFailed, Unavailable
from core.ids import new_id
from operators.cache import Cached, Keeping, ResponseCache, SharedCache, answer_key
from pipelines.on_redis.cache import RedisCache
from tests.features.redis_server import RedisServer, own_redis

KEEPING = Keeping(ttl=timedelta(seconds=60), refill=timedelta(seconds=5))


class SharedInMemory:
    """A shared store without a network; away when told so."""

    def __init__(self) -> None:
        self.values: dict[str, tuple[bytes, timedelta]] = {}
        self.away = False

    async def get(self, key: str) -> tuple[bytes, timedelta] | None:
        self._check()
        return self.values.get(key)

    async def put(self, key: str, value: bytes, ttl: timedelta, *, absent_only: bool = False) -> None:
        self._check()
        if not absent_only or key not in self.values:
            self.values[key] = (value, ttl)

    async def forget(self, key: str) -> None:
        self._check()
        self.values.pop(key, None)

    def _check(self) -> None:
        if self.away:
            raise Unavailable("away")


@dataclass(frozen=True)
class Store:
    shared: SharedCache
    clock: ManualClock

    def cache(self, keeping: Keeping = KEEPING) -> ResponseCache:
        """One process' cache."""
        return ResponseCache("answers", keeping, clock=self.clock, shared=self.shared)


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with own_redis() as running:
        yield running


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.services)])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    if request.param == "memory":
        yield Store(SharedInMemory(), ManualClock())
        return
    server: RedisServer = request.getfixturevalue("server")
    client = redis.asyncio.Redis(port=server.port)
    yield Store(RedisCache(client, name=new_id(), timeout_s=5.0), ManualClock())
    await client.aclose()


class Model:
    """Makes answers, as slowly as told; counts."""

    def __init__(self, answer: bytes = b"answer") -> None:
        self.answer = answer
        self.calls = 0
        self.cancelled = 0
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def __call__(self) -> bytes:
        self.calls += 1
        try:
            await self.may_answer.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return self.answer


async def test_the_shared_store_gives_back_what_was_put_and_for_how_long(store: Store) -> None:
    shared, long = store.shared, timedelta(seconds=60)
    assert await shared.get("k") is None
    await shared.put("k", b"one", long)
    await shared.put("k", b"two", timedelta(seconds=5), absent_only=True)
    found = await shared.get("k")
    assert found is not None
    assert (found[0], timedelta(seconds=5) < found[1] <= long) == (b"one", True)
    await shared.put("k", b"\x00three", timedelta(seconds=5))
    found = await shared.get("k")
    assert found is not None
    assert (found[0], found[1] <= timedelta(seconds=5)) == (b"\x00three", True)
    await shared.forget("k")
    await shared.forget("k")
    assert await shared.get("k") is None


async def test_a_miss_is_made_and_kept_in_both(store: Store) -> None:
    model, first, second = Model(), store.cache(), store.cache()
    wheres = [(await first.get("k", model)).where, (await first.get("k", model)).where]
    await first.settled()
    wheres += [(await second.get("k", model)).where, (await second.get("k", model)).where]
    assert wheres == ["miss", "memory", "shared", "memory"]
    assert model.calls == 1


async def test_equal_questions_at_once_are_answered_once(store: Store) -> None:
    model, cache = Model(), store.cache()
    model.may_answer.clear()
    asked = [asyncio.create_task(cache.get("k", model)) for _ in range(50)]
    while not model.calls:
        await asyncio.sleep(0.001)
    model.may_answer.set()
    found = await asyncio.gather(*asked)
    assert model.calls == 1
    assert sorted(item.where for item in found) == ["joined"] * 49 + ["miss"]
    assert {item.value for item in found} == {b"answer"}


async def test_one_who_leaves_takes_nobody_along_and_the_last_one_stops_the_making(store: Store) -> None:
    model, cache = Model(), store.cache()
    model.may_answer.clear()
    leaves, stays = (asyncio.create_task(cache.get("k", model)) for _ in range(2))
    while not model.calls:
        await asyncio.sleep(0.001)
    leaves.cancel()
    await asyncio.gather(leaves, return_exceptions=True)
    model.may_answer.set()
    assert (await stays).value == b"answer"

    model.may_answer.clear()
    alone = asyncio.create_task(cache.get("other", model))
    while model.calls < 2:
        await asyncio.sleep(0.001)
    alone.cancel()
    await asyncio.gather(alone, return_exceptions=True)
    await asyncio.sleep(0)
    assert model.cancelled == 1
    model.may_answer.set()
    assert (await cache.get("other", model)).where == "miss"


async def test_a_failure_is_raised_to_all_and_not_kept(store: Store) -> None:
    cache = store.cache()

    async def fails() -> bytes:
        await asyncio.sleep(0)
        raise ModelFailed("no answer")

    ended = await asyncio.gather(*(cache.get("k", fails) for _ in range(5)), return_exceptions=True)
    assert [type(item) for item in ended] == [ModelFailed] * 5
    assert (await cache.get("k", Model())).where == "miss"


async def test_a_hit_in_memory_fills_a_shared_store_that_lost_it(store: Store) -> None:
    model, cache = Model(), store.cache()
    await cache.get("k", model)
    await cache.settled()
    await store.shared.forget("k")
    await cache.get("k", model)
    await cache.settled()
    assert await store.shared.get("k") is None, "not at every hit"
    store.clock.advance(KEEPING.refill)
    await cache.get("k", model)
    await cache.settled()
    found = await store.shared.get("k")
    assert found is not None
    assert found[0] == b"answer"


async def test_who_wants_a_younger_answer_has_one_made_and_the_others_have_it_then(store: Store) -> None:
    model, first, second = Model(b"old"), store.cache(), store.cache()
    made = await first.get("k", model)
    assert (made.where, made.left) == ("miss", KEEPING.ttl)
    await first.settled()
    store.clock.advance(timedelta(seconds=20))
    young = KEEPING.ttl - timedelta(seconds=10)
    kept = first.remembered("k")
    assert kept is not None
    assert kept.left == timedelta(seconds=40)
    assert first.remembered("k", least=young) is None
    await store.shared.put("k", b"old", timedelta(seconds=40))
    assert await second.look("k", least=young) is None
    model.answer = b"new"
    assert (await first.get("k", model, least=young)).value == b"new"
    await first.settled()
    found = await second.look("k", least=young)
    assert found is not None
    assert (found.value, found.where, model.calls) == (b"new", "shared", 2)
    assert found.left > young


async def test_one_who_joins_is_given_nothing_too_old(store: Store) -> None:
    """The call that it joins finds an answer that is young enough for the one who began it."""
    await store.shared.put("k", b"old", timedelta(seconds=30))
    model, cache = Model(b"new"), store.cache()
    begins = asyncio.create_task(cache.get("k", model))
    await asyncio.sleep(0)
    assert cache.under_way("k")
    joins = await cache.get("k", model, least=timedelta(seconds=50))
    assert ((await begins).value, joins.value, joins.where) == (b"old", b"new", "miss")
    assert not cache.under_way("k")


async def test_who_comes_as_a_making_ends_does_not_join_it(store: Store) -> None:
    cache, model = store.cache(), Model()
    come: list[asyncio.Task[Cached]] = []

    async def fails() -> bytes:
        come.append(asyncio.ensure_future(cache.get("k", model)))  # its turn is next, before the end is known
        raise ModelFailed("no answer")

    with pytest.raises(ModelFailed):
        await cache.get("k", fails)
    assert (await come[0]).where == "miss"


async def test_what_is_not_kept_has_no_time_left(store: Store) -> None:
    cache = store.cache()
    refused = await cache.get("k", Model(), keep=lambda value: False)
    assert (refused.where, refused.left) == ("miss", timedelta(0))
    large = await store.cache(Keeping(bytes=1_000, largest=10)).get("k", Model(b"x" * 11))
    assert (large.where, large.left) == ("miss", timedelta(0))
    assert await cache.look("k") is None
    assert cache.put("k", b"made elsewhere") == KEEPING.ttl
    assert cache.remembered("k") is not None


async def test_an_answer_lives_its_time(store: Store) -> None:
    cache = ResponseCache("answers", KEEPING, clock=store.clock)
    model = Model()
    await cache.get("k", model)
    store.clock.advance(KEEPING.ttl - timedelta(seconds=1))
    assert (await cache.get("k", model)).where == "memory"
    store.clock.advance(timedelta(seconds=1))
    assert (await cache.get("k", model)).where == "miss"


async def test_memory_is_bounded_and_the_answer_used_longest_ago_goes(store: Store) -> None:
    cache = ResponseCache("answers", Keeping(bytes=10_000, largest=4_000), clock=store.clock)
    for key in ("a", "b"):
        await cache.get(key, Model(b"x" * 4_000))
    await cache.get("a", Model())
    await cache.get("c", Model(b"x" * 4_000))
    wheres = [(await cache.get(key, Model())).where for key in ("a", "c", "b")]
    assert wheres == ["memory", "memory", "miss"]
    large = Model(b"x" * 4_001)
    assert [(await cache.get("large", large)).where for _ in range(2)] == ["miss", "miss"]


async def test_the_answer_never_waits_for_a_store(store: Store) -> None:
    class Slow(SharedInMemory):
        async def put(self, key: str, value: bytes, ttl: timedelta, *, absent_only: bool = False) -> None:
            await asyncio.Event().wait()

    cache = ResponseCache("answers", Keeping(stores=3), clock=store.clock, shared=Slow())
    for number in range(10):
        assert (await asyncio.wait_for(cache.get(f"k{number}", Model()), 5)).where == "miss"
    assert len(cache._stores) == 3, "further ones are dropped, not queued without end"
    for task in cache._stores:
        task.cancel()


async def test_a_shared_store_that_is_away_costs_nothing_but_itself() -> None:
    shared = SharedInMemory()
    shared.away = True
    cache = ResponseCache("answers", KEEPING, clock=ManualClock(), shared=shared)
    model = Model()
    assert [(await cache.get("k", model)).where for _ in range(2)] == ["miss", "memory"]


@pytest.mark.services
async def test_redis_gone_is_a_miss() -> None:
    with own_redis() as server:
        client = redis.asyncio.Redis(port=server.port)
        cache = ResponseCache(
            "answers", KEEPING, clock=ManualClock(), shared=RedisCache(client, name="x", timeout_s=1.0)
        )
        await cache.get("k", Model())
        await cache.settled()
    assert (await cache.get("k", Model())).where == "memory"
    assert (await cache.get("new", Model())).where == "miss"
    await cache.settled()
    await client.aclose()


def test_keys_tell_tenants_versions_and_questions_apart_and_not_the_order_of_fields() -> None:
    def key(tenant: str = "t", version: str = "1", question: object = None) -> str:
        asked = {"prompt": "hi", "max_tokens": 3} if question is None else question
        return answer_key(tenant=tenant, pipeline="chat", model_version=version, question=asked)

    assert key() == key(question={"max_tokens": 3, "prompt": "hi"})
    others = [key(tenant="u"), key(version="2"), key(question={"prompt": "hi", "max_tokens": 4})]
    assert len({key(), *others}) == 4
