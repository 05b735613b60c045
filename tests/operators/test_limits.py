"""The limit in memory: equal to the oracle at every taking, and bounded in keys."""

from datetime import timedelta
from fractions import Fraction

import pytest
from hypothesis import given

from core.clock import ManualClock
from core.errors import DeclarationError
from operators.limits import Allowed, InMemoryLimiter, Limit, Refused
from tests.operators.token_bucket import STEP, TokenBucket, takings


@given(takings())
async def test_it_is_a_token_bucket(given_: tuple[Limit, list[tuple[int, int]]]) -> None:
    limit, wanted = given_
    clock = ManualClock(elapsed=40_000.0)
    limiter, oracle = InMemoryLimiter(limit, clock=clock), TokenBucket(limit)
    at = Fraction(0)
    for steps, cost in wanted:
        at += steps * STEP
        clock.elapsed = 40_000.0 + float(at)
        found, wait = await limiter.take("k", cost), oracle.take(cost, at)
        if not wait:
            assert isinstance(found, Allowed)
            continue
        assert isinstance(found, Refused)
        assert found.retry_after.total_seconds() == pytest.approx(float(wait), abs=2e-6)


async def test_the_time_that_is_told_is_exact_to_the_microsecond() -> None:
    clock = ManualClock(elapsed=1e6)
    limiter = InMemoryLimiter(Limit(3.0, 7), clock=clock)
    await limiter.take("k", 7)
    told = await limiter.take("k", 5)
    assert isinstance(told, Refused)
    clock.elapsed = 1e6 + told.retry_after.total_seconds() - 2e-6
    assert isinstance(await limiter.take("k", 5), Refused)
    clock.elapsed = 1e6 + told.retry_after.total_seconds()
    assert isinstance(await limiter.take("k", 5), Allowed)


async def test_a_key_that_was_forgotten_begins_anew() -> None:
    limiter = InMemoryLimiter(Limit(1.0, 1), clock=ManualClock(), keys=2)
    for key in "abac":
        await limiter.take(key)
    assert isinstance(await limiter.take("a"), Allowed), "b was used later than a's refused second taking"
    assert len(limiter._paid_at) == 2


@pytest.mark.parametrize(
    ("rate", "burst"), [(0.0, 1), (-1.0, 1), (float("nan"), 1), (float("inf"), 1), (1.0, 0)]
)
def test_a_limit_that_limits_nothing_or_all_is_refused(rate: float, burst: int) -> None:
    with pytest.raises(DeclarationError):
        Limit(rate, burst)


def test_the_burst_comes_back_in_its_time() -> None:
    assert timedelta(seconds=Limit(4.0, 10).refills_in_s) == timedelta(seconds=2.5)
