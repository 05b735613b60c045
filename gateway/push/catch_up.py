"""Catching up: what a resuming client missed and the ring no longer has, read from Kafka again.

One reader per partition serves everybody who is behind on it: it starts at the lowest position asked for,
gives each subscription what lies after its own, and ends where the ring goes on. It begins reading one
horizon before that position, unseen, so that the filter for repeats knows what was pushed just before.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from confluent_kafka import OFFSET_END, Consumer, KafkaException, TopicPartition

from core.errors import MillstreamError, Unavailable
from core.settings import Settings
from core.telemetry.log import logger
from gateway.push.hub import Channel, Hub, Subscription
from gateway.push.reader import fetched_of, horizon_s
from gateway.push.ring import Entry, FirstWins
from schemas.broker import consumer, watermarks

T = TypeVar("T")
_READ = 500
_POLL_S = 0.5
_TIMEOUT_S = 5.0
_STALLED_S = 15.0
_THREADS = 2
_log = logger("gateway.push.catch_up")


@dataclass(eq=False, slots=True)
class _Waiter:
    subscription: Subscription
    arrived: "asyncio.Future[None]"


class CatchUp:
    """Implements `Elsewhere` for a hub."""

    def __init__(self, settings: Settings, hub: Hub) -> None:
        self._settings = settings
        self._hub = hub
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="catch-up")
        self._waiting: dict[tuple[str, int], list[_Waiter]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._asking: Consumer | None = None

    async def bounds(self, channel: Channel, partition: int) -> tuple[int, int]:
        """The oldest offset that Kafka still has, and the one that its next message will have."""

        def ask() -> tuple[int, int]:
            if self._asking is None:
                self._asking = consumer(self._settings, None)
            where = TopicPartition(channel.feed.topic.name, partition)
            low, high = watermarks(self._asking, where, _TIMEOUT_S)
            return int(low), int(high)

        return await self._in_thread(ask)

    async def bring(self, channel: Channel, subscription: Subscription, partition: int) -> None:
        """Give what lies between the subscription's floor and the ring. Raises Unavailable."""
        place = (channel.feed.name, partition)
        waiter = _Waiter(subscription, asyncio.get_running_loop().create_future())
        waiters = self._waiting.setdefault(place, [])
        waiters.append(waiter)
        if len(waiters) == 1:
            task = asyncio.get_running_loop().create_task(self._serve(channel, partition, waiters))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        await waiter.arrived

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._asking is not None:
            self._threads.submit(self._asking.close)
        await asyncio.to_thread(self._threads.shutdown)

    async def _serve(self, channel: Channel, partition: int, waiters: list[_Waiter]) -> None:
        """Passes over the partition until nobody waits; who joins too far back waits for the next pass."""
        try:
            while waiters:
                await self._pass(channel, partition, waiters)
        except MillstreamError as error:
            _log.warning(
                "catching up failed", channel=channel.feed.name, partition=partition, reason=error.what
            )
            for waiter in waiters:
                if not waiter.arrived.done():
                    waiter.arrived.set_exception(error)
            waiters.clear()
        finally:
            self._waiting.pop((channel.feed.name, partition), None)

    async def _pass(self, channel: Channel, partition: int, waiters: list[_Waiter]) -> None:
        topic = channel.feed.topic.name
        begin = min(waiter.subscription.floor[partition] for waiter in waiters) + 1
        at_ms = min(waiter.subscription.at_ms.get(partition, 0) for waiter in waiters)
        since_ms = max(0, at_ms - int(horizon_s(self._settings) * 1000))

        def start() -> Consumer:
            client = consumer(self._settings, None)
            found = client.offsets_for_times(
                [TopicPartition(topic, partition, since_ms)], timeout=_TIMEOUT_S
            )[0]
            before = begin if found.offset in (OFFSET_END, -1) else min(begin, found.offset)
            client.assign([TopicPartition(topic, partition, before)])
            return client

        client = await self._in_thread(start)
        seen = FirstWins(Hub.remembered)
        moved = time.monotonic()
        try:
            while any(waiter.subscription.floor[partition] >= begin - 1 for waiter in waiters):
                entries, last = await self._in_thread(lambda: self._read(client, channel))
                if last is None:
                    if time.monotonic() - moved > _STALLED_S:
                        raise Unavailable("Kafka gives no more messages to catch up with")
                    self._release(waiters, channel, partition, seen)
                    continue
                moved = time.monotonic()
                fresh = [entry for entry in entries if seen.first(entry.key)]
                for waiter in list(waiters):
                    subscription = waiter.subscription
                    floor = subscription.floor[partition]
                    if floor < begin - 1 or last <= floor:
                        continue
                    subscription.floor[partition] = last
                    await self._give(channel, subscription, [e for e in fresh if e.offset > floor])
                self._release(waiters, channel, partition, seen)
        finally:
            self._threads.submit(client.close)

    async def _give(self, channel: Channel, subscription: Subscription, entries: Sequence[Entry]) -> None:
        """As fast as the client takes them; one that takes nothing is closed by its connection."""
        while entries:
            free = await subscription.receiver.room()
            if not free or not self._hub.give(channel, subscription, entries[:free]):
                return
            entries = entries[free:]

    def _release(self, waiters: list[_Waiter], channel: Channel, partition: int, seen: FirstWins) -> None:
        """Let go of those who left, and of those whom the ring can serve from here."""
        ring = channel.rings[partition]
        for waiter in list(waiters):
            subscription = waiter.subscription
            floor = subscription.floor[partition]
            if subscription.open and not ring.holds(floor):
                continue
            waiters.remove(waiter)
            subscription.seen[partition] = seen
            if not waiter.arrived.done():
                waiter.arrived.set_result(None)

    def _read(self, client: Consumer, channel: Channel) -> tuple[list[Entry], int | None]:
        """The next entries, and the last offset read; None when nothing came."""
        first = client.poll(_POLL_S)
        if first is None:
            return [], None
        messages = [m for m in (first, *client.consume(_READ - 1, timeout=0)) if m.error() is None]
        if not messages:
            return [], None
        fetched = [fetched_of(message) for message in messages]
        return channel.feed.entries(fetched), fetched[-1].offset

    async def _in_thread(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except KafkaException as error:
            raise Unavailable(f"Kafka: {error.args[0].str()}", code="kafka_unavailable") from error
