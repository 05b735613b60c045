"""What the tests' stores do in memory, the real ones do: each behaviour is stated once, for both."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import psycopg_pool
import pytest
import redis.asyncio

from core.clock import SystemClock, to_millis
from core.ids import new_id
from core.people_settings import People
from core.settings import Postgres, Settings, settings
from gateway.access.admin import AccessOperator
from gateway.access.policies import policy_of
from gateway.access.roles import Role
from gateway.access.store import PostgresAccess
from gateway.people.refresh_tokens import first_token
from gateway.people.sessions import Sessions
from gateway.people.signing import PostgresSigningKeys, new_key
from gateway.people.users import PostgresUsers
from gateway.people.vault import Vault
from stack.local import Stack
from tests.gateway.access.test_authority import Source
from tests.gateway.people.forging import KeysInMemory, SessionsInMemory
from tests.gateway.people.site import CHEAP, PASSWORD, Trail
from tests.gateway.samples import NOW
from tests.lanes import on_the_stack

DENY = policy_of({"name": "no", "effect": "deny", "permissions": ["*"]}, where="test")
REAL = pytest.param("real", marks=on_the_stack)


@dataclass
class Stores:
    """One kind of each store, and how it is changed from outside."""

    access: Any
    change: Callable[[str, Role], Awaitable[None]]
    keys: Any
    revoked: Any
    end: Callable[[], Awaitable[str]]


@pytest.fixture(params=["memory", REAL])
async def stores(request: pytest.FixtureRequest) -> AsyncIterator[Stores]:
    if request.param == "memory":
        yield _in_memory()
        return
    stack: Stack = request.getfixturevalue("stack")
    database: str = request.getfixturevalue("database")
    given = settings().model_copy(
        update={"postgres": Postgres(url=database, port=1), "people": People(**CHEAP)}
    )
    async with AsyncExitStack() as exits:
        yield await _real(given, stack, exits)


def _in_memory() -> Stores:
    source, sessions = Source(), SessionsInMemory()

    async def change(tenant: str, role: Role) -> None:
        source.change(tenant, [role], [DENY])

    async def end() -> str:
        sessions.ended.append(new_id())
        return sessions.ended[-1]

    return Stores(source, change, KeysInMemory(), sessions, end)


async def _real(given: Settings, stack: Stack, exits: AsyncExitStack) -> Stores:
    pool = psycopg_pool.AsyncConnectionPool(
        given.postgres.address, min_size=1, open=False, kwargs={"autocommit": True}
    )
    await pool.open()
    exits.push_async_callback(pool.close)
    client = redis.asyncio.Redis.from_url(stack.settings.redis.address)
    exits.push_async_callback(client.aclose)
    operator = AccessOperator(given, Trail())
    sessions = Sessions(client, given.people, SystemClock())
    await asyncio.to_thread(operator.list)  # makes the tables

    async def change(tenant: str, role: Role) -> None:
        await asyncio.to_thread(operator.create_role, tenant, role.name, sorted(role.permissions))
        await asyncio.to_thread(operator.apply_policies, tenant, [DENY])

    async def end() -> str:
        user = new_id()
        token = await sessions.begin(user=user, tenant="acme", address="", agent="")
        await sessions.end(user, token.session)
        return token.session

    return Stores(PostgresAccess(pool), change, PostgresSigningKeys(pool), sessions, end)


async def test_what_has_changed_is_told_by_tenant_and_only_since(stores: Stores) -> None:
    access, own = stores.access, Role("own", frozenset({"reviews:read"}))
    first = await access.revision()
    assert list(await access.changed_since(first)) == []
    assert list((await access.rules("acme")).roles) == []
    await stores.change("acme", own)
    second = await access.revision()
    assert second > first
    assert set(await access.changed_since(first)) == {"acme"}
    assert list(await access.changed_since(second)) == []
    found = await access.rules("acme")
    assert (list(found.roles), list(found.policies)) == ([own], [DENY])
    await stores.change("other", own)
    assert set(await access.changed_since(second)) == {"other"}


async def test_the_first_key_is_made_once(stores: Stores) -> None:
    vault = Vault("a secret of thirty-two characters")
    made = new_key(vault, NOW)
    assert list(await stores.keys.read()) == []
    assert [key.id for key in await stores.keys.add_first(made)] == [made.id]
    (stored,) = await stores.keys.read()
    assert stored == made


async def test_what_was_ended_is_told_in_order_and_once(stores: Stores) -> None:
    _, begin = await _all(stores, "0")
    first, second = await stores.end(), await stores.end()
    told, position = await _all(stores, begin)
    assert told == [first, second]
    assert await _all(stores, position) == ([], position)
    third = await stores.end()
    assert (await _all(stores, position))[0] == [third]
    assert (await _all(stores, "0"))[0][-3:] == [first, second, third]


async def _all(stores: Stores, position: str) -> tuple[list[str], str]:
    told, after = await stores.revoked.revoked_since(position)
    return [session for _, session in told], after


@pytest.mark.services
async def test_a_stream_that_lost_its_past_is_read_from_its_beginning(stack: Stack) -> None:
    client = redis.asyncio.Redis.from_url(stack.settings.redis.address)
    sessions = Sessions(client, People(), SystemClock())
    try:
        ahead = "9999999999999-0"  # of a Redis whose data are gone
        token = await sessions.begin(user="u-lost", tenant="acme", address="", agent="")
        await sessions.end("u-lost", token.session)
        told, position = await sessions.revoked_since(ahead)
        assert token.session in [session for _, session in told]
        assert position != ahead
    finally:
        await client.aclose()


@pytest.mark.services
async def test_the_oldest_of_too_many_sessions_ends(stack: Stack) -> None:
    client = redis.asyncio.Redis.from_url(stack.settings.redis.address)
    sessions = Sessions(client, People(sessions=3), SystemClock())
    try:
        user = new_id()
        made = [
            await sessions.begin(user=user, tenant="acme", address="a", agent="b" * 1_000) for _ in range(5)
        ]
        left = await sessions.all_of(user)
        assert len(left) == 3
        assert made[-1].session in {one.id for one in left}
        assert all(len(one.agent) == 200 for one in left)
        told, _ = await sessions.revoked_since("0")
        ended = {session for _, session in told}
        assert {one.id for one in left}.isdisjoint(ended)
        assert len({token.session for token in made} & ended) == 2
    finally:
        await client.aclose()


@pytest.mark.services
async def test_of_two_who_refresh_with_one_token_one_is_refused(stack: Stack) -> None:
    client = redis.asyncio.Redis.from_url(stack.settings.redis.address)
    sessions = Sessions(client, People(), SystemClock())
    try:
        token = await sessions.begin(user="u-both", tenant="acme", address="", agent="")
        said = await asyncio.gather(*(sessions.refresh(token, token.next(), "u-both") for _ in range(5)))
        assert sorted(said) == ["absent", "absent", "absent", "good", "reused"]
        assert await sessions.of(token.session) is None
        other = first_token()
        assert await sessions.refresh(other, other.next(), "u-both") == "absent"
    finally:
        await client.aclose()


@pytest.mark.services
async def test_a_session_ends_when_it_is_idle_or_old(stack: Stack) -> None:
    client = redis.asyncio.Redis.from_url(stack.settings.redis.address)
    sessions = Sessions(client, People(idle_s=60, longest_s=90), SystemClock())
    try:
        token = await sessions.begin(user="u-idle", tenant="acme", address="", agent="")
        key = f"millstream:session:{token.session}"
        assert 55_000 < await client.pttl(key) <= 60_000
        soon = to_millis(SystemClock().now() + timedelta(seconds=5))
        await client.hset(key, "longest", str(soon))
        assert await sessions.refresh(token, token.next(), "u-idle") == "good"
        assert 0 < await client.pttl(key) <= 5_000, (
            "no longer than the longest, however often it is refreshed"
        )
    finally:
        await client.aclose()


@pytest.mark.services
async def test_a_step_and_a_recovery_code_are_used_once_by_many_at_once(database: str) -> None:
    given = settings().model_copy(
        update={"postgres": Postgres(url=database, port=1), "people": People(**CHEAP)}
    )
    id = await asyncio.to_thread(AccessOperator(given, Trail()).create, "acme", "ann", PASSWORD)
    pool = psycopg_pool.AsyncConnectionPool(
        database, min_size=1, max_size=8, open=False, kwargs={"autocommit": True}
    )
    await pool.open()
    try:
        users = PostgresUsers(pool)
        assert await users.offer_factor(id, b"sealed")
        assert not await users.confirm_factor(id, b"another", 5, [b"h" * 32])
        assert await users.confirm_factor(id, b"sealed", 5, [b"h" * 32])
        assert not await users.offer_factor(id, b"again")
        used = await asyncio.gather(*(users.use_step(id, 6) for _ in range(8)))
        assert sorted(used) == [False] * 7 + [True]
        assert not await users.use_step(id, 5)
        codes = await asyncio.gather(*(users.use_recovery_code(id, b"h" * 32) for _ in range(8)))
        assert sorted(codes) == [False] * 7 + [True]
    finally:
        await pool.close()
