"""Swapping models under load: nothing lost, nothing doubled, nothing waits; what is unsafe is refused."""

import asyncio
import json
import random
from typing import Any

import pytest

from core.errors import ModelRefused, Unavailable, UnknownName
from operators.server_pool import State, SwapRefused
from tests.operators.generating import World, asked, until, words, world


def failed(refused: SwapRefused) -> list[str]:
    return [check.name for check in refused.checks if not check.passed]


async def test_states_at_the_start() -> None:
    async with world("one", "two") as w:
        assert [member.state for member in w.members] == [State.ACTIVE, State.READY]
        assert w.pool.active == "one"
        assert all(check.passed for check in w.pool.safety("two"))


async def test_a_swap_moves_what_comes_and_lets_end_what_is_under_way() -> None:
    async with world("one", "two") as w:
        w.fakes[0].seconds_per_token = 0.02
        old = asyncio.create_task(w.ask(asked(max_tokens=20)))
        await until(lambda: w.fakes[0].open == 1)
        swapping = asyncio.create_task(w.pool.swap("two"))
        await until(lambda: w.pool.active == "two")
        assert not swapping.done()
        new = json.loads((await w.ask(asked("other"))).body)
        assert new["model"] == "two"
        assert not old.done()
        assert json.loads((await old).body)["text"] == words(20)
        swapped = await swapping
        assert (swapped.previous, swapped.target) == ("one", "two")
        assert swapped.drained_s >= swapped.seconds > 0
        assert [member.state for member in w.members] == [State.DEPRECATED, State.ACTIVE]
        back = await w.pool.rollback()
        assert back.target == "one"
        assert json.loads((await w.ask(asked("third"))).body)["model"] == "one"


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
                await w.pool.swap("two" if w.pool.active == "one" else "one")
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


async def test_a_slot_given_just_before_a_swap_is_of_the_active_model() -> None:
    async with world("one", "two", slots=1) as w:
        held = await w.pool.enter()
        waiting = asyncio.create_task(w.pool.enter())
        await until(lambda: w.pool.queued == 1)
        w.pool.leave(held)  # gives the slot to who waits, who learns of it after the swap
        w.pool._move("two", [w.members[1]])
        lease = await waiting
        assert lease.member is w.members[0]
        assert not lease.backup
        w.pool.leave(lease)


async def test_what_is_unsafe_is_refused_with_every_reason() -> None:
    async with world("one", "two") as w:
        with pytest.raises(UnknownName):
            await w.pool.swap("three")
        with pytest.raises(SwapRefused) as same:
            await w.pool.swap("one")
        assert failed(same.value) == ["target_differs"]
        w.members[1].state, w.members[1].health = State.FAILED, None
        with pytest.raises(SwapRefused) as broken:
            await w.pool.swap("two")
        assert failed(broken.value) == ["exists_and_ready", "health_score"]
        with pytest.raises(SwapRefused):
            await w.pool.rollback()
        assert w.pool.active == "one"


async def test_two_swaps_at_once_are_one() -> None:
    async with world("one", "two") as w:
        w.fakes[1].seconds_per_token = 0.02
        first = asyncio.create_task(w.pool.swap("two"))
        await asyncio.sleep(0.02)
        with pytest.raises(SwapRefused) as second:
            await w.pool.swap("two")
        assert "no_concurrent_operation" in failed(second.value)
        assert (await first).target == "two"


async def test_a_target_that_fails_its_health_check_never_becomes_active() -> None:
    async with world("one", "two") as w:
        w.fakes[1].script = ["status_500"] * 3
        with pytest.raises(ModelRefused) as caught:
            await w.pool.swap("two", retries=3)
        assert caught.value.code == "health_check_failed"
        assert w.fakes[1].script == []
        assert w.pool.active == "one"
        assert [member.state for member in w.members] == [State.ACTIVE, State.FAILED]
        assert json.loads((await w.ask()).body)["model"] == "one"


async def test_a_health_check_is_tried_again() -> None:
    async with world("one", "two") as w:
        w.fakes[1].script = ["status_500", "close"]
        assert (await w.pool.swap("two", retries=3)).target == "two"


async def test_a_target_too_slow_for_the_floor_never_becomes_active() -> None:
    async with world("one", "two") as w:
        w.members[1].server._floor = 1000.0  # type: ignore[attr-defined]
        w.fakes[1].seconds_per_token = 0.02
        with pytest.raises(ModelRefused):
            await w.pool.swap("two", retries=1)
        assert w.pool.active == "one"


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
        w.members[0].state = State.FAILED
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
