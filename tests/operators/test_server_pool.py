"""Swapping models under load: nothing lost, nothing doubled, nothing waits; what is unsafe is refused."""

import asyncio
import json
import random
from typing import Any

import pytest

from core.errors import Unavailable, UnknownName
from operators.server_pool import State, Wanted
from tests.operators.generating import World, asked, until, words, world


async def test_states_at_the_start() -> None:
    async with world("one", "two") as w:
        assert [member.state for member in w.members] == [State.ACTIVE, State.READY]
        assert w.pool.active == "one"


async def test_a_swap_moves_what_comes_and_lets_end_what_is_under_way() -> None:
    async with world("one", "two") as w:
        w.fakes[0].seconds_per_token = 0.02
        old = asyncio.create_task(w.ask(asked(max_tokens=20)))
        await until(lambda: w.fakes[0].open == 1)
        w.pool.activate("two")
        new = json.loads((await w.ask(asked("other"))).body)
        assert new["model"] == "two"
        assert not new["degraded"]
        assert not old.done()
        assert json.loads((await old).body)["text"] == words(20)
        assert [member.state for member in w.members] == [State.DEPRECATED, State.ACTIVE]
        w.pool.activate("one")
        assert json.loads((await w.ask(asked("third"))).body)["model"] == "one"
        with pytest.raises(UnknownName):
            w.pool.activate("three")


async def test_swaps_under_load_lose_nothing_and_double_nothing() -> None:
    async with world("one", "two", slots=8, queue=1000) as w:
        dice = random.Random(5)
        for fake in w.fakes:
            fake.seconds_per_token = 0.001
        waits: list[float] = []

        async def one(number: int) -> str:
            await asyncio.sleep(dice.random())
            tokens = dice.randint(1, 12)
            answer = json.loads((await w.ask(asked(f"p{number}", id=f"q{number}", max_tokens=tokens))).body)
            assert answer["text"] == words(tokens)
            assert not answer["degraded"], answer["warnings"]
            waits.append(answer["statistics"]["total_ms"])
            return str(answer["model"])

        async def swaps() -> None:
            for _ in range(6):
                target = "two" if w.pool.active == "one" else "one"
                assert await w.pool.healthy(target, 3)
                w.pool.activate(target)
                await asyncio.sleep(0.05)

        models, _ = await asyncio.gather(asyncio.gather(*(one(number) for number in range(300))), swaps())
        assert set(models) == {"one", "two"}
        prompts = [
            str(one["messages"][0]["content"])  # type: ignore[index]
            for fake in w.fakes
            for one in fake.seen
        ]
        assert sorted(prompt for prompt in prompts if prompt.startswith("p")) == sorted(
            f"p{number}" for number in range(300)
        )
        assert [member.in_flight for member in w.members] == [0, 0]


async def test_a_slot_given_just_before_a_swap_stays() -> None:
    async with world("one", "two", slots=1) as w:
        held = await w.pool.enter()
        waiting = asyncio.create_task(w.pool.enter())
        await until(lambda: w.pool.queued == 1)
        w.pool.leave(held)  # gives the slot to who waits, who learns of it after the swap
        w.pool.activate("two")
        lease = await waiting
        assert lease.member is w.members[0]
        w.pool.leave(lease)


async def test_an_answer_given_a_slot_before_a_swap_is_not_degraded() -> None:
    async with world("one", "two", slots=1) as w:
        held = await w.pool.enter()
        asking = asyncio.create_task(w.ask())
        await until(lambda: w.pool.queued == 1)
        w.pool.leave(held)
        w.pool.activate("two")
        answer = json.loads((await asking).body)
        assert (answer["model"], answer["level"], answer["degraded"]) == ("one", "live", False)


async def test_who_waits_for_another_model_holds_up_nobody() -> None:
    async with world("one", "two", slots=1, queue=4) as w:
        held = await w.pool.enter(Wanted("one"))
        first = asyncio.create_task(w.pool.enter(Wanted("one")))
        await until(lambda: w.pool.queued == 1)
        free = await asyncio.wait_for(w.pool.enter(Wanted("two")), 60)  # behind the first in the queue
        assert free.member is w.members[1]
        w.pool.leave(held)
        w.pool.leave(await first)
        w.pool.leave(free)
        assert [member.in_flight for member in w.members] == [0, 0]


