"""Asking through the caches: what is given again, to whom, and what never is; in memory and on Redis."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Any

import pytest
import redis.asyncio

from core.clock import ManualClock
from core.errors import ModelFailed, Rejected
from core.ids import new_id
from core.settings import Asking
from gateway.asking.cache_versions import LOOK_S
from pipelines.asking.outcomes import InMemoryOutcomes, RedisOutcomes
from pipelines.on_redis.cache import RedisCache
from pipelines.plan import Reuse
from pipelines.serving.assignment import place_of
from schemas.catalog.models import Route
from tests.features.redis_server import RedisServer, own_redis
from tests.gateway.asked_through_caches import (
    LASTS,
    Gateway,
    SharedInMemory,
    World,
    header_of,
    level,
    said,
)
from tests.gateway.samples import NOW, payment

HOUR = timedelta(hours=1)
NO_CACHE = {"cache-control": "no-cache"}
NO_STORE = {"cache-control": "no-store"}
ONLY_KEPT = {"cache-control": "only-if-cached"}
OWN = ("id", "record_id", "occurred_at")


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
    shared = RedisCache(client, name=new_id(), timeout_s=30.0)
    made = World(RedisOutcomes(client, ttl=HOUR, timeout_s=30.0), shared, clock)
    yield made
    await client.aclose()


def in_memory(reuse: Reuse | None = None) -> tuple[World, SharedInMemory]:
    clock = ManualClock(NOW)
    shared = SharedInMemory(clock)
    return World(InMemoryOutcomes(ttl=HOUR, clock=clock), shared, clock, reuse), shared


def under(id: str | None = None) -> dict[str, str]:
    """The header of a request that has an id."""
    return {"idempotency-key": id or new_id()}


def waiting(gateway: Gateway) -> int:
    """How many wait for an answer that is being made."""
    return sum(count for _, (count,) in gateway.cache._flights.values())


async def until(true: Any) -> None:
    async with asyncio.timeout(60):
        while not true():
            await asyncio.sleep(0)


async def test_memory_then_redis_then_the_pipeline(world: World) -> None:
    one, other = world.gateway(), world.gateway()
    answers = [await one.ask(), await one.ask()]
    await one.cache.settled()
    answers += [await other.ask(), await other.ask()]
    assert [level(answer) for answer in answers] == ["miss", "memory", "redis", "memory"]
    assert len(world.worker.worked) == 1
    bodies = [said(answer) for answer in answers]
    assert len({body["nonce"] for body in bodies}) == 1
    assert all(body.keys() == bodies[0].keys() for body in bodies)
    assert len({body["id"] for body in bodies}) == 4
    assert all(body["id"] == body["record_id"] for body in bodies)
    assert header_of(answers[0], "cache-status") == "redis; fwd=miss; stored, memory; fwd=miss; stored"
    for answer in answers:
        assert header_of(answer, "cache-control") == "private, max-age=60"
        assert (header_of(answer, "age") or "").isdigit()
    timing = [header_of(answer, "server-timing") or "" for answer in answers]
    assert ["pipeline" in stages for stages in timing] == [True, False, False, False]


async def test_what_differs_is_asked_for_itself(world: World) -> None:
    gateway = world.gateway()
    asked: list[tuple[dict[str, Any], str]] = [
        (payment(), "acme"),
        (payment(), "other"),
        (payment(amount_cents=1251), "acme"),
        (payment(card_id="c-2"), "acme"),
        (payment(counts={"a": 1}), "acme"),
        (payment(occurred_at=(NOW + timedelta(milliseconds=1)).isoformat()), "acme"),
    ]
    for _ in range(2):
        for body, tenant in asked:
            await gateway.ask(body, tenant=tenant)
    assert len(world.worker.worked) == len(asked)


async def test_an_answer_carries_what_is_its_requests_own(world: World) -> None:
    gateway = world.gateway()
    first = said(await gateway.ask(payment(id="p-1"), headers=under()))
    key = new_id()
    again = await gateway.ask(payment(id="p-2"), headers=under(key))
    body = said(again)
    assert level(again) == "memory"
    assert (body["id"], body["record_id"]) == (key, "p-2")
    assert {k: v for k, v in body.items() if k not in OWN} == {k: v for k, v in first.items() if k not in OWN}
    assert body["occurred_at"] == first["occurred_at"]


async def test_equal_questions_at_once_are_one_work(world: World) -> None:
    gateway = world.gateway()
    world.worker.may_answer.clear()
    keys = [new_id() if number % 2 else None for number in range(30)]
    asked = [asyncio.create_task(gateway.ask(headers=None if key is None else under(key))) for key in keys]
    await until(lambda: world.worker.worked and waiting(gateway) == len(keys))
    world.worker.may_answer.set()
    answers = await asyncio.gather(*asked)
    assert len(world.worker.worked) == 1
    assert sorted({level(answer) for answer in answers}) == ["collapsed", "miss"]
    bodies = [said(answer) for answer in answers]
    assert len({body["nonce"] for body in bodies}) == 1
    for key, body in zip(keys, bodies, strict=True):
        assert key in (None, body["id"])
    for key, answer in zip(keys, answers, strict=True):
        if key is not None:
            again = await gateway.ask(headers=under(key))
            assert (level(again), again.body) == ("replayed", answer.body)


async def test_a_key_keeps_its_answer_whatever_the_caches_say(world: World) -> None:
    one, other = world.gateway(), world.gateway()
    await one.ask()
    keyed = under()
    hit = await one.ask(headers=keyed)
    assert level(hit) == "memory"
    for gateway, more in ((one, {}), (other, {}), (one, NO_CACHE)):
        again = await gateway.ask(headers={**keyed, **more})
        assert (level(again), again.body) == ("replayed", hit.body)
    world.models.serve(Route("2"))
    world.worker.version = "2"
    assert said(await one.ask())["model_version"] == "2"
    assert (await one.ask(headers=keyed)).body == hit.body
    conflicts = [await gateway.ask(payment(amount_cents=1), keyed) for gateway in (one, other)]
    assert [answer.status for answer in conflicts] == [409, 409]
    found = json.loads((await other.read(keyed["idempotency-key"])).body)
    assert (found["state"], found["status"]) == ("answered", 200)
    assert found["answer"] == said(hit)


async def test_another_body_under_a_key_is_a_conflict_though_a_cache_has_its_answer(world: World) -> None:
    gateway, keyed = world.gateway(), under()
    await gateway.ask(payment(amount_cents=7))
    await gateway.ask(payment(amount_cents=8), keyed)
    assert (await gateway.ask(payment(amount_cents=7), keyed)).status == 409
    assert (await gateway.ask(payment(amount_cents=7, id=keyed["idempotency-key"]))).status == 409


async def test_only_what_the_version_in_service_answered_is_kept(world: World) -> None:
    gateway = world.gateway()
    for change in ({"degraded": True}, {"version": "0"}, {"arm": "canary"}, {"status": 203}):
        body = payment(amount_cents=random.randrange(10**9))
        for name, value in change.items():
            setattr(world.worker, name, value)
        answer = await gateway.ask(body)
        assert header_of(answer, "cache-status") == "redis; fwd=miss, memory; fwd=miss"
        assert header_of(answer, "cache-control") is None, "the server says no-store"
        for name in change:
            setattr(
                world.worker,
                name,
                {"degraded": False, "version": "1", "arm": "champion", "status": 200}[name],
            )
        assert level(await gateway.ask(body)) == "miss"
        assert level(await gateway.ask(body)) == "memory"


async def test_a_failure_is_everybodys_and_kept_for_nobody(world: World) -> None:
    gateway = world.gateway()
    world.worker.error = Rejected("no score", fields={"": "no"}, code="not_scored")
    world.worker.may_answer.clear()
    asked = [asyncio.create_task(gateway.ask()) for _ in range(5)]
    await until(lambda: world.worker.worked and waiting(gateway) == 5)
    world.worker.may_answer.set()
    assert [answer.status for answer in await asyncio.gather(*asked)] == [422] * 5
    assert len(world.worker.worked) == 1
    world.worker.error = ModelFailed("broken")
    assert (await gateway.ask()).status == 500
    world.worker.error = None
    assert level(await gateway.ask()) == "miss"


async def test_another_version_answers_anew_and_the_one_before_has_its_answers_yet(world: World) -> None:
    gateway = world.gateway()
    first = said(await gateway.ask())
    world.models.serve(Route("2"))
    world.worker.version = "2"
    changed = await gateway.ask()
    assert (level(changed), said(changed)["model_version"]) == ("miss", "2")
    assert level(await gateway.ask()) == "memory"
    world.models.serve(Route("1"))
    back = await gateway.ask()
    assert (level(back), said(back)["nonce"]) == ("memory", first["nonce"])


async def test_a_canarys_units_are_given_its_answers_and_a_shadows_are_nobodys(world: World) -> None:
    gateway = world.gateway()
    world.models.serve(Route("1", 0.5), Route("2", 0.5, arm="canary"), Route("3", 1.0, "shadow"))
    cards = [f"c-{number}" for number in range(20)]
    versions = {card: "2" if place_of("s", f"acme|{card}") < 0.5 else "1" for card in cards}
    assert set(versions.values()) == {"1", "2"}
    for card in cards:
        world.worker.version = versions[card]
        world.worker.arm = {"1": "champion", "2": "canary"}[versions[card]]
        assert level(await gateway.ask(payment(card_id=card))) == "miss"
    for card in cards:
        again = await gateway.ask(payment(card_id=card))
        assert (level(again), said(again)["model_version"]) == ("memory", versions[card])
    world.models.serve(Route("1", 0.0), Route("2", 1.0, arm="canary"))
    for card in cards:
        assert level(await gateway.ask(payment(card_id=card))) == (
            "memory" if versions[card] == "2" else "miss"
        )


async def test_without_a_known_version_nothing_is_kept_and_known_ones_outlast_kafka(world: World) -> None:
    gateway = world.gateway()
    world.models.serve()
    assert [level(await gateway.ask()) for _ in range(2)] == ["bypass", "bypass"]
    world.models.serve(Route("1"))
    await gateway.ask()
    world.models.away = True
    world.clock.elapsed += 2 * LOOK_S
    assert level(await gateway.ask()) == "memory"


@pytest.mark.parametrize(
    ("control", "age_s", "expected"),
    [
        ("", 30, "memory"),
        ("max-stale=100, x-unknown", 30, "memory"),
        ("max-age=30", 30, "memory"),
        ("max-age=29", 30, "miss"),
        ("MAX-AGE=0", 1, "miss"),
        ("max-age=soon", 1, "miss"),
        ("max-age=99999999999999999999", 59, "memory"),
        ("max-age=50, max-age=10", 11, "miss"),
        ("min-fresh=30", 30, "memory"),
        ("min-fresh=31", 30, "miss"),
        ("min-fresh=x", 1, "miss"),
        ("only-if-cached", 59, "memory"),
        ("", 60, "miss"),
        ("no-cache", 1, "request"),
        ("No-Cache", 1, "request"),
        ("no-store", 1, "memory"),
    ],
)
async def test_cache_control_is_respected(control: str, age_s: int, expected: str) -> None:
    world, _ = in_memory()
    gateway = world.gateway()
    first = said(await gateway.ask())
    await gateway.cache.settled()
    world.clock.advance(timedelta(seconds=age_s))
    answer = await gateway.ask(headers={"cache-control": control} if control else None)
    assert level(answer) == expected
    if expected == "memory":
        assert header_of(answer, "age") == str(age_s)
        assert header_of(answer, "cache-status") == f"memory; hit; ttl={60 - age_s}"
        assert said(answer)["nonce"] == first["nonce"]
    else:
        assert header_of(answer, "age") == "0"
        again = await gateway.ask()  # the newer one is kept
        assert (level(again), said(again)["nonce"]) == ("memory", said(answer)["nonce"])


async def test_no_store_keeps_nothing_and_only_if_cached_makes_nothing(world: World) -> None:
    gateway = world.gateway()
    assert level(await gateway.ask(headers=NO_STORE)) == "miss"
    assert level(await gateway.ask(headers={"cache-control": "no-store, no-cache"})) == "request"
    refused = await gateway.ask(headers=ONLY_KEPT)
    assert (refused.status, json.loads(refused.body)["code"]) == (504, "not_cached")
    assert len(world.worker.worked) == 2
    await gateway.ask()
    await gateway.cache.settled()
    other = world.gateway()
    assert level(await other.ask(headers=ONLY_KEPT)) == "redis"
    assert level(await world.gateway().ask(headers=NO_STORE)) == "redis"
    assert len(world.worker.worked) == 3


async def test_who_comes_back_for_an_answer_is_given_a_kept_one_at_once(world: World) -> None:
    gateway = world.gateway()
    assert (await gateway.ask(headers={"prefer": "respond-async"})).status == 202
    await gateway.ask()
    await gateway.cache.settled()
    for each in (gateway, world.gateway()):
        answer = await each.ask(headers={"prefer": "respond-async", **under()})
        assert level(answer) == ("memory" if each is gateway else "redis")


async def test_who_leaves_takes_the_answer_from_nobody_and_the_last_one_ends_the_work(world: World) -> None:
    gateway, worker = world.gateway(), world.worker
    worker.may_answer.clear()
    gone = asyncio.Event()
    leaves = asyncio.create_task(gateway.ask(gone=gone))
    await until(lambda: worker.worked)
    stays = asyncio.create_task(gateway.ask(headers=under()))
    await until(lambda: waiting(gateway) == 2)
    gone.set()
    assert (await leaves).status == 499
    worker.may_answer.set()
    assert level(await stays) == "collapsed"
    assert worker.cancelled == []
    worker.may_answer.clear()
    gone.clear()
    alone = asyncio.create_task(gateway.ask(payment(amount_cents=1), gone=gone))
    await until(lambda: len(worker.worked) == 2)
    gone.set()
    assert (await alone).status == 499
    await until(lambda: worker.cancelled == worker.worked[1:])
    await until(lambda: len(gateway.waiters) == 0)


async def test_who_waits_longer_than_who_asked_is_answered() -> None:
    world, _ = in_memory()
    world.settings = Asking(wait_s=0.05, longest_wait_s=600)
    gateway = world.gateway()
    world.worker.may_answer.clear()
    short = asyncio.create_task(gateway.ask())
    await until(lambda: world.worker.worked)
    long = asyncio.create_task(gateway.ask(headers={"prefer": "wait=600"}))
    assert (await short).status == 504
    await until(lambda: len(world.worker.worked) == 2)
    world.worker.may_answer.set()
    assert level(await long) == "miss"
    assert len(gateway.waiters) == 0


async def test_memory_gives_redis_what_it_lost() -> None:
    world, shared = in_memory()
    gateway = world.gateway()
    await gateway.ask()
    await gateway.cache.settled()
    shared.values.clear()
    await gateway.ask()
    await gateway.cache.settled()
    assert not shared.values, "not at every hit"
    world.clock.advance(LASTS / 10)
    await gateway.ask()
    await gateway.cache.settled()
    (found,) = shared.values.values()
    assert found[1] == pytest.approx(LASTS.total_seconds() + LOOK_S), "for no longer than it had"
    assert level(await world.gateway().ask()) == "redis"


@pytest.mark.services
async def test_redis_away_leaves_memory_and_the_pipeline_and_an_id_its_answer() -> None:
    with own_redis() as server:
        clock, client = ManualClock(NOW), redis.asyncio.Redis(port=server.port)
        store = RedisOutcomes(client, ttl=HOUR, timeout_s=30.0, rest_s=0.0)
        world = World(store, RedisCache(client, name="a", timeout_s=30.0, rest_s=0.0), clock)
        gateway = world.gateway()
        keyed = under()
        before = await gateway.ask(headers=keyed | NO_STORE)
        kept = said(await gateway.ask())
        await gateway.cache.settled()
        server.kill()
        answer = await gateway.ask()
        assert (level(answer), said(answer)["nonce"]) == ("memory", kept["nonce"])
        assert level(await gateway.ask(payment(amount_cents=3))) == "miss"
        assert level(await gateway.ask(payment(amount_cents=3))) == "memory"
        await gateway.cache.settled()
        # under an id it is the worker who remembers, not the cache
        again = await gateway.ask(headers=keyed)
        assert (level(again), again.body) == ("bypass", before.body)
        server.start()
        async with asyncio.timeout(60):
            while level(await gateway.ask(headers=under())) != "memory":
                await asyncio.sleep(0.02)
        await client.aclose()


async def test_event_times_count_as_far_as_the_pipeline_says() -> None:
    world, _ = in_memory(Reuse(LASTS, as_of=timedelta(seconds=10), ignored=("flag",)))
    gateway = world.gateway()

    async def asked(after_ms: int, **more: Any) -> str:
        at = NOW + timedelta(milliseconds=after_ms)
        answer = await gateway.ask(payment(occurred_at=at.isoformat(), **more))
        assert said(answer)["occurred_at"] == at.isoformat().replace("+00:00", "Z")
        return level(answer)

    assert [await asked(0), await asked(9_999), await asked(1, flag=True)] == ["miss", "memory", "memory"]
    assert [await asked(10_000), await asked(-1)] == ["miss", "miss"]


@pytest.mark.parametrize("seed", range(10))
async def test_random_questions_over_gateways_versions_and_time(seed: int) -> None:
    """Whoever is answered, is answered what was made for the very question of the same tenant, by a version
    that was in service when it was asked or given, no longer ago than answers last; and an id once."""
    dice = random.Random(seed)
    world, shared = in_memory()
    gateways = [world.gateway(), world.gateway()]
    made_at: dict[str, tuple[float, Any]] = {}
    of_key: dict[tuple[str, str], tuple[Any, bytes]] = {}

    async def one(number: int) -> None:
        tenant, amount = dice.choice("ab"), dice.randrange(4)
        key = f"k{dice.randrange(12)}" if dice.random() < 0.5 else None
        headers = {} if key is None else under(key)
        if dice.random() < 0.2:
            headers["cache-control"] = dice.choice(["no-cache", "no-store", "max-age=5"])
        version, asked_at = world.worker.version, world.clock.monotonic()
        answer = await dice.choice(gateways).ask(payment(amount_cents=amount), headers, tenant=tenant)
        if key is not None and of_key.setdefault((tenant, key), (amount, answer.body))[0] != amount:
            assert answer.status == 409
            return
        body = said(answer)
        if key is not None:
            assert answer.body == of_key[tenant, key][1]
        question = (tenant, amount, body["model_version"])
        at, first = made_at.setdefault(body["nonce"], (asked_at, question))
        assert question == first
        assert body["score"] == amount / 100
        if level(answer) != "replayed":
            assert body["model_version"] == version
            assert asked_at - at <= LASTS.total_seconds()

    for number in range(150):
        await one(number)
        if dice.random() < 0.1:
            world.worker.version = dice.choice("12")
            world.models.serve(Route(world.worker.version))
        if dice.random() < 0.1:
            shared.away = not shared.away
        if dice.random() < 0.2:
            world.clock.advance(timedelta(seconds=dice.randrange(30)))
        if dice.random() < 0.3:
            for gateway in gateways:
                await gateway.cache.settled()
    assert len(made_at) < 140
    for gateway in gateways:
        await gateway.cache.settled()
