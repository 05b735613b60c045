"""Shedding: the share that is let in follows the lateness of the loop, down fast and up slowly."""

import asyncio
import time
from contextlib import suppress

import pytest

from core.errors import QueueFull
from gateway.load import TICK_S, Load

LATE_S = 0.1


def let_in(load: Load, requests: int) -> int:
    """How many of so many requests, one after the other, are let in."""
    found = 0
    for _ in range(requests):
        with suppress(QueueFull):
            load.enter()
            load.leave()
            found += 1
    return found


async def test_one_late_tick_sheds_nothing_and_a_row_of_them_ever_more() -> None:
    load = Load(most=1_000, late_s=LATE_S)
    for late, share in ((0.5, 1.0), (0.01, 1.0), (0.5, 1.0), (0.5, 0.9), (0.5, 0.81)):
        load.observe(late)
        assert load.share == pytest.approx(share)
    assert let_in(load, 1_000) == pytest.approx(810, abs=1)
    for _ in range(100):
        load.observe(0.5)
    assert let_in(load, 1_000) == pytest.approx(50, abs=1), "some are always let in, to see how it is"


async def test_it_comes_back_slowly_and_wholly() -> None:
    load = Load(most=1_000, late_s=LATE_S)
    for _ in range(8):
        load.observe(0.5)
    low = load.share
    load.observe(0.1)
    assert load.share == pytest.approx(low + 0.02)
    for _ in range(50):
        load.observe(0.0)
    assert let_in(load, 1_000) == 1_000


async def test_as_many_as_are_set_have_a_place_at_once() -> None:
    load = Load(most=3, late_s=LATE_S)
    for _ in range(3):
        load.enter()
    with pytest.raises(QueueFull) as caught:
        load.enter()
    assert (caught.value.code, caught.value.retry_after_s) == ("overloaded", 1.0)
    load.leave()
    assert let_in(load, 5) == 5


async def test_a_loop_that_is_kept_busy_is_seen_and_one_at_rest_has_no_timer() -> None:
    load = Load(most=10, late_s=0.01)
    load.enter()
    async with asyncio.timeout(60):
        while load.share == 1.0:
            time.sleep(TICK_S + 0.03)  # keeps the loop from its timer
            await asyncio.sleep(0)
        load.leave()
        while load.share < 1.0:
            await asyncio.sleep(TICK_S)
        while load._timer is not None:
            await asyncio.sleep(TICK_S)
