"""The trail on the real stack: what a gateway writes, what is copied, what survives, what the proof finds."""

import asyncio
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import aiohttp
import httpx
import msgspec
import psycopg
import pytest

from core.clock import SystemClock
from core.errors import Unavailable
from core.ids import new_id
from core.settings import settings
from gateway.audit.folding import REPEATS
from gateway.keys import list_keys, public_id
from pipelines.audit.entry import digest_of
from pipelines.audit.event import AuditEvent
from pipelines.audit.opening import open_writer
from pipelines.audit.table import TABLE
from schemas.catalog.security import AuditEntry
from schemas.registry import SchemaRegistry
from stack.local import Stack
from tests.gateway.running import RunningGateway
from tests.jobs.audit.trail import Copying, Trail, copying, killed_while_writing, until
from tests.jobs.writer.conftest import database
from tests.stack_fixture import free_ports

__all__ = ["database"]
pytestmark = pytest.mark.services
DECIDE = "POST /api/v1/reviews/{id}/decision"


@pytest.fixture(scope="module")
def trail(stack: Stack) -> Iterator[Trail]:
    """Copied all the time."""
    del stack
    made = Trail(settings())
    with Copying(settings()):
        yield made


@pytest.fixture(scope="module")
def gateway(trail: Trail) -> Iterator[RunningGateway]:
    with RunningGateway(trail.settings) as running:
        yield running


@pytest.fixture(scope="module")
def written(trail: Trail) -> str:
    """A writer with eight entries, ended, copied and witnessed."""
    clock, registry = SystemClock(), SchemaRegistry.of(trail.settings)
    writer = open_writer(trail.settings, registry, clock, kind="test")
    for number in range(6):
        writer.kept(AuditEvent("acme", "key", "act", "allowed", clock.now(), target=str(number)), 30)
    writer.close(10)
    registry.close()
    trail.wait_copied(writer.writer, 7)
    return writer.writer


def decide(gateway: RunningGateway, key: str, id: str) -> httpx.Response:
    return httpx.post(
        f"{gateway.url}/api/v1/reviews/nobody/decision",
        json={"verdict": "fraud"},
        headers={"authorization": f"Bearer {key}", "x-request-id": id},
        timeout=30,
    )


def test_what_was_refused_and_what_was_done_is_in_both_copies(gateway: RunningGateway, trail: Trail) -> None:
    key, narrow = gateway.key(), gateway.key(scopes=["features:read"])
    assert decide(gateway, "nonsense", "audit-401").status_code == 401
    assert decide(gateway, narrow, "audit-403").status_code == 403
    assert decide(gateway, key, "audit-404").status_code == 404
    rows = until(
        lambda: len(found := trail.rows("request_id LIKE 'audit-40%%'")) == 4 and found,
        "four entries are copied",
    )
    told = [(actor, action, *rest, detail.get("stage")) for _, _, actor, action, *rest, detail in rows]
    assert sorted(told, key=lambda one: one[4]) == [
        ("", DECIDE, "denied", "unauthenticated", "audit-401", None),
        (public_id(narrow), DECIDE, "denied", "forbidden", "audit-403", None),
        (public_id(key), DECIDE, "allowed", "", "audit-404", "begun"),
        (public_id(key), DECIDE, "failed", "not_found", "audit-404", "ended"),
    ]
    assert rows[0][7]["address"] == "127.0.0.0/24"
    assert trail.prove().findings == []


def test_no_secret_is_anywhere_in_the_trail(gateway: RunningGateway, trail: Trail) -> None:
    key = gateway.key()
    decide(gateway, key, "audit-secret")
    decide(gateway, key[:-1] + "x", "audit-secret")
    until(lambda: len(trail.rows("request_id = 'audit-secret'")) >= 2, "they are copied")
    secret = key.split("_")[2]
    with trail.connect() as connection:
        rows = connection.execute(f"SELECT {TABLE}::text FROM {TABLE}").fetchall()
    assert not [row for row in rows if secret in row[0]]


def test_a_flood_is_few_entries_that_tell_its_number(gateway: RunningGateway, trail: Trail) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: decide(gateway, "flood", "audit-flood").status_code, range(300)))
    assert Counter(answers) == {401: 300}

    def told() -> bool:
        rows = trail.rows("request_id = 'audit-flood'")
        return sum(int(row[7].get(REPEATS, "1")) for row in rows) >= 300 and len(rows) < 20

    until(told, "the flood is told in few entries")


