"""The outcome store: one behaviour, in memory and on Redis."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from datetime import timedelta

import msgspec
import pytest
import redis.asyncio

from core.errors import Rejected, Unavailable
from core.ids import new_id
from pipelines.asking.failures import failure_of
from pipelines.asking.outcomes import (
    ANSWERED,
    CANCELLED,
    EXPIRED,
    FAILED,
    End,
    InMemoryOutcomes,
    OutcomeStore,
    RedisOutcomes,
    Reserved,
    Standing,
    digest_of,
    failed,
)
from tests.features.redis_server import RedisServer, own_redis

TTL = timedelta(hours=1)
RESERVED = Reserved(b"a" * 32, "fraud", 1_000, 2_000)
ANSWER = End(b"a" * 32, ANSWERED, "one", 1_500, 0, 200, b'{"score": 1}', final=True)


@pytest.fixture(scope="module")
def server() -> "AsyncIterator[RedisServer]":
    with own_redis() as made:
        yield made


Making = Callable[[timedelta], OutcomeStore]


@pytest.fixture(params=["memory", "redis"])
async def lasting(request: pytest.FixtureRequest) -> AsyncIterator[Making]:
    """Makes stores whose outcomes last so long."""
    if request.param == "memory":
        yield lambda ttl: InMemoryOutcomes(ttl=ttl)
        return
    server: RedisServer = request.getfixturevalue("server")
    client = redis.asyncio.Redis.from_url(server.settings.redis.address)
    yield lambda ttl: RedisOutcomes(client, ttl=ttl, timeout_s=5.0)
    await client.aclose()


@pytest.fixture
def store(lasting: Making) -> OutcomeStore:
    return lasting(TTL)


async def test_nothing_is_known_of_what_was_never_asked(store: OutcomeStore) -> None:
    found = await store.read("acme", new_id(), after=-1)
    assert (found.reserved, found.end, list(found.pieces)) == (None, None, [])


async def test_of_many_reservations_one_wins_and_the_others_see_it(store: OutcomeStore) -> None:
    id = new_id()
    asked = [msgspec.structs.replace(RESERVED, digest=bytes([n]) * 32) for n in range(20)]
    found = await asyncio.gather(*(store.reserve("acme", id, one) for one in asked))
    firsts = [one for one, there in zip(asked, found, strict=True) if there.reserved is None]
    assert len(firsts) == 1
    assert all(there.reserved in (None, firsts[0]) for there in found)
    assert (await store.read("acme", id)).reserved == firsts[0]
    assert (await store.read("other", id)).reserved is None


async def test_what_is_noted_is_found_and_an_end_stays(store: OutcomeStore) -> None:
    first, second = new_id(), new_id()
    await store.end("acme", second, ANSWER)
    later = msgspec.structs.replace(RESERVED, deadline_ms=3_000)
    await store.note([("acme", first, RESERVED), ("acme", second, later)])
    assert (await store.read("acme", first)).reserved == RESERVED
    found = await store.read("acme", second)
    assert (found.reserved, found.end) == (later, ANSWER)
    assert (await store.reserve("acme", first, later)).reserved == RESERVED


async def test_the_first_final_end_stands(store: OutcomeStore) -> None:
    id = new_id()
    others = [msgspec.structs.replace(ANSWER, attempt=str(n), body=b"%d" % n) for n in range(10)]
    stand = await asyncio.gather(*(store.end("acme", id, one) for one in others))
    assert len(set(stand)) == 1
    assert (await store.read("acme", id)).end == stand[0]
    assert await store.end("acme", id, End(b"", EXPIRED, "late", 1)) == stand[0]


async def test_what_is_known_without_asking_is_settled_at_once(store: OutcomeStore) -> None:
    id = new_id()
    assert await store.settle("acme", id, RESERVED, ANSWER) == Standing()
    found = await store.read("acme", id)
    assert (found.reserved, found.end) == (RESERVED, ANSWER)
    again = msgspec.structs.replace(ANSWER, body=b"{}")
    there = await store.settle("acme", id, msgspec.structs.replace(RESERVED, asked_at_ms=9), again)
    assert (there.reserved, there.end) == (RESERVED, ANSWER)
    assert (await store.read("acme", id)).end == ANSWER


async def test_settling_leaves_an_id_to_the_one_who_has_it(store: OutcomeStore) -> None:
    other, theirs = b"b" * 32, new_id()
    reserved = msgspec.structs.replace(RESERVED, digest=other)
    await store.reserve("acme", theirs, reserved)
    there = await store.settle("acme", theirs, RESERVED, ANSWER)
    assert (there.reserved, there.end) == (reserved, None)
    assert (await store.read("acme", theirs)).end is None
    ended, end = new_id(), End(other, EXPIRED, "x", 1)
    await store.end("acme", ended, end)
    assert (await store.settle("acme", ended, RESERVED, ANSWER)).end == end
    assert (await store.read("acme", ended)).end == end


async def test_settling_ends_what_is_under_way_and_replaces_what_was_not_answered(
    store: OutcomeStore,
) -> None:
    id = new_id()
    await store.reserve("acme", id, RESERVED)
    await store.end("acme", id, End(RESERVED.digest, CANCELLED, "x", 1))
    there = await store.settle("acme", id, msgspec.structs.replace(RESERVED, asked_at_ms=9), ANSWER)
    assert there.reserved == RESERVED
    assert await store.end("acme", id, msgspec.structs.replace(ANSWER, body=b"{}")) == ANSWER
    assert (await store.read("acme", id)).reserved == RESERVED


@pytest.mark.parametrize("order", itertools.permutations((EXPIRED, CANCELLED, FAILED), 2))
async def test_what_may_still_be_answered_gives_way(store: OutcomeStore, order: tuple[str, str]) -> None:
    id = new_id()
    for state in order:
        end = End(b"a" * 32, state, "x", 1)  # type: ignore[arg-type]
        assert await store.end("acme", id, end) == end
        assert (await store.read("acme", id)).end == end
    assert await store.end("acme", id, ANSWER) == ANSWER


async def test_pieces_are_read_from_any_number_on(store: OutcomeStore) -> None:
    id, pieces = new_id(), [b"%d" % n for n in range(7)]
    await store.add("acme", id, pieces[:3])
    await store.add("acme", id, pieces[3:])
    for after in range(-1, 8):
        assert list((await store.read("acme", id, after=after)).pieces) == pieces[after + 1 :]
    assert (await store.read("acme", id)).pieces == ()


async def test_an_attempt_begins_without_what_was_there_but_a_final_end(store: OutcomeStore) -> None:
    id = new_id()
    await store.reserve("acme", id, RESERVED)
    await store.add("acme", id, [b"a"])
    await store.end("acme", id, End(b"", EXPIRED, "x", 1))
    await store.begin("acme", id)
    found = await store.read("acme", id, after=-1)
    assert (found.reserved, found.end, list(found.pieces)) == (RESERVED, None, [])
    await store.end("acme", id, ANSWER)
    await store.begin("acme", id)
    assert (await store.read("acme", id)).end == ANSWER


async def test_asked_again_it_is_under_way_again_unless_it_was_answered(store: OutcomeStore) -> None:
    id, later = new_id(), msgspec.structs.replace(RESERVED, deadline_ms=9_000)
    await store.reserve("acme", id, RESERVED)
    await store.add("acme", id, [b"a"])
    await store.end("acme", id, End(b"", CANCELLED, "x", 1))
    await store.renew("acme", id, later)
    found = await store.read("acme", id, after=-1)
    assert (found.reserved, found.end, list(found.pieces)) == (later, None, [b"a"])
    await store.end("acme", id, ANSWER)
    await store.renew("acme", id, RESERVED)
    assert (await store.read("acme", id)).end == ANSWER


async def test_an_error_comes_back_whole(store: OutcomeStore) -> None:
    id, error = new_id(), Rejected("wrong", fields={"/a": "missing"})
    end = failed(b"a", error, attempt="x", pieces=3, at_ms=5)
    assert end.final
    assert not failed(b"a", Unavailable("away"), attempt="x", pieces=3, at_ms=5).final
    await store.end("acme", id, end)
    found = (await store.read("acme", id)).end
    assert found is not None
    assert found == end
    assert found.failure == failure_of(error)


async def test_all_of_a_request_is_forgotten_after_its_time(lasting: Making) -> None:
    brief, id = lasting(timedelta(milliseconds=50)), new_id()
    await brief.settle("acme", id, RESERVED, ANSWER)
    await brief.add("acme", id, [b"a"])
    await asyncio.sleep(0.06)
    found = await brief.read("acme", id, after=-1)
    assert (found.reserved, found.end, list(found.pieces)) == (None, None, [])
    other = msgspec.structs.replace(RESERVED, digest=b"b" * 32)
    assert await brief.reserve("acme", id, other) == Standing()


def test_a_digest_tells_pipelines_and_bodies_apart() -> None:
    made = {digest_of(pipeline, body) for pipeline in ("a", "ab") for body in (b"", b"b", b"bb")}
    assert len(made) == 6


async def test_redis_away_is_unavailable_and_comes_back() -> None:
    with own_redis() as server:
        client = redis.asyncio.Redis.from_url(server.settings.redis.address)
        store = RedisOutcomes(client, ttl=TTL, rest_s=0.0)
        await store.end("acme", "x", ANSWER)
        server.kill()
        for call in (
            store.read("acme", "x"),
            store.reserve("acme", "x", RESERVED),
            store.end("acme", "x", ANSWER),
            store.add("acme", "x", [b"a"]),
            store.begin("acme", "x"),
            store.settle("acme", "x", RESERVED, ANSWER),
            store.renew("acme", "x", RESERVED),
        ):
            with pytest.raises(Unavailable):
                await call
        server.start()
        assert await store.end("acme", "y", ANSWER) == ANSWER
        await client.aclose()
