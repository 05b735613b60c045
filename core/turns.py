"""Work of an event loop in pieces, so that what comes meanwhile is looked at between them."""

import asyncio
from collections import deque
from collections.abc import Callable

MOST = 32
"""At most so many are begun in a turn of the loop. What began 64 requests at once held whatever came next up
for 6 ms, this for half of that; a turn more costs 2 us."""


class Turns:
    """Calls what it is given, `most` of it in one turn of the loop, in order. Belongs to the event loop."""

    def __init__(self, most: int = MOST) -> None:
        self._most = self._left = most
        self._waiting: deque[Callable[[], None]] = deque()
        self._due = False

    def call(self, work: Callable[[], None]) -> None:
        """Now, or in one of the next turns."""
        if self._left and not self._waiting:
            self._left -= 1
            if not self._due:
                self._due = True
                asyncio.get_running_loop().call_soon(self._turn)
            work()
        else:
            self._waiting.append(work)

    def _turn(self) -> None:
        waiting = self._waiting
        self._left = self._most
        self._due = bool(waiting)
        if self._due:
            asyncio.get_running_loop().call_soon(self._turn)
        while waiting and self._left:
            self._left -= 1
            waiting.popleft()()