@pytest.mark.parametrize("statement", ["UPDATE {} SET actor = 'x'", "DELETE FROM {}", "TRUNCATE {}"])
def test_the_table_takes_nothing_but_new_rows(trail: Trail, written: str, statement: str) -> None:
    before = trail.rows("writer = %s", written)
    with trail.connect() as connection, pytest.raises(psycopg.Error, match="append-only"):
        connection.execute(statement.format(TABLE))  # type: ignore[arg-type]
    assert trail.rows("writer = %s", written) == before


SWAP = f"""UPDATE {TABLE} t SET actor = o.actor, at = o.at, target = o.target, id = o.id, hash = o.hash,
previous = o.previous FROM {TABLE} o WHERE t.writer = %(writer)s AND o.writer = %(writer)s
AND t.sequence IN (3, 4) AND o.sequence = 7 - t.sequence"""
IN_POSTGRES = {
    "removed": (f"DELETE FROM {TABLE} WHERE writer = %(writer)s AND sequence = 3", "removed", 3),
    "all removed": (f"DELETE FROM {TABLE} WHERE writer = %(writer)s", "removed", 0),
    "changed": (f"UPDATE {TABLE} SET actor = 'x' WHERE writer = %(writer)s AND sequence = 3", "changed", 3),
    "detail changed": (
        f"""UPDATE {TABLE} SET detail = '{{"a": [1]}}' WHERE writer = %(writer)s AND sequence = 3""",
        "changed",
        3,
    ),
    "reordered": (SWAP, "reordered", 3),
    "cut off": (f"DELETE FROM {TABLE} WHERE writer = %(writer)s AND sequence > 5", "cut off", 6),
    "forged": (
        f"INSERT INTO {TABLE} SELECT writer, 8, hash, repeat('a', 64), writer || '/8', at, tenant, actor,"
        f" action, target, outcome, reason, request_id, detail FROM {TABLE}"
        " WHERE writer = %(writer)s AND sequence = 7",
        "forged",
        8,
    ),
}


@pytest.mark.parametrize("how", IN_POSTGRES)
def test_what_a_superuser_did_to_the_table_is_found(trail: Trail, written: str, how: str) -> None:
    statement, kind, sequence = IN_POSTGRES[how]
    with trail.tampered(statement, writer=written):
        found = trail.prove()
        assert (written, sequence, kind) in {(one.writer, one.sequence, one.kind) for one in found.findings}
        assert {one.writer for one in found.findings} == {written}
        alone = {(one.sequence, one.kind) for one in trail.prove("postgres").findings}
        if how not in ("all removed", "cut off"):  # what the table alone cannot tell, its own head being gone
            assert (sequence, kind) in alone
    assert trail.prove().findings == []


def test_guards_that_are_off_are_told(trail: Trail, written: str) -> None:
    with trail.connect() as connection:
        connection.execute(f"ALTER TABLE {TABLE} DISABLE TRIGGER USER")
        try:
            assert [one.kind for one in trail.prove("postgres").findings] == ["unguarded", "unguarded"]
        finally:
            connection.execute(f"ALTER TABLE {TABLE} ENABLE TRIGGER USER")


def _rehashed(entry: AuditEntry) -> AuditEntry:
    changed = msgspec.structs.replace(entry, actor="somebody else")
    return msgspec.structs.replace(changed, hash=digest_of(changed))


def _of(change: Callable[[AuditEntry], list[AuditEntry]]) -> Callable[[list[AuditEntry]], list[AuditEntry]]:
    return lambda entries: [made for entry in entries for made in change(entry)]


ON_KAFKA: dict[str, tuple[Callable[[AuditEntry], list[AuditEntry]], str, int]] = {
    "removed": (lambda e: [] if e.sequence == 3 else [e], "removed", 3),
    "changed": (
        lambda e: [msgspec.structs.replace(e, actor="x") if e.sequence == 3 else e], "changed", 3
    ),
    "forged": (lambda e: [_rehashed(e) if e.sequence == 3 else e], "forged", 4),
    "forged beside": (lambda e: [e, _rehashed(e)] if e.sequence == 3 else [e], "forged", 3),
    "cut off": (lambda e: [] if e.sequence > 5 else [e], "cut off", 6),
}  # fmt: skip


