"""How much work at once: a concurrency limit that follows the lateness of the event loop.

A request that is handled costs the loop some hundred microseconds in several turns; what is waiting for its
turn is the queue that makes latency grow. So the loop's lateness is measured, by a timer each `TICK_S` that
runs only while there is work. Where it was late twice in a row, the limit falls to what could have been done
in time; while it is in time and the limit is being used, the limit grows by a fiftieth with each tick
(additive increase, multiplicative decrease, as congestion control does it). A request above the limit is
refused at once with 503 and `Retry-After`, which costs next to nothing: those that are let in keep their
latency.

Requests that wait for somebody else's answer, or for the rest of their own body, hold no turn; each kind is
counted by itself, up to `most`.
"""

import asyncio
from contextlib import AbstractContextManager

from core.errors import QueueFull
from core.telemetry.metrics import counter, gauge

TICK_S = 0.05
FIRST, LEAST = 256, 32
_MOST_CUT, _GROWTH = 0.5, 0.02

_SHED = counter("gateway_shed_total", "Requests refused because the gateway had too much to do")
_LIMIT = gauge(
    "gateway_requests_limit", "Requests that are handled at once, as the event loop's lateness allows"
)


class Load:
    """The requests that are handled now. `limit` is of those that do not wait for others. Belongs to one
    event loop."""

    def __init__(self, *, most: int, late_s: float) -> None:
        self.limit = float(min(FIRST, most))
        self.open = 0
        self.waiting = 0
        self.reading = 0
        self._most = most
        self._late_s = late_s
        self._peak = 0
        self._was_late = False
        self._timer: asyncio.TimerHandle | None = None
        self._aside = _Aside(self, most)

    def enter(self, *, waits: bool = False) -> None:
        """A request begins; `leave` when it has ended. Raises QueueFull (`overloaded`)."""
        if (self.waiting >= self._most) if waits else (self.open >= self.limit):
            raise _overloaded()
        if waits:
            self.waiting += 1
        else:
            self.open += 1
            self._peak = max(self._peak, self.open)
        if self._timer is None:
            self._schedule(asyncio.get_running_loop())

    def leave(self, *, waits: bool = False) -> None:
        if waits:
            self.waiting -= 1
        else:
            self.open -= 1

    def aside(self) -> AbstractContextManager[None]:
        """A request that was entered waits for its body: a client that is slow with it keeps nobody out.
        Entering raises QueueFull (`overloaded`)."""
        return self._aside

    def observe(self, late_s: float) -> None:
        """The loop was so late at a tick."""
        late = late_s > self._late_s
        if late and self._was_late:
            in_time = min(self.limit, self._peak) * max(self._late_s / late_s, _MOST_CUT)
            self.limit = max(in_time, min(LEAST, self._most))
        elif not late and self._peak * 2 > self.limit:
            self.limit = min(self.limit * (1 + _GROWTH) + 1, self._most)
        self._was_late = late
        self._peak = self.open
        _LIMIT.set(self.limit)

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        due = loop.time() + TICK_S
        self._timer = loop.call_at(due, self._tick, loop, due)

    def _tick(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        self._timer = None
        self.observe(loop.time() - due)
        if self.open or self.waiting or self.reading:
            self._schedule(loop)


class _Aside(AbstractContextManager[None]):
    def __init__(self, load: Load, most: int) -> None:
        self._load = load
        self._most = most

    def __enter__(self) -> None:
        if self._load.reading >= self._most:
            raise _overloaded()
        self._load.reading += 1
        self._load.open -= 1

    def __exit__(self, *_: object) -> None:
        self._load.reading -= 1
        self._load.open += 1


def _overloaded() -> QueueFull:
    _SHED.inc()
    return QueueFull(
        "more requests at once than can be handled in time",
        code="overloaded",
        where="gateway",
        mend="send it again later, or elsewhere",
    )
