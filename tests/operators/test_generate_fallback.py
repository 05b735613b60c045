"""The levels of the fallback chain: who answers when the active model does not, and what is said of it."""

import json
from datetime import timedelta
from typing import Any

import pytest

from core.errors import QueueFull, ServerFailed, Unavailable
from operators.generate import Levels
from tests.operators.generating import Heard, asked, words, world
from tests.operators.test_generate_cached import Refusing

STATIC = "Nobody can answer now."


def read(body: bytes) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(body)
    return value


async def test_the_backup_model_answers_and_the_answer_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    async with world("one", "two") as w:
        w.fakes[0].script = ["status_500"]
        heard = Heard()
        answer = read((await w.ask(asked(), heard)).body)
        assert answer["text"] == heard.text == words(10)
        assert (answer["model"], answer["level"], answer["degraded"]) == ("two", "backup", True)
        assert any("answered by backup, because live did not" in one for one in answer["warnings"])
        assert heard.pieces[0]["model"] == "two"


async def test_a_slow_active_model_is_left_after_its_time() -> None:
    levels = Levels(live=timedelta(seconds=0.3))
    async with world("one", "two", levels=levels) as w:
        w.fakes[0].script = ["hang"]  # after three words
        heard = Heard()
        answer = read((await w.ask(asked(), heard)).body)
        assert answer["text"] == heard.text == words(10)
        assert answer["level"] == "backup"
        assert heard.kinds == ["restarted"]


async def test_an_earlier_answer_stands_in_where_no_model_answers() -> None:
    async with world("one", "two", cached=True) as w:
        first = read((await w.ask()).body)
        w.pool.activate("two")  # a version whose answers are not known yet
        for fake in w.fakes:
            fake.script = ["reset"] * 2
        heard = Heard()
        answer = read((await w.ask(asked(id="q2"), heard)).body)
        assert answer["text"] == heard.text == first["text"]
        assert (answer["model"], answer["level"], answer["degraded"]) == ("one", "earlier_answer", True)
        assert len(answer["warnings"]) >= 3  # of both servers, and of the chain
        assert w.statistics.window(60).failures == 1  # it stood in: no success of a model
        with pytest.raises(Unavailable):
            await w.ask(asked("Never asked.", id="q3"))
        for member in w.members:
            await w.pool.examine(member)
        again = read((await w.ask(asked(id="q4"))).body)
        assert (again["model"], again["level"]) == ("two", "live")  # what stood in was not kept


async def test_the_declared_text_is_the_last_level() -> None:
    async with world("one", "two", levels=Levels(static=STATIC)) as w:
        for fake in w.fakes:
            fake.script = ["status_500"]
        heard = Heard()
        answer = read((await w.ask(asked(), heard)).body)
        assert answer["text"] == heard.text == STATIC
        assert (answer["level"], answer["model"], answer["degraded"]) == ("static", "static", True)
        w.fakes[0].script = ["status_500"]
        with pytest.raises(ServerFailed):  # who names a model is answered by that or not at all
            await w.ask(asked(id="q2", model="one"))


async def test_overload_is_refused_and_takes_no_fallback() -> None:
    async with world("one", slots=1, queue=1, levels=Levels(static=STATIC)) as w:
        held = await w.pool.enter()
        w.pool.queue = 0
        with pytest.raises(QueueFull):
            await w.ask()
        w.pool.leave(held)


async def test_what_may_have_been_paid_for_is_asked_of_no_other_model() -> None:
    ledger = Refusing("")
    async with world("one", "two", ledger=ledger) as w:
        w.fakes[0].script = ["reset"]
        with pytest.raises(ServerFailed):
            await w.ask()
        assert w.fakes[1].seen == []
        assert ledger.paid == ["q1"]


async def test_what_was_paid_for_and_took_too_long_is_asked_of_no_other_model() -> None:
    ledger = Refusing("")
    levels = Levels(live=timedelta(seconds=0.3))
    async with world("one", "two", ledger=ledger, levels=levels) as w:
        w.fakes[0].script = ["hang"]
        with pytest.raises(Unavailable):
            await w.ask()
        assert w.fakes[1].seen == []
        assert ledger.paid == ["q1"]