@pytest.mark.parametrize("how", ON_KAFKA)
def test_what_was_done_to_the_topic_is_found(trail: Trail, written: str, how: str) -> None:
    change, kind, sequence = ON_KAFKA[how]
    topic = trail.another_topic(_of(lambda e: change(e) if e.writer == written else [e]))
    found = {(one.writer, one.sequence, one.kind) for one in trail.prove(topic=topic).findings}
    assert (written, sequence, kind) in found
    assert {one[0] for one in found} == {written}
    if how != "cut off":
        alone = trail.prove("kafka", topic=topic).findings
        assert (written, sequence, kind) in {(one.writer, one.sequence, one.kind) for one in alone}


def test_entries_that_were_moved_on_the_topic_are_found(trail: Trail, written: str) -> None:
    def moved(entries: list[AuditEntry]) -> list[AuditEntry]:
        at = next(n for n, one in enumerate(entries) if (one.writer, one.sequence) == (written, 3))
        return [*entries[:at], *entries[at + 1 :], entries[at]]

    topic = trail.another_topic(moved)
    found = [(one.writer, one.sequence, one.kind) for one in trail.prove("kafka", topic=topic).findings]
    assert (written, 3, "reordered") in found


def test_the_command_tells_and_exits_with_1(trail: Trail, written: str) -> None:
    def verify(*more: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-P", "-m", "cli", "audit", "verify", *more]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    good = verify()
    assert (good.returncode, good.stderr) == (0, "")
    assert "nothing removed, changed or moved" in good.stdout
    with trail.tampered(IN_POSTGRES["removed"][0], writer=written):
        bad = verify()
        assert bad.returncode == 1
        assert f"removed in postgres: {written}/3 " in bad.stdout


def test_what_a_killed_writer_knew_to_be_kept_is_in_both_copies_once(trail: Trail) -> None:
    writer, last = killed_while_writing(40)
    on_kafka = {one.sequence for one in trail.entries() if one.writer == writer}
    assert on_kafka == set(range(len(on_kafka)))
    assert len(on_kafka) >= last + 2  # what was under way may be there too
    trail.wait_copied(writer, max(on_kafka))
    assert [row[1] for row in trail.rows("writer = %s", writer)] == sorted(on_kafka)
    assert trail.prove().findings == []


def test_a_copy_that_is_killed_again_and_again_has_every_entry_once(trail: Trail, database: str) -> None:
    other, group = trail.of(database), f"audit-{new_id()}"
    clock, registry = SystemClock(), SchemaRegistry.of(trail.settings)
    writer = open_writer(trail.settings, registry, clock, kind="test")
    count = 0
    for _ in range(3):
        process = copying(group, database)
        try:
            for _ in range(400):
                writer.take(AuditEvent("acme", "key", "act", "allowed", clock.now(), target=str(count)))
                count += 1
            target = count // 2
            until(lambda: len(other.rows("writer = %s", writer.writer)) >= target, "half of it is copied")  # noqa: B023
        finally:
            process.kill()
            process.wait(20)
    writer.close(20)
    registry.close()
    process = copying(group, database)
    try:
        other.wait_copied(writer.writer, count + 1)
    finally:
        process.terminate()
        process.wait(30)
    targets = [row[1] for row in other.rows("writer = %s", writer.writer)]
    assert targets == list(range(count + 2))
    assert not [one for one in other.prove("postgres").findings if one.writer == writer.writer]


async def _knock(url: str, token: str) -> int | None:
    async with aiohttp.ClientSession() as session, session.ws_connect(f"{url}/api/v1/stream") as socket:
        await socket.send_json({"type": "connect", "token": token})
        async for _ in socket:
            pass
        return socket.close_code


def test_a_socket_that_is_refused_is_told(gateway: RunningGateway, trail: Trail) -> None:
    narrow = gateway.key(scopes=["features:read"])
    assert asyncio.run(_knock(gateway.url, "nonsense")) == 4401
    assert asyncio.run(_knock(gateway.url, narrow)) == 4403
    wanted = {
        ("", "denied", "unauthenticated", "127.0.0.0/24"),
        (public_id(narrow), "denied", "forbidden", "127.0.0.0/24"),
    }

    def told() -> bool:
        rows = trail.rows("action LIKE 'WEBSOCKET%%'")
        return wanted <= {(row[2], row[4], row[5], row[7]["address"]) for row in rows}

    until(told, "both are copied")


def test_what_was_allowed_is_a_number(trail: Trail) -> None:
    port = trail.settings.gateway.model_copy(update={"port": free_ports(1)[0]})
    with RunningGateway(trail.settings.model_copy(update={"gateway": port})) as another:
        key = another.key()
        with httpx.Client(base_url=another.url, headers={"authorization": f"Bearer {key}"}) as http:
            for _ in range(7):
                assert http.get("/api/v1/reviews").status_code == 200
    until(lambda: trail.rows("actor = %s AND action = 'calls'", public_id(key)), "the number is copied")
    (row,) = trail.rows("actor = %s", public_id(key))
    assert row[7]["GET /api/v1/reviews"] == "7"


def test_commands_that_change_something_are_told_and_others_not(trail: Trail) -> None:
    def keys(*arguments: str) -> str:
        command = [sys.executable, "-P", "-m", "cli", "keys", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        return done.stdout.strip() if done.returncode == 0 else f"exit {done.returncode}"

    key = keys("create", "--tenant", "audited")
    id = public_id(key)
    keys("list", "--tenant", "audited")
    keys("revoke", key)
    assert keys("revoke", "nobody") == "exit 1"
    told = until(
        lambda: (
            len(found := trail.rows("action LIKE 'keys.%%' AND target IN (%s, 'nobody')", id)) >= 5 and found
        ),
        "they are copied",
    )
    assert Counter((row[3], row[4], row[5], row[7]["stage"]) for row in told) == {
        ("keys.create", "allowed", "", "ended"): 1,  # before, it had no id yet
        ("keys.revoke", "allowed", "", "begun"): 2,
        ("keys.revoke", "allowed", "", "ended"): 1,
        ("keys.revoke", "failed", "unknown_key", "ended"): 1,
    }
    assert {row[2] for row in told} == {f"os:{os.getuid()}"}
    with trail.connect() as connection:
        rows = connection.execute(f"SELECT {TABLE}::text FROM {TABLE}").fetchall()
    assert not [row for row in rows if key.split("_")[2] in row[0]]


def test_while_kafka_is_away_nothing_is_changed_and_what_was_refused_is_told_later(
    gateway: RunningGateway, trail: Trail, stack: Stack
) -> None:
    key = gateway.key()
    assert decide(gateway, key, "audit-before").status_code == 404
    stack.stop("kafka")
    try:
        command = [sys.executable, "-P", "-m", "cli", "keys", "create", "--tenant", "unaudited"]
        refused = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "the audit trail cannot be kept" in refused.stderr
        assert list_keys(trail.settings, "unaudited") == []
        answer = until(
            lambda: (got := decide(gateway, key, "audit-away")).status_code == 503 and got, "it is refused"
        )
        assert answer.json()["code"] == "audit_unavailable"
        assert decide(gateway, "nonsense", "audit-away").status_code == 401
    finally:
        stack.start("kafka")
    gateway.wait_ready()
    until(lambda: decide(gateway, key, "audit-after").status_code == 404, "it is taken again")
    until(
        lambda: (
            {("", "unauthenticated"), (public_id(key), "audit_unavailable")}
            <= {(row[2], row[5]) for row in trail.rows("request_id = 'audit-away'")}
        ),
        "what was refused meanwhile is told",
    )
    assert trail.prove().findings == []


def test_while_postgresql_is_away_the_trail_waits_on_kafka(trail: Trail, stack: Stack) -> None:
    clock, registry = SystemClock(), SchemaRegistry.of(trail.settings)
    writer = open_writer(trail.settings, registry, clock, kind="test")
    stack.stop("postgres")
    try:
        for _ in range(5):
            writer.kept(AuditEvent("acme", "key", "act", "allowed", clock.now()), 30)
        with pytest.raises(Unavailable, match="PostgreSQL"):
            trail.prove()
    finally:
        stack.start("postgres")
    stack.wait_ready(["postgres"])
    writer.close(10)
    registry.close()
    trail.wait_copied(writer.writer, 6)
    rows = trail.rows("writer = %s", writer.writer)
    assert [row[1] for row in rows] == list(range(7))
    assert trail.prove().findings == []


def test_a_copy_that_starts_again_stores_nothing_twice_and_witnesses_what_it_finds(
    trail: Trail, written: str
) -> None:
    often = trail.settings.audit.model_copy(update={"heads_s": 0.2})
    with Copying(trail.settings.model_copy(update={"audit": often})):
        head = until(
            lambda: [row for row in trail.rows("action = 'trail.heads'") if written in row[7]],
            "another witness tells the chain's head",
        )
    assert head[-1][7][written].startswith("7 ")
    with trail.connect() as connection:
        count = connection.execute(f"SELECT count(*) FROM {TABLE} WHERE writer = %s", (written,)).fetchone()
    assert count == (8,)
