"""Leased limits: what they let through at most, how seldom they ask, and what they do alone."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.clock import ManualClock
from core.errors import TooLarge, Unavailable
from operators.leases import LASTS, LeasedLimiter, block_of
from operators.limits import Allowed, InMemoryLimiter, Lease, Limit, Refused

WIDE = Limit(20_000.0, 40_000)


class Counted(InMemoryLimiter):
    """What is shared. `asked` counts the questions; it may be away."""

    def __init__(self, limit: Limit, clock: ManualClock) -> None:
        super().__init__(limit, clock=clock)
        self.asked = 0
        self.away = False

    async def lease(self, key: str, least: int, most: int) -> Lease | Refused:
        self.asked += 1
        await asyncio.sleep(0)
        if self.away:
            raise Unavailable("away")
        return await super().lease(key, least, most)


class World:
    """Processes that share one limit."""

    def __init__(self, limit: Limit, processes: int = 1) -> None:
        self.clock = ManualClock(elapsed=40_000.0)
        self.shared = Counted(limit, self.clock)
        self.counted_alone = 0
        self.limiters = [
            LeasedLimiter(
                self.shared, InMemoryLimiter(limit, clock=self.clock), limit, clock=self.clock,
                on_alone=self._alone,
            )
            for _ in range(processes)
        ]  # fmt: skip

    def _alone(self) -> None:
        self.counted_alone += 1


async def settled() -> None:
    """What goes on in the background has ended."""
    while len(asyncio.all_tasks()) > 1:
        await asyncio.sleep(0)


def most_within(limit: Limit, processes: int, taken: Sequence[tuple[float, int]]) -> None:
    """The stated bound, for every stretch of time."""
    held = processes * block_of(limit)
    for first in range(len(taken)):
        total = 0
        for at, cost in taken[first:]:
            total += cost
            assert total <= limit.burst + limit.rate * (at - taken[first][0]) + held + 1e-6


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.builds(Limit, st.integers(0, 8).map(lambda n: 2.0**n), st.integers(1, 60)),
    st.integers(1, 3),
    st.lists(st.tuples(st.integers(0, 90) | st.just(0), st.integers(0, 2), st.integers(1, 60)), max_size=80),
)
async def test_no_more_is_let_through_than_is_stated(
    limit: Limit, processes: int, wanted: list[tuple[int, int, int]]
) -> None:
    world, taken = World(limit, processes), list[tuple[float, int]]()
    for steps, who, cost in wanted:
        world.clock.elapsed += steps / 64
        limiter = world.limiters[who % processes]
        if cost <= limit.burst and isinstance(await limiter.take("k", cost), Allowed):
            taken.append((world.clock.elapsed, cost))
        await settled()
    most_within(limit, processes, taken)


@pytest.mark.parametrize(("limit", "block"), [(Limit(1.0, 5), 1), (Limit(200.0, 100), 10), (WIDE, 2_000)])
def test_a_block_is_a_tenth(limit: Limit, block: int) -> None:
    assert block_of(limit) == block


async def test_a_key_in_use_asks_ever_more_seldom_and_seldom_waits() -> None:
    world = World(WIDE)
    (limiter,) = world.limiters
    for _ in range(10_000):
        assert isinstance(await limiter.take("k"), Allowed)
    await settled()
    assert world.shared.asked < 30


async def test_a_key_that_is_used_now_and_then_leases_no_more_than_it_needs() -> None:
    world = World(WIDE)
    (limiter,) = world.limiters
    for _ in range(5):
        found = await limiter.take("k", 3)
        await settled()
        assert found == Allowed(WIDE.burst - 3)
        world.clock.elapsed += 2 * LASTS.total_seconds()
    assert world.shared.asked == 5


async def test_many_at_once_ask_together() -> None:
    world = World(WIDE)
    (limiter,) = world.limiters
    found = await asyncio.gather(*(limiter.take("k", 2) for _ in range(300)))
    await settled()
    assert all(isinstance(one, Allowed) for one in found)
    assert world.shared.asked <= 3


async def test_a_refusal_is_remembered_until_its_time_is_over() -> None:
    world = World(Limit(4.0, 10))
    (limiter,) = world.limiters
    assert isinstance(await limiter.take("k", 10), Allowed)
    asked = world.shared.asked
    for _ in range(50):
        assert await limiter.take("k", 2) == Refused(timedelta(seconds=0.5))
    assert world.shared.asked == asked
    world.clock.elapsed += 0.5
    assert isinstance(await limiter.take("k", 2), Allowed)


async def test_what_another_process_took_is_seen() -> None:
    world = World(Limit(4.0, 10), processes=2)
    one, other = world.limiters
    assert isinstance(await one.take("k", 6), Allowed)
    assert await other.take("k", 6) == Refused(timedelta(seconds=0.5))
    assert isinstance(await other.take("k", 4), Allowed)


async def test_what_was_not_spent_in_time_is_not_spent_later() -> None:
    world = World(Limit(1_000.0, 1_000))
    (limiter,) = world.limiters
    for _ in range(400):
        await limiter.take("k")
    await settled()
    world.clock.elapsed += LASTS.total_seconds()
    taken = [isinstance(await limiter.take("k"), Allowed) for _ in range(1_200)]
    assert sum(taken) == 1_000, "the burst is back, and no more than the burst"


async def test_while_the_count_is_away_each_process_counts_alone_and_then_no_more() -> None:
    world = World(Limit(0.01, 3), processes=2)
    one, other = world.limiters
    world.shared.away = True
    for limiter in (one, other):
        assert [type(await limiter.take("k")) for _ in range(4)] == [Allowed] * 3 + [Refused]
    assert world.counted_alone == 8
    world.shared.away = False
    assert isinstance(await one.take("k"), Allowed)
    assert world.counted_alone == 8


async def test_what_the_burst_could_never_hold_is_told_without_asking() -> None:
    world = World(Limit(1.0, 3))
    with pytest.raises(TooLarge):
        await world.limiters[0].take("k", 4)
    assert world.shared.asked == 0


async def test_a_taker_who_leaves_takes_nothing_from_the_others() -> None:
    world = World(Limit(0.01, 2))
    (limiter,) = world.limiters
    leaving = asyncio.create_task(limiter.take("k", 1))
    staying = asyncio.create_task(limiter.take("k", 1))
    await asyncio.sleep(0)
    leaving.cancel()
    assert isinstance(await staying, Allowed)
    await asyncio.gather(leaving, return_exceptions=True)
    assert isinstance(await limiter.take("k", 1), Allowed)