async def test_who_waits_for_a_model_that_is_let_go_of_is_told() -> None:
    async with world("one", "two", slots=1) as w:
        held = await w.pool.enter(Wanted("two"))
        waiting = asyncio.create_task(w.pool.enter(Wanted("two")))
        await until(lambda: w.pool.queued == 1)
        w.pool.let_go("one")  # the active one stays
        assert w.pool.held == ("one", "two")
        w.pool.let_go("two")
        with pytest.raises(UnknownName):
            await waiting
        w.pool.leave(held)
        assert w.pool.held == ("one",)
        with pytest.raises(UnknownName):
            await w.pool.enter(Wanted("two"))
        w.pool.take_up("two")
        assert w.members[1].state is State.LOADING
        await w.pool.examine(w.members[1])
        w.pool.leave(await w.pool.enter(Wanted("two")))


async def test_a_health_check_is_tried_again() -> None:
    async with world("one", "two") as w:
        w.fakes[1].script = ["status_500", "close"]
        assert await w.pool.healthy("two", 3)
        w.fakes[1].script = ["status_500"] * 2
        assert not await w.pool.healthy("two", 2)
        assert w.members[1].state is State.FAILED
        assert w.members[1].failures == 2


async def test_a_server_too_slow_for_the_floor_is_not_healthy() -> None:
    async with world("one", "two") as w:
        w.members[1].server._floor = 1000.0  # type: ignore[attr-defined]
        w.fakes[1].seconds_per_token = 0.02
        assert not await w.pool.healthy("two", 1)
        assert w.members[1].health is not None
        assert 0 < w.members[1].health.score < 0.8
        assert "the floor is 1000" in (w.members[1].health.reason or "")


async def test_a_probe_that_is_broken_off_leaves_its_server_to_the_next() -> None:
    async with world("one", "two") as w:
        w.members[1].state = State.FAILED
        w.fakes[1].seconds_per_token = 0.05
        probing = asyncio.create_task(w.pool.examine(w.members[1]))
        await until(lambda: w.members[1].probed > 0)
        assert w.members[1].state is State.HEALTH_CHECK
        probing.cancel()
        await asyncio.gather(probing, return_exceptions=True)
        assert w.members[1].state is State.FAILED


async def test_the_backup_answers_while_the_active_model_is_down_and_steps_back() -> None:
    async with world("one", "two") as w:
        w.fakes[0].script = ["status_500"]
        await w.pool.examine(w.members[0])
        degraded = json.loads((await w.ask()).body)
        assert degraded["model"] == "two"
        assert degraded["degraded"]
        await w.pool.examine(w.members[0])
        assert json.loads((await w.ask()).body)["model"] == "one"


async def test_watching_finds_a_server_that_came_back() -> None:
    async with world("fake", "fake") as w:
        w.members[0].up = False
        watching = asyncio.create_task(w.pool.watch(0.05))
        await until(lambda: w.members[0].up)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        assert watching.cancelled()


async def test_two_servers_of_one_model_share_the_load() -> None:
    async with world("fake", "fake", slots=2, queue=1) as w:
        for fake in w.fakes:
            fake.seconds_per_token = 0.02
        await asyncio.gather(*(w.ask(asked(id=f"q{number}")) for number in range(4)))
        assert [fake.most_open for fake in w.fakes] == [2, 2]


async def test_no_server_is_left() -> None:
    async with world() as w:
        w.pool.members[0].state = State.LOADING
        with pytest.raises(Unavailable) as caught:
            await w.ask()
        assert caught.value.code == "no_server"


async def test_slots_are_never_overdrawn_whatever_is_cancelled() -> None:
    """Random questions and cancellations: the servers never see more than their slots, none is lost."""
    async with world("fake", "fake", slots=2, queue=50) as w:
        dice = random.Random(11)
        for fake in w.fakes:
            fake.seconds_per_token = 0.002

        async def one(number: int) -> None:
            await asyncio.sleep(dice.random() * 0.2)
            await w.ask(asked(id=f"q{number}", max_tokens=dice.randint(1, 20)))

        tasks = [asyncio.create_task(one(number)) for number in range(50)]

        async def cancel() -> None:
            for task in dice.sample(tasks, 20):
                await asyncio.sleep(0.01)
                task.cancel()

        await cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(one is None or isinstance(one, asyncio.CancelledError) for one in results)
        assert sum(one is None for one in results) >= 30
        # a server may learn of a cancellation a moment later than the next question
        assert [member.in_flight for member in w.members] == [0, 0]
        assert w.pool.queued == 0
        await _all_free(w)


async def _all_free(w: World) -> None:
    answers: list[Any] = await asyncio.gather(*(w.ask(asked(id=f"z{number}")) for number in range(4)))
    assert len(answers) == 4
