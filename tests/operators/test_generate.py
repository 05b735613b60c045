"""Answers over servers that behave and that do not: what a client gets, and what the servers were asked."""

import asyncio
import itertools
import json
import time
from typing import Any

import pytest

from core.errors import (
    DeadlineExceeded,
    InvalidInput,
    QueueFull,
    Rejected,
    ServerFailed,
    Unavailable,
    UnknownName,
)
from operators.asking import Question
from tests.llm_fake import AT_ONCE, MID_STREAM, NEVER_STOPS
from tests.operators.generating import PATIENT_S, SILENCE_S, Heard, asked, question_of, until, words, world


def read(body: bytes) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(body)
    return value


async def test_an_answer_and_its_pieces_are_the_same_text() -> None:
    async with world() as w:
        heard = Heard()
        answer = read((await w.ask(asked(), heard)).body)
        assert heard.text == answer["text"] == words(10)
        assert len(heard.pieces) == 10
        assert answer["finish_reason"] == "length"
        assert answer["usage"]["completion_tokens"] == 10
        assert not answer["degraded"]
        steps = answer["statistics"]
        assert steps["batch_size"] == 1
        assert steps["tokens"] == 10
        assert steps["tokens_per_s"] > 0
        assert steps["total_ms"] >= steps["first_token_ms"] + steps["generation_ms"] > 0
        assert 0 < steps["decoding_ms"] < steps["total_ms"]
        assert steps["queue_wait_ms"] == steps["slot_wait_ms"] == 0
        assert not steps["cache_hit"]
        assert w.fakes[0].seen[0]["model"] == "fake"


async def test_who_does_not_listen_gets_no_pieces() -> None:
    async with world() as w:
        heard = Heard()
        answer = read((await w.ask(asked(streamed=False), heard)).body)
        assert answer["text"] == words(10)
        assert heard.pieces == []


@pytest.mark.parametrize("behaviour", [*AT_ONCE, *MID_STREAM])
async def test_a_second_server_takes_over_and_the_text_is_whole(behaviour: str) -> None:
    async with world("fake", "fake", silences_s=[SILENCE_S if "hang" in behaviour else PATIENT_S]) as w:
        w.fakes[0].script = [behaviour]
        heard = Heard()
        answer = read((await asyncio.wait_for(w.ask(asked(), heard), 60)).body)
        assert heard.text == answer["text"] == words(10)
        assert answer["server"] == "s1"
        assert answer["degraded"]
        assert answer["warnings"][0].startswith("s0: ")
        assert heard.kinds == (["continued"] if behaviour in MID_STREAM else [])
        assert w.statistics.window(60).answers == 1
        assert w.statistics.window(60).failures == 0


async def test_a_server_that_cannot_go_on_begins_anew_and_says_so() -> None:
    async with world("fake", "fake") as w:
        w.fakes[0].script, w.fakes[1].continues = ["reset"], False
        heard = Heard()
        answer = read((await w.ask(asked(), heard)).body)
        assert heard.text == answer["text"] == words(10)
        assert heard.kinds == ["continued", "restarted"]


def begun(beginning: str) -> Question:
    messages = [{"role": "user", "content": "Write."}, {"role": "assistant", "content": beginning}]
    given = {"messages": messages, "continue_final_message": True, "max_tokens": 10}
    return question_of(json.dumps(given).encode())


async def test_an_answer_that_was_begun_is_gone_on_with_by_a_server_and_by_the_next() -> None:
    async with world("fake", "fake") as w:
        w.fakes[0].script = ["reset"]
        heard = Heard()
        answer = read((await w.ask(begun("w0 w1"), heard)).body)
        assert heard.text == answer["text"] == words(10, after=2)
        assert heard.kinds == ["continued"]
        asked_for = [fake.seen[0] for fake in w.fakes]
        assert [one["continue_final_message"] for one in asked_for] == [True, True]
        assert [one["add_generation_prompt"] for one in asked_for] == [False, False]


async def test_an_answer_that_was_begun_is_refused_where_no_server_goes_on() -> None:
    async with world("fake") as w:
        w.fakes[0].continues = False
        with pytest.raises(InvalidInput) as refused:
            await w.ask(begun("w0 w1"))
        assert "continue_final_message" in str(refused.value)
        assert read((await w.ask()).body)["text"] == words(10)


async def test_another_model_begins_anew_and_the_answer_is_degraded() -> None:
    async with world("one", "two") as w:
        w.fakes[0].script = ["close"]
        heard = Heard()
        answer = read((await w.ask(asked(), heard)).body)
        assert heard.text == answer["text"] == words(10)
        assert heard.kinds == ["restarted"]
        assert answer["model"] == "two"
        assert answer["degraded"]


