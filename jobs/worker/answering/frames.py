"""Frames: the pieces of a streamed answer, numbered, and gathered so that a token costs no message."""

import asyncio
from collections.abc import Callable

Send = Callable[[int, list[bytes]], None]
"""Takes the number of the first piece, and the pieces."""


class Frames:
    """The first piece goes out at once; what comes within `interval_s` after a frame goes with the next.

    Belongs to one event loop. Numbers begin at 0 and have no gaps; `flush` sends what waits.
    """

    def __init__(self, send: Send, *, interval_s: float) -> None:
        self._send = send
        self._interval_s = interval_s
        self._waiting: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None
        self.sent = 0

    async def add(self, piece: bytes) -> None:
        """See `operators.asking.Emit`."""
        self._waiting.append(piece)
        if self._timer is None:
            self._next()

    def flush(self) -> None:
        """Send what waits, and begin no further frame by itself."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._out()

    def _next(self) -> None:
        """A frame if anything waits; then quiet for an interval."""
        if not self._waiting:
            self._timer = None
            return
        self._out()
        self._timer = asyncio.get_running_loop().call_later(self._interval_s, self._next)

    def _out(self) -> None:
        if self._waiting:
            pieces, self._waiting = self._waiting, []
            number, self.sent = self.sent, self.sent + len(pieces)
            self._send(number, pieces)
