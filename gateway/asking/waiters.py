"""Waiters: who in this gateway awaits which reply.

A waiter is registered before its request is produced, so that no reply can come before it. A correlation id
is made of the gateway's epoch and a number; a reply to an id that nobody waits for (answered already, left,
or of a gateway that had this partition before) is counted and forgotten.
"""

import asyncio
import itertools
from collections.abc import Sequence
from typing import Self

from core.errors import MillstreamError, QueueFull
from core.ids import new_id
from core.telemetry.metrics import counter, gauge
from schemas.catalog.asking import Reply

_WAITING = gauge("gateway_asks_waiting", "Requests that await their reply")
_UNKNOWN = counter("gateway_replies_unknown_total", "Replies that nobody waited for")


class Waiter:
    """One who waits; leave by `with`. Replies come in the order in which they were sent."""

    def __init__(self, waiters: "Waiters", correlation_id: str) -> None:
        self.correlation_id = correlation_id
        self._waiters = waiters
        self._come: asyncio.Queue[Reply | MillstreamError] = asyncio.Queue()
        self._failure: MillstreamError | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    async def next(self) -> Reply:
        """The next reply; raises what `fail` was given."""
        came = await self._come.get()
        if isinstance(came, MillstreamError):
            raise came
        return came

    def fail(self, error: MillstreamError) -> None:
        """Nothing will come: the request could not be sent."""
        self._failure = error
        self._come.put_nowait(error)

    def require(self) -> None:
        """Raises what `fail` was given."""
        if self._failure is not None:
            raise self._failure

    def leave(self) -> None:
        self._waiters._leave(self)


class Waiters:
    """Belongs to the event loop."""

    def __init__(self, *, most: int) -> None:
        self.epoch = new_id().replace("-", "")
        self._most = most
        self._numbers = itertools.count()
        self._waiting: dict[str, Waiter] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def join(self) -> Waiter:
        """A new waiter. Raises QueueFull when as many wait as may."""
        if len(self._waiting) >= self._most:
            raise QueueFull(
                f"{len(self._waiting)} requests await their answers here", mend="ask again in a moment"
            )
        waiter = Waiter(self, self.name())
        self._waiting[waiter.correlation_id] = waiter
        _WAITING.set(len(self._waiting))
        return waiter

    def name(self) -> str:
        """A new correlation id."""
        return f"{self.epoch}-{next(self._numbers)}"

    def deliver(self, replies: Sequence[tuple[str, Reply]]) -> None:
        """Hand over what one poll brought: (correlation id, reply)."""
        for correlation_id, reply in replies:
            waiter = self._waiting.get(correlation_id)
            if waiter is None:
                _UNKNOWN.inc()
            else:
                waiter._come.put_nowait(reply)

    def _leave(self, waiter: Waiter) -> None:
        self._waiting.pop(waiter.correlation_id, None)
        _WAITING.set(len(self._waiting))
