"""Work for a client that waits for it: when the client leaves it ends."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from gateway.exchange import Request

T = TypeVar("T")
LOOK_S = 0.1
"""Who leaves earlier is missed then: most are answered before, and to watch each took 13 us of a request."""


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T | None:
    """What it comes to; None where the client left before, and the work with it."""
    watch = _Watch(request)
    try:
        return await work
    except asyncio.CancelledError:
        if watch.ended_it():
            return None
        raise
    finally:
        watch.end()


class _Watch:
    """Cancels the task that made it once the client has left, until `end`."""

    __slots__ = ("_gone", "_left", "_request", "_task", "_timer")

    def __init__(self, request: Request) -> None:
        loop = asyncio.get_running_loop()
        self._request = request
        self._task = asyncio.current_task(loop)
        self._gone: asyncio.Task[None] | None = None
        self._left = False
        self._timer = loop.call_later(LOOK_S, self._look)

    def ended_it(self) -> bool:
        """Whether the work was cancelled for this, and for nothing else."""
        return self._left and self._task is not None and self._task.uncancel() == 0

    def end(self) -> None:
        self._timer.cancel()
        if self._gone is not None:
            self._gone.cancel()

    def _look(self) -> None:
        self._gone = asyncio.ensure_future(self._wait())

    async def _wait(self) -> None:
        await self._request.gone()
        self._left = True
        if self._task is not None:
            self._task.cancel()
