"""Paid calls in the real PostgreSQL: whatever dies, a question is sent to a paid server at most once."""

import asyncio
import json
import os
import sys
import uuid
import warnings
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from psycopg_pool import AsyncConnectionPool

from core.errors import Conflict, InvalidInput, MillstreamError, ServerFailed, Unavailable
from core.settings import settings
from models.llm.ledger import PostgresLedger
from operators.generate_ports import Claim
from stack.local import Stack
from tests.llm_fake import FakeServer, fake_server
from tests.operators.generating import SILENCE_S, Heard, asked, question_of, until, words, world
from tests.stack_fixture import EXTERNAL_ADDRESSES, environment, services_required, stack_env

pytestmark = pytest.mark.services
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A PostgreSQL of these tests' own."""
    with environment(stack_env(tmp_path_factory.mktemp("ledger")), without=EXTERNAL_ADDRESSES):
        own = Stack(settings())
        try:
            own.up({"postgres"})
        except MillstreamError as error:
            if services_required():
                pytest.fail(f"PostgreSQL does not start, and MILLSTREAM_REQUIRE_SERVICES=1:\n{error}")
            warnings.warn(f"NOT TESTED: PostgreSQL does not start:\n{error}", stacklevel=1)
            pytest.skip(f"NOT TESTED: PostgreSQL does not start: {error}")
        yield settings().postgres.address
        own.down()


@pytest.fixture
async def ledger(database: str) -> AsyncIterator[PostgresLedger]:
    async with AsyncConnectionPool(
        database, min_size=1, max_size=8, open=False, kwargs={"autocommit": True}
    ) as pool:
        yield PostgresLedger(pool)


@pytest.fixture
async def fake() -> AsyncIterator[FakeServer]:
    async with fake_server() as server:
        yield server


def fresh() -> str:
    return uuid.uuid4().hex


async def test_an_answered_question_has_its_answer(ledger: PostgresLedger) -> None:
    id = fresh()
    claim = await ledger.begin("t", id, "d")
    assert isinstance(claim, Claim)
    await ledger.paying(claim)
    await ledger.answered(claim, b"{}")
    assert await ledger.begin("t", id, "d") == b"{}"
    assert isinstance(await ledger.begin("u", id, "d"), Claim)  # another tenant's question
    with pytest.raises(Conflict):
        await ledger.begin("t", id, "other")


async def test_what_was_begun_is_taken_over_and_its_first_owner_may_not_pay(ledger: PostgresLedger) -> None:
    id = fresh()
    first, second = await ledger.begin("t", id, "d"), await ledger.begin("t", id, "d")
    assert isinstance(first, Claim)
    assert isinstance(second, Claim)
    with pytest.raises(Conflict) as late:
        await ledger.paying(first)
    assert late.value.code == "claimed_elsewhere"
    await ledger.paying(second)
    with pytest.raises(Conflict) as again:
        await ledger.begin("t", id, "d")
    assert again.value.code == "paid_without_answer"
    await ledger.unpaid(first)  # says nothing: it is not its claim
    with pytest.raises(Conflict):
        await ledger.begin("t", id, "d")
    await ledger.unpaid(second)
    assert isinstance(await ledger.begin("t", id, "d"), Claim)


async def test_of_many_at_once_one_pays(ledger: PostgresLedger) -> None:
    id = fresh()

    async def one() -> bool:
        try:
            claim = await ledger.begin("t", id, "d")
            assert isinstance(claim, Claim)
            await asyncio.sleep(0)
            await ledger.paying(claim)
        except Conflict:
            return False
        return True

    assert sum(await asyncio.gather(*(one() for _ in range(30)))) == 1


async def test_a_ledger_that_is_away_lets_nothing_be_paid(fake: FakeServer) -> None:
    pool = AsyncConnectionPool("postgresql://127.0.0.1:1/none?connect_timeout=1", min_size=1, open=False)
    await pool.open(wait=False)
    async with world(ledger=PostgresLedger(pool)) as w:
        with pytest.raises(Unavailable):
            await w.ask()
        assert w.fakes[0].seen == []
    await pool.close(timeout=0.1)


async def test_a_repeat_is_answered_from_the_ledger(ledger: PostgresLedger) -> None:
    async with world(ledger=ledger) as w:
        id = fresh()
        first = await w.ask(asked(id=id))
        heard = Heard()
        assert (await w.ask(asked(id=id), heard)).body == first.body
        assert heard.text == words(10)
        assert len(w.fakes[0].seen) == 1
        with pytest.raises(Conflict):
            await w.ask(asked("another", id=id))


@pytest.mark.parametrize("behaviour", ["status_503", "status_429", "status_401"])
async def test_what_a_server_refused_was_not_paid_and_goes_to_the_next(
    ledger: PostgresLedger, behaviour: str
) -> None:
    async with world("fake", "fake", ledger=ledger) as w:
        w.fakes[0].script = [behaviour]
        assert json.loads((await w.ask(asked(id=fresh()))).body)["server"] == "s1"


@pytest.mark.parametrize("behaviour", ["reset", "hang", "close", "reset_at_once", "status_500"])
async def test_what_may_have_been_paid_is_sent_to_no_other_server(
    ledger: PostgresLedger, behaviour: str
) -> None:
    silences_s = [SILENCE_S] if behaviour == "hang" else []
    async with world("fake", "fake", ledger=ledger, silences_s=silences_s) as w:
        id = fresh()
        w.fakes[0].script = [behaviour]
        with pytest.raises(ServerFailed):
            await w.ask(asked(id=id))
        with pytest.raises(Conflict) as again:
            await w.ask(asked(id=id))
        assert again.value.code == "paid_without_answer"
        assert (len(w.fakes[0].seen), len(w.fakes[1].seen)) == (1, 0)


async def test_a_question_not_in_order_can_be_asked_again_in_order(ledger: PostgresLedger) -> None:
    async with world(ledger=ledger) as w:
        id = fresh()
        with pytest.raises(InvalidInput):
            await w.ask(question_of(b'{"prompt": ""}', id=id))
        assert (await w.ask(asked(id=id))).status == 200


@pytest.mark.parametrize(
    ("stage", "then"),
    [("begun", "answer"), ("paying", "error"), ("mid_stream", "error"), ("answered", "answer")],
)
async def test_after_a_kill_the_same_question_is_never_paid_twice(
    database: str, fake: FakeServer, stage: str, then: str
) -> None:
    id = fresh()
    if stage == "mid_stream":
        fake.script = ["hang"]
    process = await start(database, fake.url, id, "none" if stage == "mid_stream" else stage)
    assert process.stdout is not None
    if stage == "mid_stream":
        await until(lambda: fake.open == 1, within_s=60)
    else:
        assert (await asyncio.wait_for(process.stdout.readline(), 60)).strip() == stage.encode()
    process.kill()
    await process.wait()
    calls = len(fake.seen)
    assert calls == (1 if stage in ("mid_stream", "answered") else 0)
    for _ in range(2):
        again = await start(database, fake.url, id, "none")
        out, _ = await asyncio.wait_for(again.communicate(), 60)
        kind, _, value = out.decode().strip().partition(" ")
        assert kind == then
        if then == "answer":
            assert json.loads(value)["text"] == words(10)
        else:
            assert value == "paid_without_answer"
    assert len(fake.seen) == (0 if stage == "paying" else 1)


async def start(database: str, url: str, id: str, stage: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.models.llm.paying_process", database, url, id, stage,
        stdout=asyncio.subprocess.PIPE, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
