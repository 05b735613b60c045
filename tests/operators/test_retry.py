"""Retries: when, how long after, how many, and in one layer."""

import math
from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest

from core.clock import ManualClock
from core.errors import (
    CircuitOpen,
    DeclarationError,
    InvalidInput,
    MillstreamError,
    ModelFailed,
    RateLimited,
    Unavailable,
)
from operators.retry import RetryBudget, Retrying, retried

RETRYING = Retrying(attempts=5, first=timedelta(seconds=1), longest=timedelta(seconds=5))


class Server:
    """Fails with the given errors in turn, then answers."""

    def __init__(self, *errors: MillstreamError) -> None:
        self.errors = list(errors)
        self.asked = 0

    async def __call__(self) -> str:
        self.asked += 1
        if self.errors:
            raise self.errors.pop(0)
        return "answer"


class Waits:
    """Sleeps on a manual clock and remembers how long."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.clock.advance(timedelta(seconds=seconds))

    async def call(
        self,
        attempt: Callable[[], Awaitable[str]],
        *,
        until: float | None = None,
        chance: float = 1.0,
        budget: RetryBudget | None = None,
    ) -> str:
        return await retried(
            attempt,
            RETRYING,
            budget or RetryBudget(),
            self.clock,
            until=until,
            sleep=self.sleep,
            chance=lambda: chance,
        )


def away(times: int) -> list[MillstreamError]:
    return [Unavailable("reset") for _ in range(times)]


@pytest.mark.parametrize("chance", [0.0, 0.25, 1.0])
async def test_waits_double_up_to_the_longest_with_full_jitter(chance: float) -> None:
    waits, server = Waits(), Server(*away(4))
    assert await waits.call(server, chance=chance) == "answer"
    assert waits.slept == [chance * most for most in (1, 2, 4, 5)]


async def test_after_the_last_attempt_its_error_is_raised() -> None:
    waits, server = Waits(), Server(*away(9))
    with pytest.raises(Unavailable):
        await waits.call(server)
    assert server.asked == 5


@pytest.mark.parametrize("error", [InvalidInput("empty prompt"), ModelFailed("raised")])
async def test_what_cannot_succeed_later_is_not_tried_again(error: MillstreamError) -> None:
    waits, server = Waits(), Server(error)
    with pytest.raises(type(error)):
        await waits.call(server)
    assert server.asked == 1


async def test_a_dependency_that_says_when_is_left_alone_that_long() -> None:
    waits, server = Waits(), Server(RateLimited("too many", retry_after_s=3.0))
    assert await waits.call(server, chance=0.5) == "answer"
    assert waits.slept == [3.0]


async def test_one_that_says_much_later_is_not_waited_for() -> None:
    waits, server = Waits(), Server(CircuitOpen("open", retry_after_s=30.0))
    with pytest.raises(CircuitOpen):
        await waits.call(server)
    assert (server.asked, waits.slept) == (1, [])


async def test_no_retry_begins_after_the_deadline() -> None:
    waits, server = Waits(), Server(*away(4))
    with pytest.raises(Unavailable):
        await waits.call(server, until=3.5)
    assert waits.slept == [1, 2]


async def test_in_an_outage_retries_stay_the_budget_s_share_of_the_calls() -> None:
    budget, server, calls = RetryBudget(share=0.1, reserve=10), Server(*away(100_000)), 1_000
    waits = Waits()
    for _ in range(calls):
        with pytest.raises(Unavailable):
            await waits.call(server, budget=budget)
    retries = server.asked - calls
    assert math.isclose(retries, 10 + 0.1 * calls, abs_tol=2)


async def test_only_the_outer_layer_retries() -> None:
    waits, server = Waits(), Server(*away(2))

    async def inner() -> str:
        return await waits.call(server)

    assert await waits.call(inner) == "answer"
    assert server.asked == 3, "three attempts of the outer layer, none of the inner beside them"
    assert len(waits.slept) == 2


@pytest.mark.parametrize(("attempts", "first", "longest"), [(0, 1, 1), (1, 0, 1), (1, 2, 1)])
def test_nonsense_is_refused(attempts: int, first: int, longest: int) -> None:
    with pytest.raises(DeclarationError):
        Retrying(attempts, timedelta(seconds=first), timedelta(seconds=longest))
