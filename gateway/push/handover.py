"""From the thread that reads to the event loop: what was read waits here until the loop has time.

What has come by then is given to the hub as one: to give to 200 sockets is nearly as much work for one event
as for ten, and a loop that is late would only get later.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from gateway.push.hub import Hub
from gateway.push.ring import Entry

_LOOK_S = 0.2


@dataclass(frozen=True)
class _Opened:
    channel: str
    epoch: int
    floors: Mapping[int, int]


@dataclass(frozen=True)
class _Read:
    channel: str
    entries: list[Entry]
    reached: dict[int, int]


class Handover:
    """Made in the event loop; `opened` and `read` are called in one thread, and the hub is told in that
    order. At most `ahead` reads wait."""

    def __init__(self, hub: Hub, *, ahead: int) -> None:
        self._hub = hub
        self._loop = asyncio.get_running_loop()
        self._room = threading.BoundedSemaphore(ahead)
        self._waiting: deque[_Opened | _Read] = deque()

    def opened(self, channel: str, epoch: int, floors: Mapping[int, int]) -> None:
        """See `Hub.open`."""
        self._put(_Opened(channel, epoch, floors))

    def read(
        self, channel: str, entries: list[Entry], reached: dict[int, int], *, unless: threading.Event
    ) -> bool:
        """See `Hub.ingest`; both collections are the hub's from here on. Waits for room; False when there was
        none before `unless` was set."""
        while not self._room.acquire(timeout=_LOOK_S):
            if unless.is_set():
                return False
        self._put(_Read(channel, entries, reached))
        return True

    def _put(self, one: _Opened | _Read) -> None:
        self._waiting.append(one)
        self._loop.call_soon_threadsafe(self._give)

    def _give(self) -> None:
        """Everything that waits; the later calls find nothing."""
        together: dict[str, _Read] = {}
        while self._waiting:
            one = self._waiting.popleft()
            if isinstance(one, _Opened):
                self._ingest(together)
                self._hub.open(one.channel, one.epoch, one.floors)
                continue
            self._room.release()
            held = together.setdefault(one.channel, one)
            if held is not one:
                held.entries.extend(one.entries)
                held.reached.update(one.reached)
        self._ingest(together)

    def _ingest(self, together: dict[str, _Read]) -> None:
        while together:
            _, one = together.popitem()
            self._hub.ingest(one.channel, one.entries, one.reached)
