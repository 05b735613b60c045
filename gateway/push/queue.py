"""What waits for one connection: bounded, with a policy per subscription for a client that is too slow.

Of one partition, what is written is in the order of its offsets, whatever the policy leaves out, so that the
newest position written is always one to resume from.
"""

from collections import OrderedDict, deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from core.telemetry.metrics import counter
from gateway.push.frames import Dropped, encode, event_text
from gateway.wire.websocket import framed

if TYPE_CHECKING:
    from gateway.push.hub import Subscription

CONTROL = 64
"""Frames that answer the client's own, so many beyond the limit; who sends on without reading is closed."""
_LEFT_OUT = counter("gateway_frames_left_out_total", "Event frames that a policy left out", ["policy"])


@dataclass(eq=False, slots=True)
class Pushable:
    """One event, encoded once for everybody; `text` once per channel it is pushed on."""

    partition: int
    position: str
    key: str
    body: str = field(repr=False)
    _texts: dict[str, str] = field(default_factory=dict, repr=False)
    _messages: dict[str, bytes] = field(default_factory=dict, repr=False)

    @property
    def events(self) -> "tuple[Pushable, ...]":
        return (self,)

    def text(self, channel: str) -> str:
        found = self._texts.get(channel)
        if found is None:
            found = self._texts[channel] = event_text(channel, self.body)
        return found

    def messages(self, channel: str, *, batched: bool) -> bytes:
        """The event as a message of a WebSocket, whether or not messages may be of several frames."""
        found = self._messages.get(channel)
        if found is None:
            found = self._messages[channel] = framed(self.text(channel))
        return found


class Burst:
    """Events that came at once, for all who are given each of them; joined once per channel."""

    __slots__ = ("_messages", "_texts", "events")

    def __init__(self, events: tuple[Pushable, ...]) -> None:
        self.events = events
        self._texts: dict[str, str] = {}
        self._messages: dict[tuple[str, bool], bytes] = {}

    def text(self, channel: str) -> str:
        """The frames, with commas between them."""
        found = self._texts.get(channel)
        if found is None:
            found = self._texts[channel] = ",".join([event.text(channel) for event in self.events])
        return found

    def messages(self, channel: str, *, batched: bool) -> bytes:
        """The frames as messages of a WebSocket, one for each; `batched` as one, a JSON array."""
        found = self._messages.get((channel, batched))
        if found is None:
            if batched and len(self.events) > 1:
                found = framed(f"[{self.text(channel)}]")
            else:
                found = b"".join([event.messages(channel, batched=batched) for event in self.events])
            self._messages[channel, batched] = found
        return found


Given = Pushable | Burst
Item = str | tuple["Subscription", Given]


class FrameQueue:
    """Frames in the order in which they are written."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._items: OrderedDict[Hashable, Item] = OrderedDict()
        self._droppable: dict[Subscription, deque[int]] = {}
        self._serial = 0
        self._frames = 0

    def __len__(self) -> int:
        """How many frames wait."""
        return self._frames

    def tell(self, frame: str) -> bool:
        """Queue a frame that is no event; False when there are too many."""
        if self._frames >= self.limit + CONTROL:
            return False
        self._items[self._next()] = frame
        self._frames += 1
        return True

    def push(self, subscription: "Subscription", given: Given) -> bool:
        """Queue an event, or a burst as one; False when there is no room and the subscription's policy makes
        none."""
        if subscription.policy == "disconnect":
            count = len(given.events)
            if self._frames + count > self.limit:
                return False
            self._items[self._next()] = (subscription, given)
            self._frames += count
            return True
        return all(self._push_one(subscription, event) for event in given.events)

    def _push_one(self, subscription: "Subscription", event: Pushable) -> bool:
        policy = subscription.policy
        if policy == "coalesce_by_key":
            key = (subscription, event.key)
            if self._items.pop(key, None) is not None:
                _LEFT_OUT.labels(policy).inc()
            elif self._frames >= self.limit:
                return False
            else:
                self._frames += 1
            self._items[key] = (subscription, event)
            return True
        if self._frames < self.limit:
            serial = self._next()
            self._items[serial] = (subscription, event)
            self._frames += 1
            self._droppable.setdefault(subscription, deque()).append(serial)
            return True
        subscription.dropped += 1
        _LEFT_OUT.labels(policy).inc()
        waiting = self._droppable.get(subscription)
        if waiting:
            del self._items[waiting.popleft()]
            serial = self._next()
            self._items[serial] = (subscription, event)
            waiting.append(serial)
        return True

    def pop(self) -> Item | None:
        """The next frame to be written; None when nothing waits."""
        if not self._items:
            return None
        key, item = next(iter(self._items.items()))
        if not isinstance(item, str):
            subscription = item[0]
            if subscription.dropped:
                count, subscription.dropped = subscription.dropped, 0
                return encode(Dropped(subscription.label, count))
            waiting = self._droppable.get(subscription)
            if waiting:
                waiting.popleft()
                if not waiting:
                    del self._droppable[subscription]
        del self._items[key]
        self._frames -= 1 if isinstance(item, str) else len(item[1].events)
        return item

    def clear(self) -> None:
        self._items.clear()
        self._frames = 0
        self._droppable.clear()

    def _next(self) -> int:
        self._serial += 1
        return self._serial
