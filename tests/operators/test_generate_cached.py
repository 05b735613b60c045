"""Answers that are kept, and those that are given to all who ask the same at once."""

import asyncio
import json
import time
from datetime import timedelta
from typing import Any

import pytest

from core.errors import Conflict, ServerFailed, Unavailable
from operators.generate_ports import Claim
from tests.operators.generating import Heard, asked, until, words, world


def read(body: bytes) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(body)
    return value


class Shared:
    """A store that processes share; it can be slow, or away."""

    def __init__(self, seconds: float = 0.0, *, away: bool = False) -> None:
        self.seconds, self.away = seconds, away
        self.kept: dict[str, bytes] = {}

    async def get(self, key: str) -> tuple[bytes, timedelta] | None:
        await self._reach()
        found = self.kept.get(key)
        return None if found is None else (found, timedelta(minutes=1))

    async def put(self, key: str, value: bytes, ttl: timedelta, *, absent_only: bool = False) -> None:
        await self._reach()
        self.kept[key] = value

    async def forget(self, key: str) -> None:
        self.kept.pop(key, None)

    async def _reach(self) -> None:
        await asyncio.sleep(self.seconds)
        if self.away:
            raise Unavailable("away")


async def test_a_repeatable_answer_comes_from_memory() -> None:
    async with world(cached=True) as w:
        first = read((await w.ask()).body)
        heard = Heard()
        second = read((await w.ask(asked(id="q2"), heard)).body)
        assert second["text"] == first["text"] == heard.text
        assert second["statistics"]["cache_hit"]
        assert second["id"] == "q2"
        await w.ask(asked(id="q3", tenant="other"))
        await w.ask(asked(id="q4", temperature=1.0))
        await w.ask(asked(id="q5", temperature=1.0))
        assert len(w.fakes[0].seen) == 4
        assert w.statistics.window(60).cache_hits == 1


async def test_what_another_process_was_answered_comes_from_the_shared_store() -> None:
    shared = Shared()
    async with world(cached=True, shared=shared) as one:
        first = read((await one.ask()).body)
        await one.generate.close()
    async with world(cached=True, shared=shared) as other:
        heard = Heard()
        second = read((await other.ask(asked(id="q2"), heard)).body)
        assert second["text"] == first["text"] == heard.text
        assert second["statistics"]["cache_hit"]
        assert other.fakes[0].seen == []


async def test_a_store_that_takes_its_time_to_keep_delays_no_answer() -> None:
    shared = Shared()
    async with world(cached=True, shared=shared) as w:
        shared.seconds = 0.0
        get = shared.get

        async def got(key: str) -> tuple[bytes, timedelta] | None:
            found = await get(key)
            shared.seconds = 5.0  # whatever is put from now on waits
            return found

        shared.get = got  # type: ignore[method-assign]
        begun = time.monotonic()
        assert read((await w.ask()).body)["text"] == words(10)
        assert shared.kept == {}
        assert time.monotonic() - begun < 60
        for store in [*w.generate._kept.answers._stores, *w.generate._kept.earlier._stores]:  # type: ignore[union-attr]
            store.cancel()


async def test_a_store_that_is_away_leaves_memory() -> None:
    async with world(cached=True, shared=Shared(away=True)) as w:
        assert read((await w.ask()).body)["text"] == words(10)
        assert read((await w.ask(asked(id="q2"))).body)["statistics"]["cache_hit"]
        assert len(w.fakes[0].seen) == 1


async def test_a_degraded_answer_is_not_kept() -> None:
    async with world("fake", "fake", cached=True) as w:
        w.fakes[0].script = ["reset"]
        assert read((await w.ask()).body)["degraded"]
        assert not read((await w.ask(asked(id="q2"))).body)["statistics"]["cache_hit"]


async def test_all_who_ask_the_same_at_once_hear_one_answer_from_its_first_piece_on() -> None:
    async with world(cached=True, slots=1, queue=1) as w:
        w.fakes[0].seconds_per_token = 0.02
        first, later = Heard(), Heard()
        leading = asyncio.create_task(w.ask(asked(max_tokens=20), first))
        await until(lambda: len(first.pieces) >= 3)
        joining = asyncio.create_task(w.ask(asked(id="q2", max_tokens=20), later))
        await until(lambda: later.pieces)
        assert not leading.done()  # what was said already came at once, the rest as it is said
        others = [
            asyncio.create_task(w.ask(asked(id=f"o{n}", max_tokens=20, streamed=False))) for n in range(9)
        ]
        one, two = read((await leading).body), read((await joining).body)
        assert one["text"] == two["text"] == first.text == later.text == words(20)
        assert (one["id"], two["id"]) == ("q1", "q2")
        assert not one["statistics"]["cache_hit"]
        assert two["statistics"]["cache_hit"]
        assert {read((await other).body)["text"] for other in others} == {words(20)}
        assert len(w.fakes[0].seen) == 1
        assert w.generate._flights == {}


