"""A limit that many processes count together, spent from blocks that each of them leases.

Asking what counts costs a round trip. Here it is paid for a block: what is needed and, while a key goes on
being used, some more, twice as many each time up to a tenth of a second's worth (a tenth of the burst where
that is less). A block that is half spent is renewed in the background, so that few takings wait. A refusal is
remembered: until its time is over, nobody is asked again.

The count is exact in that nothing is spent that was not taken before. What a process holds unspent may be
spent up to `LASTS` after it was taken, so within any t seconds a key takes at most

    burst + rate * t + processes * block,    block = max(1, min(rate / 10, burst / 10)),

and where the block is 1, nothing is ever held. What is not spent within `LASTS` is lost to the key.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from core.clock import Clock
from core.errors import Unavailable
from operators.limits import GRAIN_S, Allowed, Lease, LeasingLimiter, Limit, Limiter, Refused

LASTS = timedelta(seconds=1)
_SHARE = 0.1


def block_of(limit: Limit) -> int:
    """The largest block that a process leases ahead of need."""
    return max(int(min(limit.rate, limit.burst) * _SHARE), 1)


@dataclass(slots=True)
class _Block:
    """What is held of one key. Times are the clock's monotonic seconds."""

    left: int = 0
    size: int = 1
    ends_at: float = 0.0
    paid_at: float = 0.0
    wanted: int = 0
    leasing: "asyncio.Task[None] | None" = None


class LeasedLimiter:
    """See `Limiter`; belongs to one event loop. While `shared` is away `alone` decides, for this process by
    itself, and `on_alone` is called.

    Keeps at most `keys` keys; what is held of the one used longest ago is given up beyond them.
    """

    def __init__(
        self,
        shared: LeasingLimiter,
        alone: Limiter,
        limit: Limit,
        *,
        clock: Clock,
        keys: int = 100_000,
        on_alone: Callable[[], None] = lambda: None,
    ) -> None:
        self.limit = limit
        self._on_alone = on_alone
        self._shared = shared
        self._alone = alone
        self._now = clock.monotonic
        self._most_keys = keys
        self._block_size = block_of(limit)
        self._lasts_s = LASTS.total_seconds()
        self._blocks: OrderedDict[str, _Block] = OrderedDict()

    async def take(self, key: str, cost: int = 1) -> Allowed | Refused:
        limit = self.limit
        if cost > limit.burst:
            limit.require(cost)
        block = self._block(key)
        while True:
            now = self._now()
            if now >= block.ends_at:
                block.left = 0
            ahead = block.paid_at - now if block.paid_at > now else 0.0
            if block.left >= cost:
                block.left -= cost
                left = limit.left(ahead)
                if block.left * 2 < block.size > 1 and left and block.leasing is None:
                    self._begin(key, block, 1)
                return Allowed(block.left + left)
            need = cost - block.left
            over = limit.over_s(ahead, need)
            if over > GRAIN_S:
                return Refused(timedelta(seconds=over))
            block.wanted += cost
            try:
                await asyncio.shield(block.leasing or self._begin(key, block, need))
            except Unavailable:
                self._on_alone()
                return await self._alone.take(key, cost)
            finally:
                block.wanted -= cost

    def _block(self, key: str) -> _Block:
        block = self._blocks.get(key)
        if block is None:
            block = self._blocks[key] = _Block()
            if len(self._blocks) > self._most_keys:
                self._blocks.popitem(last=False)
        else:
            self._blocks.move_to_end(key)
        return block

    def _begin(self, key: str, block: _Block, least: int) -> "asyncio.Task[None]":
        block.leasing = asyncio.get_running_loop().create_task(self._lease(key, block, least))
        block.leasing.add_done_callback(_looked_at)
        return block.leasing

    async def _lease(self, key: str, block: _Block, least: int) -> None:
        spent_in_time = self._now() < block.ends_at
        block.size = min(block.size * 2, self._block_size) if spent_in_time else 1
        most = min(max(least, block.wanted - block.left, block.size - block.left), self.limit.burst)
        try:
            found = await self._shared.lease(key, least, most)
        finally:
            block.leasing = None
        now = self._now()
        if isinstance(found, Lease):
            block.left = found.taken + (block.left if now < block.ends_at else 0)
            block.ends_at = now + self._lasts_s
            block.paid_at = now + found.ahead_s
        else:
            # over = ahead + least / rate - refill, solved for ahead
            block.paid_at = now + found.retry_after.total_seconds() - self.limit.over_s(0.0, least)


def _looked_at(task: "asyncio.Task[None]") -> None:
    """A block that nobody waits for may fail unseen; the next taking asks again."""
    if not task.cancelled():
        task.exception()
