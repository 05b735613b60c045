"""Waiters: who in this gateway awaits which reply.

A waiter is registered before its request is produced, so that no reply can come before it. A correlation id
is made of the gateway's epoch and a number; a reply to an id that nobody waits for (answered already, left,
or of a gateway that had this partition before) is counted and forgotten.
"""

import asyncio
import itertools
from collections import deque
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

    __slots__ = ("_come", "_waiters", "_wakes", "correlation_id")

    def __init__(self, waiters: "Waiters", correlation_id: str) -> None:
        self.correlation_id = correlation_id
        self._waiters = waiters
        self._come: deque[Reply | MillstreamError] = deque()
        self._wakes: asyncio.Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    async def next(self, until: float) -> Reply:
        """The next reply; raises what `sent` was told, and TimeoutError where nothing came until then, in
        the loop's time."""
        if not self._come:
            loop = asyncio.get_running_loop()
            wakes = self._wakes = loop.create_future()
            timer = loop.call_at(until, self._wake)
            try:
                await wakes
            finally:
                timer.cancel()
            if not self._come:
                raise TimeoutError
        came = self._come.popleft()
        if isinstance(came, MillstreamError):
            raise came
        return came

    def sent(self, error: MillstreamError | None) -> None:
        """What became of the request: where there is an error nothing will come."""
        if error is not None:
            self._take(error)

    def leave(self) -> None:
        self._waiters._leave(self)

    def _take(self, came: Reply | MillstreamError) -> None:
        self._come.append(came)
        self._wake()

    def _wake(self) -> None:
        if self._wakes is not None and not self._wakes.done():
            self._wakes.set_result(None)


class Waiters:
    """Belongs to the event loop."""

    def __init__(self, *, most: int) -> None:
        self.epoch = new_id().replace("-", "")
        self._most = most
        self._numbers = itertools.count()
        self._waiting: dict[str, Waiter] = {}
        _WAITING.set_function(self.__len__)

    def __len__(self) -> int:
        return len(self._waiting)

    def join(self) -> Waiter:
        """A new waiter. Raises QueueFull when as many wait as may."""
        if len(self._waiting) >= self._most:
            raise QueueFull(
                f"{len(self._waiting)} requests await their answers here", mend="ask again in a moment"
            )
        waiter = Waiter(self, f"{self.epoch}-{next(self._numbers)}")
        self._waiting[waiter.correlation_id] = waiter
        return waiter

    def deliver(self, replies: Sequence[tuple[str, Reply]]) -> None:
        """Hand over what one poll brought: (correlation id, reply)."""
        for correlation_id, reply in replies:
            waiter = self._waiting.get(correlation_id)
            if waiter is None:
                _UNKNOWN.inc()
            else:
                waiter._take(reply)

    def _leave(self, waiter: Waiter) -> None:
        self._waiting.pop(waiter.correlation_id, None)
