"""Keys in PostgreSQL: made, rotated with an overlap, revoked on every gateway, and when they were used."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import psycopg
import psycopg_pool
import pytest
import typer
from typer.testing import CliRunner

from cli import key_commands
from core.clock import ManualClock, SystemClock
from core.errors import Denied, InvalidInput, UnknownName
from core.settings import Postgres, Settings, settings
from gateway.keyring import Keyring, PostgresKeys
from gateway.keys import create_key, list_keys, parse, revoke_key, rotate_key
from gateway.principals import EVENTS_WRITE, FEATURES_READ
from tests.gateway.samples import NOW

pytestmark = pytest.mark.services
DAY = timedelta(days=1)


@pytest.fixture
def stored(database: str) -> Settings:
    return settings().model_copy(update={"postgres": Postgres(url=database, port=1)})


def id_of(text: str) -> str:
    parsed = parse(text)
    assert parsed is not None
    return parsed[0]


@asynccontextmanager
async def gateways(stored: Settings, count: int) -> AsyncIterator[list[Keyring]]:
    """The keyrings of so many gateways, each with its own connections, refreshing themselves."""
    pools = [
        psycopg_pool.AsyncConnectionPool(stored.postgres.address, min_size=1, open=False)
        for _ in range(count)
    ]
    keyrings = [Keyring(PostgresKeys(pool), clock=SystemClock()) for pool in pools]
    for pool, keyring in zip(pools, keyrings, strict=True):
        await pool.open()
        keyring.start()
    try:
        yield keyrings
    finally:
        for pool, keyring in zip(pools, keyrings, strict=True):
            await keyring.close()
            await pool.close()


def test_what_is_stored_is_no_secret(stored: Settings) -> None:
    text = create_key(stored, "acme", name="till", scopes=[EVENTS_WRITE], expires_in=DAY)
    (key,) = list_keys(stored, "acme")
    assert (key.id, key.tenant, key.name, key.scopes) == (id_of(text), "acme", "till", {EVENTS_WRITE})
    with psycopg.connect(stored.postgres.address) as connection:
        rows = connection.execute("SELECT row_to_json(k)::text FROM api_keys AS k").fetchall()
    secret = text.split("_")[2]
    assert secret not in str(rows)
    assert list_keys(stored, "other") == []


def test_a_rotated_key_works_on_for_the_overlap_and_the_new_one_may_do_the_same(stored: Settings) -> None:
    clock = ManualClock(NOW)
    text = create_key(stored, "acme", name="till", scopes=[EVENTS_WRITE, FEATURES_READ], clock=clock)
    clock.advance(timedelta(hours=1))
    new, old = rotate_key(stored, text, overlap=DAY, clock=clock)
    keys = {key.id: key for key in list_keys(stored)}
    made = keys[id_of(new)]
    assert (made.tenant, made.name, made.scopes, made.expires_at) == (old.tenant, old.name, old.scopes, None)
    assert keys[id_of(text)] == old
    assert old.replaced_by == made.id
    assert old.valid_at(clock.at + DAY - timedelta(microseconds=1))
    assert not old.valid_at(clock.at + DAY)


def test_the_new_key_lives_as_long_as_the_old_was_made_to_and_the_old_no_longer_than_it_would(
    stored: Settings,
) -> None:
    clock = ManualClock(NOW)
    text = create_key(stored, "acme", expires_in=10 * DAY, clock=clock)
    clock.advance(9 * DAY)
    new, old = rotate_key(stored, id_of(text), overlap=5 * DAY, clock=clock)
    assert old.expires_at == NOW + 10 * DAY
    assert {key.id: key.expires_at for key in list_keys(stored)}[id_of(new)] == NOW + 19 * DAY


def test_a_key_that_is_over_or_was_replaced_or_is_not_there_is_not_rotated(stored: Settings) -> None:
    replaced, revoked = create_key(stored, "acme"), create_key(stored, "acme")
    new, _ = rotate_key(stored, replaced, overlap=DAY)
    with pytest.raises(InvalidInput, match="replaced") as caught:
        rotate_key(stored, replaced, overlap=DAY)
    assert id_of(new) in (caught.value.mend or "")
    revoke_key(stored, revoked)
    with pytest.raises(InvalidInput, match="over"):
        rotate_key(stored, revoked, overlap=DAY)
    with pytest.raises(UnknownName):
        rotate_key(stored, "absent", overlap=DAY)
    with pytest.raises(InvalidInput):
        rotate_key(stored, new, overlap=-DAY)
    assert len(list_keys(stored)) == 3


async def test_a_revocation_is_followed_on_every_gateway(stored: Settings) -> None:
    text = await asyncio.to_thread(create_key, stored, "acme")
    async with gateways(stored, 2) as keyrings:
        closed = []
        for keyring in keyrings:
            over = asyncio.Event()
            keyring.watch(await keyring.check(text), over.set)
            closed.append(over)
        await asyncio.to_thread(revoke_key, stored, text)
        async with asyncio.timeout(60):
            await asyncio.gather(*(over.wait() for over in closed))
        for keyring in keyrings:
            with pytest.raises(Denied):
                await keyring.check(text)


async def test_the_last_use_is_the_newest_of_all_gateways(stored: Settings) -> None:
    text = await asyncio.to_thread(create_key, stored, "acme")
    before = datetime.now(UTC)
    async with gateways(stored, 2) as keyrings:
        for keyring in keyrings:
            await keyring.check(text)
        last = datetime.now(UTC)
        await keyrings[1].close()
        await keyrings[0].close()
    (key,) = await asyncio.to_thread(list_keys, stored)
    assert key.last_used_at is not None
    assert before <= key.last_used_at <= last


def test_the_commands(stored: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cli.key_commands.settings", lambda: stored)
    runner, app = CliRunner(), typer.Typer()
    key_commands.register(app)

    def run(*words: str) -> str:
        result = runner.invoke(app, ["keys", *words])
        assert result.exit_code == 0, result.output
        return result.stdout.strip()

    text = run("create", "--tenant", "acme", "--scope", "events:write", "--expires-in", "30d")
    new = run("rotate", id_of(text), "--overlap", "0s")
    assert "revoked" in run("revoke", new)
    listed = {row["id"]: row for row in json.loads(run("list", "-o", "json"))}
    assert listed[id_of(text)]["state"] == "expired"
    assert listed[id_of(text)]["replaced_by"] == id_of(new)
    assert listed[id_of(new)]["state"] == "revoked"
    assert listed[id_of(new)]["scopes"] == ["events:write"]
    assert id_of(new) in run("list", "--tenant", "acme")
    assert runner.invoke(app, ["keys", "rotate", new, "--overlap", "soon"]).exit_code != 0
