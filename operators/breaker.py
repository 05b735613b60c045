"""Breaker: leave a dependency alone for a while after it failed, so that not every call waits for it.

The circuit breaker of M. Nygard, "Release It!". Closed: every call goes through, and failures in succession
are counted. Open: no call goes through. Half-open, once `open_for` has passed: one call goes through as a
probe; where it fails the circuit opens again, where it succeeds the circuit closes and the count is zero.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, Protocol

from core.clock import Clock
from core.errors import (
    CircuitOpen,
    DeclarationError,
    InvalidInput,
    MillstreamError,
    QueueFull,
    RateLimited,
)

State = Literal["closed", "open", "half_open"]


@dataclass(frozen=True)
class Breaking:
    """`failures` in succession open the circuit for `open_for`."""

    failures: int = 5
    open_for: timedelta = timedelta(seconds=30)

    def __post_init__(self) -> None:
        if self.failures < 1 or self.open_for <= timedelta(0):
            raise DeclarationError(
                f"a breaker of {self.failures} failures, open for {self.open_for}",
                mend="give at least 1 failure and a positive time",
            )


def counts(error: BaseException) -> bool:
    """Whether an error says that the dependency is ill: time-outs, and all that it or the model raised.

    An invalid request, a full queue and a caller's limit say nothing of it, nor does a caller who left.
    """
    if isinstance(error, (InvalidInput, QueueFull, RateLimited, CircuitOpen)):
        return False
    return isinstance(error, (MillstreamError, Exception))


class Breaker:
    """The states of one circuit, in this process. Not shared between threads.

    `admit` gives a ticket, and the call's end is told with it. A ticket from before the last change of state
    says nothing any more: a slow call that was let through while all was well neither closes nor opens the
    circuit later.
    """

    def __init__(self, clock: Clock, breaking: Breaking, *, name: str = "dependency") -> None:
        self.name = name
        self._clock = clock
        self._breaking = breaking
        self._open_s = breaking.open_for.total_seconds()
        self._failures = 0
        self._open_until: float | None = None
        self._probe_until: float | None = None
        self._generation = 0

    @property
    def state(self) -> State:
        if self._open_until is None:
            return "closed"
        return "open" if self._clock.monotonic() < self._open_until else "half_open"

    def admit(self) -> int:
        """A ticket for one call; raises CircuitOpen. A probe that tells no end is given up after
        `open_for`."""
        if self._open_until is None:
            return self._generation
        now = self._clock.monotonic()
        until = max(self._open_until, self._probe_until or 0.0)
        if now < until:
            raise refusal(self.name, until - now)
        self._probe_until = now + self._open_s
        self._generation += 1
        return self._generation

    def succeeded(self, ticket: int) -> None:
        if ticket == self._generation:
            self._failures = 0
            self._open_until = self._probe_until = None

    def failed(self, ticket: int) -> None:
        if ticket != self._generation:
            return
        self._failures += 1
        if self._open_until is None and self._failures < self._breaking.failures:
            return
        self._failures = 0
        self._open_until = self._clock.monotonic() + self._open_s
        self._probe_until = None
        self._generation += 1

    def abandoned(self, ticket: int) -> None:
        """The call ended without saying anything of the dependency; another may probe."""
        if ticket == self._generation:
            self._probe_until = None


class CircuitBreaker(Protocol):
    """A breaker whose state may lie elsewhere. Tickets are the implementation's own."""

    async def admit(self) -> object:
        """A ticket for one call. Raises CircuitOpen; never another error: where the state cannot be asked
        for, the process' own counts."""
        ...

    async def succeeded(self, ticket: object) -> None: ...

    async def failed(self, ticket: object) -> None: ...

    async def abandoned(self, ticket: object) -> None: ...


class LocalBreaker:
    """See `CircuitBreaker`: the state of this process alone."""

    def __init__(self, breaker: Breaker) -> None:
        self.breaker = breaker

    async def admit(self) -> object:
        return self.breaker.admit()

    async def succeeded(self, ticket: object) -> None:
        self.breaker.succeeded(_number(ticket))

    async def failed(self, ticket: object) -> None:
        self.breaker.failed(_number(ticket))

    async def abandoned(self, ticket: object) -> None:
        self.breaker.abandoned(_number(ticket))


@asynccontextmanager
async def guarded(breaker: CircuitBreaker) -> AsyncIterator[None]:
    """One call under a breaker: `async with guarded(breaker): answer = await server.ask(...)`."""
    ticket = await breaker.admit()
    try:
        yield
    except BaseException as error:
        await (breaker.failed(ticket) if counts(error) else breaker.abandoned(ticket))
        raise
    await breaker.succeeded(ticket)


def refusal(name: str, wait_s: float) -> CircuitOpen:
    return CircuitOpen(
        f"{name} failed several times and is left alone for {wait_s:.1f} s more",
        where=f"breaker {name}",
        mend="try again then; the fallback answers meanwhile, where there is one",
        retry_after_s=wait_s,
    )


def _number(ticket: object) -> int:
    if not isinstance(ticket, int):
        raise DeclarationError(f"ticket {ticket!r} is of another breaker", mend="give the one of `admit`")
    return ticket
