"""The limit of what is handled at once: it follows the lateness of the loop, down fast and up slowly."""

import asyncio
import time
from contextlib import ExitStack

import pytest

from core.errors import QueueFull
from gateway.load import FIRST, LEAST, TICK_S, Load

LATE_S = 0.1


def fill(load: Load, most: int = 10_000) -> int:
    """How many are let in at once, beside those that are."""
    for entered in range(most):
        try:
            load.enter()
        except QueueFull:
            return entered
    return most


def empty(load: Load) -> None:
    while load.open:
        load.leave()


async def test_one_late_tick_changes_nothing_and_more_cut_to_what_could_be_done_in_time() -> None:
    load = Load(most=1_000, late_s=LATE_S)
    assert fill(load) == FIRST
    load.observe(0.2)
    assert load.limit == FIRST
    load.observe(0.125)
    assert load.limit == pytest.approx(FIRST * 0.8)
    assert fill(load) == 0
    load.observe(9.0)
    assert load.limit == pytest.approx(FIRST * 0.8 * 0.5)
    empty(load)
    assert fill(load) == pytest.approx(FIRST * 0.4, abs=1)


async def test_some_are_always_let_in() -> None:
    load = Load(most=1_000, late_s=LATE_S)
    for _ in range(20):
        fill(load)
        load.observe(9.0)
        empty(load)
    assert fill(load) == LEAST


async def test_a_few_that_are_late_cut_to_a_few() -> None:
    """A limit that was never reached says nothing; what was being done does."""
    load = Load(most=1_000, late_s=LATE_S)
    fill(load, 100)
    for _ in range(2):
        load.observe(0.2)
    assert load.limit == pytest.approx(50)


async def test_it_grows_while_it_is_used_and_not_otherwise() -> None:
    load = Load(most=300, late_s=LATE_S)
    fill(load, 10)
    for _ in range(50):
        load.observe(0.0)
    assert load.limit == FIRST
    fill(load)
    load.observe(0.0)
    assert load.limit == pytest.approx(FIRST * 1.02 + 1)
    for _ in range(50):
        fill(load)
        load.observe(0.0)
    assert load.limit == 300
    empty(load)
    assert fill(load) == 300


async def test_who_waits_for_others_takes_nobodys_turn() -> None:
    load = Load(most=300, late_s=LATE_S)
    for _ in range(300):
        load.enter(waits=True)
    with pytest.raises(QueueFull) as caught:
        load.enter(waits=True)
    assert (caught.value.code, caught.value.retry_after_s) == ("overloaded", 1.0)
    assert fill(load) == FIRST
    load.leave(waits=True)
    load.enter(waits=True)


async def test_a_loop_that_is_kept_busy_is_seen_and_one_at_rest_has_no_timer() -> None:
    load = Load(most=1_000, late_s=0.01)
    fill(load)
    async with asyncio.timeout(60):
        while load.limit == FIRST:
            time.sleep(TICK_S + 0.03)  # keeps the loop from its timer
            await asyncio.sleep(0)
        empty(load)
        while load._timer is not None:
            await asyncio.sleep(TICK_S)
    assert load.limit < FIRST


async def test_who_waits_for_a_body_keeps_nobody_out() -> None:
    load = Load(most=FIRST, late_s=LATE_S)
    with ExitStack() as slow:
        for _ in range(FIRST):
            load.enter()
            slow.enter_context(load.aside())
        assert fill(load) == FIRST
        with pytest.raises(QueueFull), load.aside():
            pass  # bounded all the same
        empty(load)
    assert (load.reading, load.open) == (0, FIRST), "each has its turn back"
