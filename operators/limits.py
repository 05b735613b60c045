"""Limiter: so many per second and so many at once, for each key.

The algorithm is GCRA (the generic cell rate algorithm of ITU-T I.371): a key has one number, the time at
which all that it has taken would be paid for at the rate. Taking moves that time on by cost / rate, and is
refused where it would come to lie more than burst / rate ahead of now. So within any t seconds a key takes at
most burst + rate * t, and after a refusal it is known when the same will be let through.
"""

import math
from collections import OrderedDict
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import Protocol

import msgspec

from core.clock import Clock
from core.errors import DeclarationError, TooLarge

#: Half a microsecond: below the resolution of every clock here, above the rounding of its sums.
GRAIN_S = 5e-7


@dataclass(frozen=True)
class Limit:
    """`rate` a second, `burst` at once after a rest."""

    rate: float
    burst: int

    def __post_init__(self) -> None:
        if not 0 < self.rate < float("inf") or self.burst < 1:
            raise DeclarationError(
                f"a limit of {self.rate} a second and {self.burst} at once",
                mend="give a positive rate and a burst of at least 1",
            )

    @cached_property
    def refills_in_s(self) -> float:
        """Seconds until the whole burst can be taken again."""
        return self.burst / self.rate

    def over_s(self, ahead_s: float, cost: int) -> float:
        """Seconds until `cost` can be taken by a key that is `ahead_s` ahead; not above GRAIN_S: now."""
        return ahead_s + cost / self.rate - self.refills_in_s

    def left(self, ahead_s: float) -> int:
        """How many a key that is `ahead_s` ahead can take at once."""
        return max(math.floor((self.refills_in_s - ahead_s + GRAIN_S) * self.rate), 0)

    def require(self, cost: int) -> None:
        """Raises TooLarge for what the limit could never let through."""
        if cost > self.burst:
            raise TooLarge(
                f"{cost} at once, the limit is {self.burst}",
                code="over_burst",
                mend=f"send at most {self.burst} at once, and {self.rate:g} a second",
            )


class Allowed(msgspec.Struct, frozen=True):
    """It was taken; `left` more can be taken at once."""

    left: int


class Refused(msgspec.Struct, frozen=True):
    """Nothing was taken; after `retry_after` the same is let through, if nobody else takes in between."""

    retry_after: timedelta


class Lease(msgspec.Struct, frozen=True):
    """`taken` were taken, to be spent later; the key is now `ahead_s` ahead."""

    taken: int
    ahead_s: float


class Limiter(Protocol):
    """One limit, counted for each key by itself. The tenant is part of the key (`schemas.keys.key_of`)."""

    async def take(self, key: str, cost: int = 1) -> Allowed | Refused:
        """Take all of `cost` (1 or more) or nothing. Raises TooLarge for a cost above the burst, and
        Unavailable while what counts is away."""
        ...


class LeasingLimiter(Limiter, Protocol):
    """A limiter from which several can be taken that are not yet needed."""

    async def lease(self, key: str, least: int, most: int) -> Lease | Refused:
        """Take as many as there are, `least` to `most`, or nothing. Raises as `take` does, for `least`."""
        ...


class InMemoryLimiter:
    """Counts in this process. Keeps at most `keys` keys; beyond them the one used longest ago is forgotten,
    and begins with a full burst when it comes again."""

    def __init__(self, limit: Limit, *, clock: Clock, keys: int = 100_000) -> None:
        self._limit = limit
        self._clock = clock
        self._most = keys
        self._paid_at: OrderedDict[str, float] = OrderedDict()

    async def take(self, key: str, cost: int = 1) -> Allowed | Refused:
        found = await self.lease(key, cost, cost)
        return Allowed(self._limit.left(found.ahead_s)) if isinstance(found, Lease) else found

    async def lease(self, key: str, least: int, most: int) -> Lease | Refused:
        limit = self._limit
        limit.require(least)
        now = self._clock.monotonic()
        ahead = max(self._paid_at.get(key, now) - now, 0.0)
        over = limit.over_s(ahead, least)
        if over > GRAIN_S:
            return Refused(timedelta(seconds=over))
        taken = max(min(limit.left(ahead), most), least)
        ahead += taken / limit.rate
        self._paid_at[key] = now + ahead
        self._paid_at.move_to_end(key)
        if len(self._paid_at) > self._most:
            self._paid_at.popitem(last=False)
        return Lease(taken, ahead)
