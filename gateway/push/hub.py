"""The hub: who listens to what, what was pushed lately, and the way back for those who were away.

Lives in the event loop and is used from nowhere else; every method without `async` is atomic. Entries come
in batches, in offset order per partition. A subscription is *live* on a partition, and is given what comes,
or *behind*, and is brought along from the ring, or by the shared catch-up reader where the ring does not
reach back; it goes live in the same step in which nothing is left to give.

Promise: per partition, every first message of an outcome after the position resumed from, in order, once.
The filter for repeats reaches back over the newest outcomes only (see `Hub.remembered`); beyond that a
repeat may show.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from core.clock import Clock
from core.errors import InvalidInput, MillstreamError, Unavailable, UnknownName
from core.telemetry.log import logger
from core.telemetry.metrics import counter, gauge
from gateway.push.feed import Feed
from gateway.push.frames import OVERLOADED, EventBody, Gap, Policy, Subscribed, encode, encode_body
from gateway.push.positions import Position, Signer
from gateway.push.queue import Burst, Given, Pushable
from gateway.push.ring import Entry, FirstWins, Ring
from gateway.push.selection import EVERYTHING, Selection
from schemas.record import Record

_SCANNED = 1024
_BURST = 64
_log = logger("gateway.push.hub")
_PUSHED = counter("gateway_frames_pushed_total", "Events encoded for subscribers", ["channel"])
_REPEATS = counter("gateway_repeats_dropped_total", "Messages whose outcome was pushed before", ["channel"])
_SUBSCRIPTIONS = gauge("gateway_subscriptions", "Open subscriptions")


class Receiver(Protocol):
    """The connection behind a subscription."""

    def tell(self, frame: str) -> bool:
        """Give a frame after what is queued; False when the connection is closed or was closed for being too
        slow."""
        ...

    def push(self, subscription: "Subscription", given: Given) -> bool:
        """Queue an event of a subscription, or several at once, as its policy has it; False as `tell`."""
        ...

    def flush(self) -> None:
        """Nothing more is pushed for now: give the client what it takes at once."""
        ...

    async def room(self) -> int:
        """Wait until half the queue is free, and say how many fit in; 0 when the connection is closed."""
        ...

    def close(self, code: int, reason: str) -> None:
        """End the connection; the client may come back with its positions."""
        ...


@dataclass(eq=False, slots=True)
class Subscription:
    """One connection's interest in a channel. `label` is what its frames call the channel, `floor` the last
    offset dealt with, per partition, `dropped` how many events its policy left out untold."""

    receiver: Receiver
    tenant: str
    label: str
    selection: Selection = EVERYTHING
    policy: Policy = "disconnect"
    dropped: int = 0
    floor: dict[int, int] = field(default_factory=dict)
    at_ms: dict[int, int] = field(default_factory=dict)
    behind: set[int] = field(default_factory=set)
    seen: dict[int, FirstWins] = field(default_factory=dict)
    open: bool = True
    tasks: set["asyncio.Task[None]"] = field(default_factory=set)

    def wants(self, entry: Entry, feed: Feed) -> bool:
        return entry.tenant in (self.tenant, feed.everyone) and self.selection.takes(entry, feed)

    def takes_all(self, firsts: Mapping[int, int]) -> bool:
        """Whether it is given everything of its tenant that begins at these offsets, by partition, whatever
        it is."""
        if self.selection is not EVERYTHING or self.policy != "disconnect":
            return False
        for place, offset in firsts.items():
            if self.floor[place] >= offset or place in self.behind:
                return False
        return True


@dataclass(frozen=True)
class Pushed:
    """A status that was pushed here. `record` decodes it."""

    feed: Feed
    entry: Entry

    @property
    def rank(self) -> int:
        return self.entry.rank

    def record(self) -> Record:
        return self.feed.record(self.entry)


class Elsewhere(Protocol):
    """Brings a subscription along where the ring does not reach back to."""

    async def bring(self, channel: "Channel", subscription: Subscription, partition: int) -> None:
        """Give everything after the floor up to where the ring holds the rest. Raises Unavailable."""
        ...

    async def bounds(self, channel: "Channel", partition: int) -> tuple[int, int]:
        """The oldest offset that Kafka still has, and the one that its next message will have. Raises
        Unavailable."""
        ...


class Channel:
    """One feed, its recent entries and its subscribers."""

    def __init__(self, feed: Feed) -> None:
        self.feed = feed
        self.epoch = 0
        self.rings: dict[int, Ring] = {}
        self.first = FirstWins(1)
        self.subscribers: dict[str, set[Subscription]] = {}

    @property
    def ready(self) -> bool:
        return bool(self.rings)


class Hub:
    """All channels of one gateway."""

    remembered = 200_000

    def __init__(self, feeds: Iterable[Feed], signer: Signer, *, ring: int, clock: Clock) -> None:
        self._channels = {feed.name: Channel(feed) for feed in feeds}
        self._signer = signer
        self._ring = ring
        self._clock = clock
        self._pushed: OrderedDict[tuple[str, str], tuple[Feed, Entry]] = OrderedDict()
        self._count = 0
        self.elsewhere: Elsewhere | None = None

    @property
    def ready(self) -> bool:
        """Whether every channel that is needed knows where it stands."""
        return all(channel.ready for channel in self._channels.values() if channel.feed.needed)

    @property
    def channels(self) -> Mapping[str, Channel]:
        return self._channels

    def open(self, name: str, epoch: int, floors: Mapping[int, int]) -> None:
        """A channel is read from here on: the first offset of each partition. Forgets what it held. Whoever
        follows it already goes on where nothing lies between; else is closed, to come back."""
        channel = self._channels[name]
        before, channel.epoch = channel.epoch, epoch
        limit = max(16, self._ring // len(floors))
        channel.rings = {partition: Ring(limit, floor=floor) for partition, floor in floors.items()}
        channel.first = FirstWins(self.remembered)
        for subscription in [one for of_tenant in channel.subscribers.values() for one in of_tenant]:
            if before != epoch or not _goes_on(channel, subscription):
                subscription.receiver.close(
                    OVERLOADED, "the channel is read anew; resume from the last position"
                )

    def ingest(self, name: str, entries: Sequence[Entry], reached: Mapping[int, int]) -> None:
        """What one read brought: entries, and the last offset of each partition, unreadable ones too."""
        channel = self._channels[name]
        fresh: list[Entry] = []
        for entry in entries:
            if not channel.first.first(entry.key):
                _REPEATS.labels(name).inc()
                continue
            channel.rings[entry.partition].append(entry)
            if channel.feed.kind == "results":
                self._remember(channel.feed, entry)
            if entry.tenant in channel.subscribers or entry.tenant == channel.feed.everyone:
                fresh.append(entry)
        for partition, offset in reached.items():
            ring = channel.rings[partition]
            ring.reached = max(ring.reached, offset)
        if fresh:
            self._dispatch(channel, fresh)
        for entry in entries:
            entry.record = None

    def pushed(self, tenant: str, id: str) -> Pushed | None:
        """The highest status of a transaction that came by here, while it is remembered."""
        held = self._pushed.get((tenant, id))
        return None if held is None else Pushed(*held)

    async def subscribe(
        self,
        receiver: Receiver,
        tenant: str,
        name: str,
        *,
        label: str | None = None,
        selection: Selection = EVERYTHING,
        policy: Policy = "disconnect",
        since: Sequence[str] | None = None,
    ) -> Subscription:
        """Start giving a channel to a receiver; queues the `subscribed` frame first.

        Raises UnknownName for a channel that is not there, Unavailable while it is not being read yet.
        """
        channel = self.channel(name)
        if not channel.ready:
            raise Unavailable("the channel is not being read yet", code="channel_starting", where=name)
        gaps: list[Gap] = []
        subscription = Subscription(receiver, tenant, label or name, selection, policy)
        if since:
            await self._place(channel, subscription, since, gaps)
        for partition, ring in channel.rings.items():
            subscription.floor.setdefault(partition, ring.reached)
            if subscription.floor[partition] < ring.reached:
                subscription.behind.add(partition)
        channel.subscribers.setdefault(tenant, set()).add(subscription)
        self._count += 1
        _SUBSCRIPTIONS.set(self._count)
        positions = {str(place.partition): token for place, token in self.places(name, subscription)}
        receiver.tell(encode(Subscribed(subscription.label, not gaps, positions, gaps)))
        for partition in subscription.behind:
            task = asyncio.get_running_loop().create_task(self._bring_along(channel, subscription, partition))
            subscription.tasks.add(task)
            task.add_done_callback(subscription.tasks.discard)
        return subscription

    def channel(self, name: str) -> Channel:
        """The channel of that name. Raises UnknownName."""
        channel = self._channels.get(name)
        if channel is None:
            raise UnknownName("channel", name[:100], self._channels)
        return channel

    def position(self, token: str, tenant: str, name: str) -> Position:
        """What a token of a channel says. Raises InvalidInput for what was not given to this tenant."""
        position = self._signer.read(token, tenant, name)
        if position.epoch != self.channel(name).epoch:
            raise InvalidInput("a position of a topic that was made anew", code="invalid_position")
        return position

    def places(self, name: str, subscription: Subscription) -> list[tuple[Position, str]]:
        """Where a subscription stands in each partition, and the token of that."""
        channel, now_ms = self._channels[name], self._now_ms()
        places = [
            Position(channel.epoch, partition, offset, subscription.at_ms.get(partition, now_ms))
            for partition, offset in sorted(subscription.floor.items())
        ]
        return [(place, self._signer.sign(place, subscription.tenant, name)) for place in places]

    def unsubscribe(self, name: str, subscription: Subscription) -> None:
        """Stop giving; harmless when repeated."""
        if not subscription.open:
            return
        subscription.open = False
        for task in list(subscription.tasks):
            task.cancel()
        subscribers = self._channels[name].subscribers
        of_tenant = subscribers.get(subscription.tenant, set())
        of_tenant.discard(subscription)
        if not of_tenant:
            subscribers.pop(subscription.tenant, None)
        self._count -= 1
        _SUBSCRIPTIONS.set(self._count)

    def give(self, channel: Channel, subscription: Subscription, entries: Sequence[Entry]) -> bool:
        """Give the entries that the subscription wants; False when it is closed."""
        now = self._clock.now()
        for entry in entries:
            if not subscription.open:
                return False
            if subscription.wants(entry, channel.feed):
                event = self._event(channel, entry, subscription.tenant, now)
                if not subscription.receiver.push(subscription, event):
                    return False
        subscription.receiver.flush()
        return True

    async def _place(
        self, channel: Channel, subscription: Subscription, since: Sequence[str], gaps: list[Gap]
    ) -> None:
        """Set the floors from tokens; what cannot be given any more goes to `gaps`."""
        name = channel.feed.name
        positions: dict[int, Position] = {}
        for token in since:
            try:
                position = self._signer.read(token, subscription.tenant, name)
            except InvalidInput:
                gaps.append(Gap("a position that is not of this channel"))
                continue
            if position.epoch != channel.epoch or position.partition not in channel.rings:
                gaps.append(Gap("the topic was made anew", partition=position.partition))
                continue
            held = positions.get(position.partition)
            if held is None or held.offset < position.offset:
                positions[position.partition] = position
        for partition, ring in channel.rings.items():
            found = positions.get(partition)
            if found is None:
                if not gaps:
                    gaps.append(Gap("no position of this partition", partition=partition))
                continue
            subscription.floor[partition] = found.offset
            subscription.at_ms[partition] = found.at_ms
            here = ring.holds(found.offset) and found.offset <= ring.reached
            if not here and self.elsewhere is not None:  # another gateway may have read further than we have
                low, end = await self.elsewhere.bounds(channel, partition)
                if found.offset + 1 < low:
                    gaps.append(Gap("older than the retention", partition, found.offset + 1, low - 1))
                    subscription.floor[partition] = low - 1
                elif found.offset >= end:
                    gaps.append(Gap("beyond the end of the topic", partition))
                    subscription.floor[partition] = end - 1

    async def _bring_along(self, channel: Channel, subscription: Subscription, partition: int) -> None:
        """Give what is missing until the subscription is live on the partition; where that cannot be, the
        connection is closed, to be resumed."""
        try:
            await self._bring(channel, subscription, partition)
        except MillstreamError as error:
            _log.warning("a client could not be brought along", channel=channel.feed.name, reason=error.what)
            subscription.receiver.close(OVERLOADED, "what was missed cannot be read now; resume later")

    async def _bring(self, channel: Channel, subscription: Subscription, partition: int) -> None:
        while subscription.open:
            ring = channel.rings[partition]
            if not ring.holds(subscription.floor[partition]):
                if self.elsewhere is None:
                    return
                await self.elsewhere.bring(channel, subscription, partition)
                continue
            free = await subscription.receiver.room()
            if not free:
                return
            ring = channel.rings[partition]
            if not ring.holds(subscription.floor[partition]):
                continue  # it moved on meanwhile
            entries = ring.after(subscription.floor[partition])[: min(_SCANNED, free)]
            if not entries:
                subscription.floor[partition] = max(subscription.floor[partition], ring.reached)
                subscription.behind.discard(partition)
                subscription.seen.pop(partition, None)
                return
            subscription.floor[partition] = entries[-1].offset
            seen = subscription.seen.get(partition)
            fresh = entries if seen is None else [entry for entry in entries if seen.first(entry.key)]
            if not self.give(channel, subscription, fresh):
                return

    def _dispatch(self, channel: Channel, entries: Sequence[Entry]) -> None:
        """Give live subscribers what just came; each event is encoded once for all of a tenant's."""
        now, feed = self._clock.now(), channel.feed
        by_tenant: dict[str, list[Entry]] = {}
        for entry in entries:
            tenants = tuple(channel.subscribers) if entry.tenant == feed.everyone else (entry.tenant,)
            for tenant in tenants:
                by_tenant.setdefault(tenant, []).append(entry)
        for tenant, theirs in by_tenant.items():
            for start in range(0, len(theirs), _BURST):
                self._give_live(channel, tenant, theirs[start : start + _BURST], now)

    def _give_live(self, channel: Channel, tenant: str, entries: Sequence[Entry], now: datetime) -> None:
        """Those who want everything are given it at once: with 200 of them it is the number of subscribers
        that costs, and not that of events times subscribers."""
        made: dict[int, Pushable] = {}

        def event(index: int) -> Pushable:
            found = made.get(index)
            if found is None:
                found = made[index] = self._event(channel, entries[index], tenant, now)
            return found

        firsts = {entry.partition: entry.offset for entry in reversed(entries)}
        lasts = {entry.partition: entry.offset for entry in entries}
        burst: Given | None = None
        for subscription in tuple(channel.subscribers.get(tenant, ())):
            if not subscription.open:
                continue
            if subscription.takes_all(firsts):
                if burst is None:
                    burst = Burst(tuple(event(index) for index in range(len(entries))))
                subscription.floor.update(lasts)
                subscription.receiver.push(subscription, burst)
                subscription.receiver.flush()
                continue
            for index, entry in enumerate(entries):
                if (
                    subscription.open
                    and entry.partition not in subscription.behind
                    and entry.offset > subscription.floor[entry.partition]
                    and subscription.wants(entry, channel.feed)
                ):
                    subscription.floor[entry.partition] = entry.offset
                    subscription.receiver.push(subscription, event(index))
            subscription.receiver.flush()

    def _event(self, channel: Channel, entry: Entry, tenant: str, now: datetime) -> Pushable:
        place = Position(channel.epoch, entry.partition, entry.offset, entry.at_ms)
        token = self._signer.sign(place, tenant, channel.feed.name)
        record = channel.feed.record(entry)
        body = encode_body(EventBody(entry.id, {str(entry.partition): token}, now, record))
        _PUSHED.labels(channel.feed.name).inc()
        return Pushable(entry.partition, token, entry.entity, body)

    def _now_ms(self) -> int:
        return int(self._clock.now().timestamp() * 1000)

    def _remember(self, feed: Feed, entry: Entry) -> None:
        held = self._pushed.get((entry.tenant, entry.id))
        if held is not None and held[1].rank >= entry.rank:
            return
        self._pushed[entry.tenant, entry.id] = (feed, entry)
        self._pushed.move_to_end((entry.tenant, entry.id))
        while len(self._pushed) > self._ring:
            self._pushed.popitem(last=False)


def _goes_on(channel: Channel, subscription: Subscription) -> bool:
    """Whether all that the subscription has not got yet is in the rings, or being brought along."""
    return all(
        partition in subscription.behind or subscription.floor.get(partition, -2) >= ring.reached
        for partition, ring in channel.rings.items()
    )