async def test_who_leaves_takes_the_answer_from_nobody_and_the_last_one_ends_it() -> None:
    async with world(cached=True) as w:
        w.fakes[0].seconds_per_token = 0.02
        first, later = Heard(), Heard()
        leading = asyncio.create_task(w.ask(asked(max_tokens=30), first))
        await until(lambda: first.pieces)
        joining = asyncio.create_task(w.ask(asked(id="q2", max_tokens=30), later))
        await until(lambda: later.pieces)
        leading.cancel()
        await asyncio.gather(leading, return_exceptions=True)
        assert read((await joining).body)["text"] == later.text == words(30)
        alone = asyncio.create_task(w.ask(asked("Other.", id="q3", max_tokens=400)))
        await until(lambda: w.fakes[0].open == 1)
        alone.cancel()
        await asyncio.gather(alone, return_exceptions=True)
        await until(lambda: w.fakes[0].open == 0)
        assert w.generate._flights == {}
        assert w.members[0].in_flight == 0


async def test_one_failure_is_told_to_all_and_kept_for_nobody() -> None:
    async with world(cached=True) as w:
        w.fakes[0].script = ["reset"]
        results = await asyncio.gather(*(w.ask(asked(id=f"q{n}")) for n in range(4)), return_exceptions=True)
        assert all(isinstance(one, ServerFailed) for one in results)
        assert len(w.fakes[0].seen) == 1
        assert read((await w.ask(asked(id="q9"))).body)["text"] == words(10)


class Refusing:
    """A ledger that knows `spent` as paid for without an answer."""

    def __init__(self, spent: str) -> None:
        self.spent = spent
        self.paid: list[str] = []

    async def begin(self, tenant: str, id: str, digest: str) -> Claim | bytes:
        await asyncio.sleep(0.02)
        if id == self.spent:
            raise Conflict("paid before", code="paid_without_answer")
        return Claim(tenant, id, "me")

    async def paying(self, claim: Claim) -> None:
        self.paid.append(claim.id)

    async def unpaid(self, claim: Claim) -> None: ...

    async def answered(self, claim: Claim, answer: bytes) -> None: ...


async def test_what_the_ledger_refuses_to_one_it_refuses_to_nobody_else() -> None:
    ledger = Refusing("q1")
    async with world(cached=True, ledger=ledger) as w:
        tasks = [asyncio.create_task(w.ask(asked(id=f"q{n}"))) for n in (1, 2, 3)]
        refused, *answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(refused, Conflict)
        assert [read(answer.body)["text"] for answer in answers] == [words(10)] * 2  # type: ignore[union-attr]
        assert len(ledger.paid) == 1  # one of them paid for both


@pytest.mark.parametrize("seed", range(3))
async def test_random_comings_and_goings_lose_no_text(seed: int) -> None:
    import random

    dice = random.Random(seed)
    async with world(cached=True, slots=4, queue=200) as w:
        w.fakes[0].seconds_per_token = 0.001
        heard: dict[str, Heard] = {}

        async def one(number: int) -> str:
            await asyncio.sleep(dice.random() * 0.2)
            id = f"q{number}"
            heard[id] = Heard()
            question = asked(f"p{number % 5}", id=id, max_tokens=12, streamed=bool(number % 3))
            return str(read((await w.ask(question, heard[id])).body)["text"])

        tasks = [asyncio.create_task(one(number)) for number in range(60)]
        for task in dice.sample(tasks, 20):
            await asyncio.sleep(0.005)
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for number, result in enumerate(results):
            if isinstance(result, asyncio.CancelledError):
                continue
            assert result == words(12)
            if number % 3:
                assert heard[f"q{number}"].text == words(12)
        assert w.generate._flights == {}
        await until(lambda: w.members[0].in_flight == 0)
