"""Retry: try again what may succeed later, with back-off and full jitter, in one layer, within a budget.

Back-off with full jitter (M. Brooker, "Exponential Backoff And Jitter", AWS, 2015): before attempt n the wait
is uniform between 0 and min(longest, first * 2^(n - 1)). A retry budget (Google, "Site Reliability
Engineering", chapter 22) keeps retries a share of all calls, so that an outage is not answered with a
multiple of the load. Only one layer retries: inside of a retried call a further `retried` makes one attempt.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

from core.clock import Clock
from core.errors import CircuitOpen, DeclarationError, MillstreamError, RateLimited

Result = TypeVar("Result")
Sleep = Callable[[float], Awaitable[None]]

_RETRYING: ContextVar[bool] = ContextVar("retrying", default=False)


@dataclass(frozen=True)
class Retrying:
    """At most `attempts` in all. Waits grow from `first` to `longest`."""

    attempts: int = 3
    first: timedelta = timedelta(milliseconds=100)
    longest: timedelta = timedelta(seconds=5)

    def __post_init__(self) -> None:
        if self.attempts < 1 or not timedelta(0) < self.first <= self.longest:
            raise DeclarationError(
                f"{self.attempts} attempts, waits of {self.first} to {self.longest}",
                mend="give at least 1 attempt and 0 < first <= longest",
            )


class RetryBudget:
    """Retries as a share of calls: every call pays in `share`, a retry takes one; `reserve` is there at the
    start and is the most that is kept. Shared by all calls to one dependency."""

    def __init__(self, *, share: float = 0.1, reserve: float = 10.0) -> None:
        if not 0 <= share <= 1 or reserve < 0:
            raise DeclarationError(f"a budget of {share} retries a call, {reserve} in reserve")
        self._share, self._reserve = share, reserve
        self._left = reserve

    def called(self) -> None:
        self._left = min(self._left + self._share, self._reserve)

    def take(self) -> bool:
        """Take one retry; False where none is left."""
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True


async def retried(
    attempt: Callable[[], Awaitable[Result]],
    retrying: Retrying,
    budget: RetryBudget,
    clock: Clock,
    *,
    until: float | None = None,
    sleep: Sleep = asyncio.sleep,
    chance: Callable[[], float] = random.random,
) -> Result:
    """What `attempt` gives. Tries again after errors that are `retryable`, and raises the last one.

    `until` is the deadline on `clock.monotonic()`: a retry that would begin after it is not made. A
    dependency that says when to come back (RateLimited, CircuitOpen) is left alone that long at the least;
    where that is more than `longest`, its error is raised.
    """
    budget.called()
    attempts = 1 if _RETRYING.get() else retrying.attempts
    token = _RETRYING.set(True)
    try:
        for number in range(1, attempts + 1):
            try:
                return await attempt()
            except MillstreamError as error:
                wait_s = _wait_s(error, number, retrying, chance())
                late = until is not None and clock.monotonic() + wait_s >= until
                if not error.retryable or number == attempts or late:
                    raise
                if wait_s > retrying.longest.total_seconds() or not budget.take():
                    raise
                await sleep(wait_s)
    finally:
        _RETRYING.reset(token)
    raise AssertionError("unreachable: the last attempt returns or raises")


def _wait_s(error: MillstreamError, number: int, retrying: Retrying, chance: float) -> float:
    most: float = min(retrying.longest.total_seconds(), retrying.first.total_seconds() * 2.0 ** (number - 1))
    asked = error.retry_after_s if isinstance(error, (RateLimited, CircuitOpen)) else 0.0
    return max(chance * most, asked)