async def test_who_names_a_model_is_not_answered_by_another() -> None:
    async with world("one", "two") as w:
        w.fakes[0].script = ["close"] * 3
        with pytest.raises(ServerFailed):
            await w.ask(asked(model="one"))
        assert read((await w.ask(asked(model="two"))).body)["model"] == "two"
        with pytest.raises(UnknownName):
            await w.ask(asked(model="three"))


async def test_when_every_server_fails_the_last_failure_is_told_and_all_recover() -> None:
    async with world("fake", "fake") as w:
        for fake in w.fakes:
            fake.script = ["reset"]
        with pytest.raises(ServerFailed):
            await w.ask()
        assert w.statistics.window(60).failures == 1
        assert [member.in_flight for member in w.members] == [0, 0]
        assert read((await w.ask()).body)["text"] == words(10)


async def test_a_server_that_fails_after_all_was_said_has_answered() -> None:
    async with world("fake", "fake") as w:
        w.fakes[0].script = ["reset_at_the_end"]
        heard = Heard()
        answer = read((await w.ask(asked(), heard)).body)
        assert heard.text == answer["text"] == words(10)
        assert (answer["server"], answer["finish_reason"]) == ("s0", "length")
        assert w.fakes[1].seen == []


async def test_a_third_server_takes_over_from_a_second_that_fails_as_well() -> None:
    async with world("fake", "fake", "fake") as w:
        # the first of two is taken by the refusal to go on
        w.fakes[0].script, w.fakes[1].script, w.fakes[2].script = ["reset"], ["reset"] * 2, ["reset"] * 2
        w.fakes[1].continues = w.fakes[2].continues = False
        heard = Heard()
        with pytest.raises(ServerFailed):
            await w.ask(asked(), heard)
        w.fakes[0].script, w.fakes[1].script = ["reset"], ["close"]
        w.fakes[1].continues = True
        for member in w.members:
            member.up = True
        heard = Heard()
        answer = read((await w.ask(asked(id="q2"), heard)).body)
        assert heard.text == answer["text"] == words(10)
        assert len(answer["warnings"]) == 2


async def test_failing_over_takes_less_than_half_a_second() -> None:
    async with world("fake", "fake") as w:
        w.fakes[0].script = ["reset"]
        times: list[float] = []

        async def emit(piece: bytes) -> None:
            times.append(time.monotonic())

        await w.generate.answer(asked(), emit)
        assert max(after - before for before, after in itertools.pairwise(times)) < 0.5


async def test_a_server_that_never_stops_is_left() -> None:
    async with world() as w:
        w.fakes[0].script = [NEVER_STOPS]
        with pytest.raises(ServerFailed):
            await asyncio.wait_for(w.ask(), 10)
        await until(lambda: w.fakes[0].open == 0)


async def test_a_dead_server_is_passed_over_at_once_and_found_when_it_answers_again() -> None:
    async with world("fake", "fake") as w:
        w.fakes[0].script = ["reset_at_once"]
        await w.ask()
        assert not w.members[0].up
        for _ in range(3):
            assert read((await w.ask()).body)["server"] == "s1"
        assert len(w.fakes[0].seen) == 1
        assert (await w.pool.examine(w.members[0])).score == 1.0
        assert read((await w.ask()).body)["server"] == "s0"


async def test_slots_bound_what_a_server_is_asked_and_the_queue_keeps_its_order() -> None:
    async with world(slots=2, queue=4) as w:
        w.fakes[0].seconds_per_token = 0.01
        ended: list[int] = []

        async def one(number: int) -> dict[str, Any]:
            answer = await w.ask(asked(f"p{number}", id=f"q{number}"))
            ended.append(number)
            return read(answer.body)

        tasks = [asyncio.create_task(one(number)) for number in range(6)]
        await until(lambda: w.pool.queued == 4)
        with pytest.raises(QueueFull) as refused:
            await w.ask(asked(id="q9"))
        assert refused.value.retry_after_s > 0
        answers = await asyncio.gather(*tasks)
        assert w.fakes[0].most_open == 2
        assert sorted(ended) == list(range(6))
        assert [str(one["messages"][0]["content"]) for one in w.fakes[0].seen] == [  # type: ignore[index]
            f"p{number}" for number in range(6)
        ]
        waits = [a["statistics"]["queue_wait_ms"] + a["statistics"]["slot_wait_ms"] for a in answers]
        assert waits[0] == waits[1] == 0
        assert min(waits[2:4]) > 50
        assert min(waits[4:]) > max(waits[2:4])
        assert answers[4]["statistics"]["queue_wait_ms"] > answers[2]["statistics"]["queue_wait_ms"]
        assert {a["statistics"]["batch_size"] for a in answers} <= {1, 2}
        window = w.statistics.window(60)
        assert window.success_rate == pytest.approx(6 / 7)
        assert window.average_batch_size is not None
        assert window.average_batch_size > 1
        assert window.queue_efficiency is not None
        assert 0 < window.queue_efficiency < 1


