"""Waiting for another process, without counting the time in which this one did not run."""

import asyncio
from types import TracebackType

_LATE_S = 0.05


class Patience:
    """`asyncio.timeout` for an answer of somebody else; use as an async context manager. Raises TimeoutError.

    An event loop that was held up (a long collection of garbage, a machine that is busy elsewhere) finds the
    timer and the answer at once, and the timer first. Where it comes more than 50 ms late, the answer has
    `timeout_s` once more.
    """

    __slots__ = ("_due", "_limit", "_loop", "_timeout_s", "_timer")

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s

    async def __aenter__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._limit = asyncio.timeout(None)
        await self._limit.__aenter__()
        self._due = self._loop.time() + self._timeout_s
        self._timer = self._loop.call_at(self._due, self._over)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        await self._limit.__aexit__(kind, error, trace)

    def _over(self) -> None:
        if self._loop.time() - self._due > _LATE_S:
            self._timer = self._loop.call_later(self._timeout_s, self._end)
        else:
            self._end()

    def _end(self) -> None:
        self._limit.reschedule(self._loop.time())
