"""The acceptance store: one behaviour, in memory and on Redis."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
import redis.asyncio

from core.errors import Unavailable
from core.ids import new_id
from core.settings import settings
from gateway.acceptance import Acceptance, AcceptanceStore, InMemoryAcceptance, RedisAcceptance
from stack.local import Stack
from tests.lanes import on_the_stack

TTL = timedelta(hours=1)


@pytest.fixture(params=["memory", pytest.param("redis", marks=on_the_stack)])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[AcceptanceStore]:
    if request.param == "memory":
        yield InMemoryAcceptance(ttl=TTL)
        return
    stack: Stack = request.getfixturevalue("stack")
    client = redis.asyncio.Redis.from_url(stack.settings.redis.address)
    yield RedisAcceptance(client, ttl=TTL, timeout_s=5.0)
    await client.aclose()


def pending(digest: bytes = b"a" * 32) -> Acceptance:
    return Acceptance(digest, "fraud", "card-1", 1_000, 2_000)


async def test_the_first_reservation_wins_and_the_second_sees_it(store: AcceptanceStore) -> None:
    id = new_id()
    assert await store.reserve("acme", [(id, pending())]) == [None]
    assert await store.reserve("acme", [(id, pending(b"b" * 32))]) == [pending()]
    assert await store.get("acme", "fraud", id) == pending()


async def test_of_many_at_once_one_wins(store: AcceptanceStore) -> None:
    id = new_id()
    digests = [bytes([n]) * 32 for n in range(20)]
    found = await asyncio.gather(*(store.reserve("acme", [(id, pending(digest))]) for digest in digests))
    firsts = [digest for digest, (earlier,) in zip(digests, found, strict=True) if earlier is None]
    assert len(firsts) == 1
    assert all(earlier in (None, pending(firsts[0])) for (earlier,) in found)


async def test_marking_makes_accepted_and_stays(store: AcceptanceStore) -> None:
    id = new_id()
    await store.reserve("acme", [(id, pending())])
    await store.mark("acme", {id: pending()}, reserved=True)
    assert await store.get("acme", "fraud", id) == pending().as_accepted()
    assert await store.reserve("acme", [(id, pending())]) == [pending().as_accepted()]


async def test_marking_without_a_reservation_leaves_what_is_there(store: AcceptanceStore) -> None:
    id, fresh = new_id(), new_id()
    await store.reserve("acme", [(id, pending())])
    await store.mark("acme", {id: pending(b"b" * 32), fresh: pending(b"c" * 32)}, reserved=False)
    assert await store.get("acme", "fraud", id) == pending()
    assert await store.get("acme", "fraud", fresh) == pending(b"c" * 32).as_accepted()


async def test_tenants_do_not_see_each_other_however_they_are_named(store: AcceptanceStore) -> None:
    id = new_id()
    await store.reserve("a|b", [(id, pending())])
    assert await store.get("a", "fraud", f"b|{id}") is None
    assert await store.get("other", "fraud", id) is None


async def test_pipelines_do_not_see_each_other_however_they_are_named(store: AcceptanceStore) -> None:
    id = new_id()
    assert await store.reserve("acme", [(f"x|{id}", pending())]) == [None]
    for pipeline in ("other", "fraud|x"):
        mine = Acceptance(b"b" * 32, pipeline, "card-1", 1_000, 2_000)
        known = f"x|{id}" if pipeline == "other" else id
        assert await store.reserve("acme", [(known, mine)]) == [None]
        await store.mark("acme", {known: mine}, reserved=True)
        assert await store.get("acme", pipeline, known) == mine.as_accepted()
    assert await store.get("acme", "fraud", f"x|{id}") == pending()


async def test_a_batch_is_answered_in_its_order(store: AcceptanceStore) -> None:
    ids = [new_id() for _ in range(50)]
    for id in ids[::3]:
        await store.reserve("acme", [(id, pending(id.encode()[:32]))])
    found = await store.reserve("acme", [(id, pending()) for id in ids])
    assert [earlier is not None for earlier in found] == [n % 3 == 0 for n in range(50)]
    given = [earlier.digest for earlier in found if earlier]
    assert given == [id.encode()[:32] for id in itertools.islice(ids, 0, None, 3)]


async def test_what_was_never_there_is_none(store: AcceptanceStore) -> None:
    assert await store.get("acme", "fraud", new_id()) is None


async def test_a_redis_that_is_away_is_unavailable_at_once_and_again_soon() -> None:
    client = redis.asyncio.Redis(port=1)
    store = RedisAcceptance(client, ttl=TTL)
    for _ in range(2):
        with pytest.raises(Unavailable):
            await store.reserve("acme", [("x", pending())])
    await client.aclose()


async def test_memory_is_bounded_and_forgets_after_its_time() -> None:
    from core.clock import ManualClock

    clock = ManualClock()
    store = InMemoryAcceptance(ttl=timedelta(seconds=10), limit=3, clock=clock)
    for id in "abcd":
        await store.reserve("acme", [(id, pending())])
    assert [store.peek("acme", "fraud", id) is not None for id in "abcd"] == [False, True, True, True]
    clock.advance(timedelta(seconds=10))
    assert store.peek("acme", "fraud", "d") is None


@pytest.mark.services
async def test_redis_forgets_after_the_time_to_live(stack: Stack) -> None:
    client = redis.asyncio.Redis.from_url(settings().redis.address)
    store = RedisAcceptance(client, ttl=TTL, timeout_s=5.0)
    id = new_id()
    await store.reserve("acme", [(id, pending())])
    assert 0 < await client.ttl(f"millstream:accepted:acme|fraud|{id}") <= TTL.total_seconds()
    await client.aclose()
