"""How much work at once: a fixed bound, and less where the event loop is late.

A request that is handled costs the loop some hundred microseconds in several turns; what is waiting for its
turn is the queue that makes latency grow. So the loop's lateness is measured (by a timer each `TICK_S`, which
runs only while there is work), and where it was late twice in a row a share of the requests is refused at
once with 503 and `Retry-After`: a tenth more with every late tick, a fiftieth less with every one in time, as
congestion control does it (additive increase, multiplicative decrease). The requests that are let in keep
their latency. Requests that wait for something else (an answer over Kafka) hold a place and make nobody late.
"""

import asyncio

from core.errors import QueueFull
from core.telemetry.metrics import counter, gauge

TICK_S = 0.05
_LESS, _MORE = 0.9, 0.02
_FLOOR = 0.05

_SHED = counter("gateway_shed_total", "Requests refused because the gateway had too much to do", ["why"])
_ADMITTED = gauge("gateway_admitted_share", "Share of requests that is let in while the event loop is late")


class Load:
    """The requests that are handled now, at most `most`. Belongs to one event loop."""

    def __init__(self, *, most: int, late_s: float) -> None:
        self.open = 0
        self.share = 1.0
        self._most = most
        self._late_s = late_s
        self._was_late = False
        self._owed = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def enter(self) -> None:
        """A request begins; `leave` when it has ended. Raises QueueFull (`overloaded`)."""
        if self.open >= self._most:
            _SHED.labels("full").inc()
            raise _overloaded(f"{self.open} requests are being handled")
        if self.share < 1.0:
            self._owed += 1.0 - self.share
            if self._owed >= 1.0:
                self._owed -= 1.0
                _SHED.labels("late").inc()
                raise _overloaded("more requests than can be handled in time")
        self.open += 1
        if self._timer is None:
            self._schedule(asyncio.get_running_loop())

    def leave(self) -> None:
        self.open -= 1

    def observe(self, late_s: float) -> None:
        """The loop was so late at a tick."""
        late = late_s > self._late_s
        if late and self._was_late:
            self.share = max(self.share * _LESS, _FLOOR)
        elif not late:
            self.share = min(self.share + _MORE, 1.0)
        self._was_late = late
        _ADMITTED.set(self.share)

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        due = loop.time() + TICK_S
        self._timer = loop.call_at(due, self._tick, loop, due)

    def _tick(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        self._timer = None
        self.observe(loop.time() - due)
        if self.open or self.share < 1.0:
            self._schedule(loop)


def _overloaded(what: str) -> QueueFull:
    return QueueFull(what, code="overloaded", where="gateway", mend="send it again later, or elsewhere")