async def test_a_cancelled_question_frees_its_slot_and_tells_the_server() -> None:
    async with world(slots=1, queue=2) as w:
        w.fakes[0].seconds_per_token = 0.05
        first = asyncio.create_task(w.ask(asked(max_tokens=400)))
        await until(lambda: w.fakes[0].open == 1)
        second = asyncio.create_task(w.ask(asked("other", id="q2", max_tokens=2)))
        await until(lambda: w.pool.queued == 1)
        third = asyncio.create_task(w.ask(asked("third", id="q3")))
        await until(lambda: w.pool.queued == 2)
        third.cancel()  # in the queue
        await asyncio.gather(third, return_exceptions=True)
        assert w.pool.queued == 1
        first.cancel()  # in mid-stream
        await asyncio.gather(first, return_exceptions=True)
        assert first.cancelled()
        assert third.cancelled()
        assert read((await second).body)["text"] == words(2)
        await until(lambda: w.fakes[0].open == 0)
        assert w.members[0].in_flight == 0
        assert [one["messages"][0]["content"] for one in w.fakes[0].seen] == ["Tell me.", "other"]  # type: ignore[index]


async def test_at_the_deadline_the_work_is_dropped() -> None:
    async with world() as w:
        w.fakes[0].seconds_per_token = 0.05
        with pytest.raises(DeadlineExceeded):  # before the last of its tokens, 20 s later
            await asyncio.wait_for(w.ask(asked(max_tokens=400, within_s=0.3)), 15)
        await until(lambda: w.fakes[0].open == 0)
        with pytest.raises(DeadlineExceeded):
            await w.ask(asked(within_s=-1))
        assert len(w.fakes[0].seen) == 1
        assert w.statistics.window(60).failures == 1 + 1


async def test_a_listener_that_fails_ends_the_work() -> None:
    async with world() as w:
        w.fakes[0].seconds_per_token = 0.02

        async def gone(piece: bytes) -> None:
            raise ConnectionResetError

        with pytest.raises(ConnectionResetError):
            await w.generate.answer(asked(max_tokens=400), gone)
        await until(lambda: w.fakes[0].open == 0)
        assert w.members[0].up


@pytest.mark.parametrize("body", [b"\xff", b"{}", b'{"prompt": ""}', b'{"prompt": "x", "max_tokens": -1}'])
async def test_a_question_not_in_order_reaches_no_server_and_is_no_failure(body: bytes) -> None:
    async with world() as w:
        with pytest.raises(InvalidInput):
            await w.ask(question_of(body))
        assert w.fakes[0].seen == []
        assert w.statistics.window(60).success_rate is None


async def test_a_prompt_beyond_the_context_is_refused_and_says_nothing_of_the_server() -> None:
    async with world("fake", "fake") as w:
        w.generate._limits = type(w.generate._limits)(100_000, 400, 8)
        with pytest.raises(Rejected) as caught:
            await w.ask(asked("word " * 3000))
        assert "/prompt" in caught.value.fields
        assert w.members[0].up
        assert w.fakes[1].seen == []


class Counting:
    """A breaker that counts, and can be open."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.open = False

    async def admit(self) -> object:
        if self.open:
            raise Unavailable("left alone", code="circuit_open")
        return "ticket"

    async def succeeded(self, ticket: object) -> None:
        self.told.append(f"succeeded {ticket}")

    async def failed(self, ticket: object) -> None:
        self.told.append(f"failed {ticket}")

    async def abandoned(self, ticket: object) -> None:
        self.told.append(f"abandoned {ticket}")


async def test_the_breaker_hears_of_servers_faults_and_of_nothing_else() -> None:
    breaker = Counting()
    async with world(breaker=breaker, slots=1, queue=1) as w:
        w.fakes[0].script = ["reset"]
        with pytest.raises(ServerFailed):
            await w.ask()
        await w.ask()
        with pytest.raises(InvalidInput):
            await w.ask(question_of(b"{}"))
        w.fakes[0].script = ["status_429"]  # its queue is full: that says nothing of it
        with pytest.raises(ServerFailed):
            await w.ask()
        w.fakes[0].seconds_per_token = 0.05
        left = asyncio.create_task(w.ask(asked(max_tokens=400)))
        await until(lambda: w.fakes[0].open == 1)
        left.cancel()
        await asyncio.gather(left, return_exceptions=True)
        assert breaker.told == ["failed ticket", "succeeded ticket", "abandoned ticket", "abandoned ticket"]
        breaker.open = True
        with pytest.raises(Unavailable) as caught:
            await w.ask()
        assert caught.value.code == "circuit_open"
        assert len(w.fakes[0].seen) == 4
