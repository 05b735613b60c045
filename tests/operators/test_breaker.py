"""The breaker's states against a naive model, and what counts as a failure."""

import asyncio
from dataclasses import dataclass
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.clock import ManualClock
from core.errors import (
    CircuitOpen,
    DeadlineExceeded,
    DeclarationError,
    InvalidInput,
    ModelFailed,
    QueueFull,
    RateLimited,
    Unavailable,
)
from operators.breaker import Breaker, Breaking, LocalBreaker, counts, guarded

FIVE = Breaking(failures=5, open_for=timedelta(seconds=30))


@dataclass
class Naive:
    """The textbook in whole seconds, where every call ends before the next step."""

    failures: int
    open_s: int
    now: int = 0
    state: str = "closed"
    count: int = 0
    opened: int = 0

    def call(self, fails: bool) -> bool:
        """Whether it went through."""
        if self.state == "open" and self.now - self.opened >= self.open_s:
            self.state = "half_open"
        if self.state == "open":
            return False
        if not fails:
            self.state, self.count = "closed", 0
        elif self.state == "half_open" or self.count + 1 >= self.failures:
            self.state, self.count, self.opened = "open", 0, self.now
        else:
            self.count += 1
        return True


@given(
    failures=st.integers(1, 4),
    open_s=st.integers(1, 4),
    steps=st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=60),
)
def test_calls_one_after_the_other_go_by_the_textbook(
    failures: int, open_s: int, steps: list[tuple[int, bool]]
) -> None:
    clock = ManualClock()
    breaker = Breaker(clock, Breaking(failures, timedelta(seconds=open_s)), name="server")
    naive = Naive(failures, open_s)
    for pause, fails in steps:
        clock.advance(timedelta(seconds=pause))
        naive.now += pause
        if not naive.call(fails):
            with pytest.raises(CircuitOpen) as refused:
                breaker.admit()
            assert refused.value.retry_after_s == pytest.approx(naive.opened + open_s - naive.now)
            continue
        ticket = breaker.admit()
        (breaker.failed if fails else breaker.succeeded)(ticket)


def opened(clock: ManualClock) -> Breaker:
    breaker = Breaker(clock, FIVE, name="server")
    for _ in range(5):
        breaker.failed(breaker.admit())
    assert breaker.state == "open"
    return breaker


def test_one_probe_at_a_time_goes_through_a_half_open_circuit() -> None:
    clock = ManualClock()
    breaker = opened(clock)
    clock.advance(timedelta(seconds=30))
    probe = breaker.admit()
    with pytest.raises(CircuitOpen):
        breaker.admit()
    breaker.succeeded(probe)
    assert breaker.state == "closed"
    breaker.admit()
    breaker.admit()


def test_a_probe_that_was_given_up_or_never_came_back_lets_another_try() -> None:
    clock = ManualClock()
    breaker = opened(clock)
    clock.advance(timedelta(seconds=30))
    breaker.abandoned(breaker.admit())
    lost = breaker.admit()
    clock.advance(timedelta(seconds=30))
    breaker.succeeded(breaker.admit())
    breaker.failed(lost)
    assert breaker.state == "closed"


def test_a_slow_call_from_before_the_opening_changes_nothing() -> None:
    clock = ManualClock()
    breaker = Breaker(clock, FIVE, name="server")
    slow, slower = breaker.admit(), breaker.admit()
    for _ in range(5):
        breaker.failed(breaker.admit())
    breaker.succeeded(slow)
    assert breaker.state == "open"
    clock.advance(timedelta(seconds=30))
    breaker.failed(slower)
    assert breaker.state == "half_open", "the late failure is no second opening"


@pytest.mark.parametrize(
    ("error", "ill"),
    [
        (ModelFailed("raised"), True),
        (Unavailable("reset"), True),
        (DeadlineExceeded("too slow"), True),
        (TimeoutError(), True),
        (ValueError("a bug in the tokenizer"), True),
        (InvalidInput("prompt is empty"), False),
        (QueueFull("full"), False),
        (RateLimited("too many"), False),
        (CircuitOpen("open"), False),
        (asyncio.CancelledError(), False),
    ],
)
async def test_what_counts(error: BaseException, ill: bool) -> None:
    assert counts(error) is ill
    breaker = Breaker(ManualClock(), Breaking(failures=1), name="server")
    with pytest.raises(type(error)):
        async with guarded(LocalBreaker(breaker)):
            raise error
    assert breaker.state == ("open" if ill else "closed")


@pytest.mark.parametrize(("failures", "seconds"), [(0, 1), (1, 0), (1, -1)])
def test_a_breaker_that_never_or_always_breaks_is_refused(failures: int, seconds: int) -> None:
    with pytest.raises(DeclarationError):
        Breaking(failures, timedelta(seconds=seconds))
