"""Push and resume, against an independent record of what should arrive: each first outcome once, in order."""

import asyncio
import gc
from random import Random
from typing import Any

import pytest

import gateway.push.hub
from core.clock import ManualClock
from core.errors import Unavailable, UnknownName
from gateway.push.feed import Feed
from gateway.push.hub import Channel, Hub, Subscription
from gateway.push.positions import Position, Signer
from gateway.push.ring import Entry, FirstWins, Ring
from gateway.push.selection import Asked, selection_of
from schemas.catalog.decisions import StatusChange
from schemas.topic import Topic
from tests.gateway.samples import NOW, STATUS_CODEC, Listener, position_of, status_entries

CHANNEL = "results:fraud"
TOPIC = Topic("fraud.transactions.status.v1", StatusChange)


def a_hub(*, ring: int = 1000, partitions: int = 1, first_offset: int = 0, epoch: int = 7) -> Hub:
    hub = Hub(
        [Feed("results", "fraud", TOPIC, STATUS_CODEC)], Signer(b"s" * 32), ring=ring, clock=ManualClock(NOW)
    )
    hub.open(CHANNEL, epoch, dict.fromkeys(range(partitions), first_offset))
    return hub


def feed(hub: Hub, entries: list[Entry]) -> None:
    reached: dict[int, int] = {}
    for entry in entries:
        reached[entry.partition] = entry.offset
    hub.ingest(CHANNEL, entries, reached)


async def settle(subscription: Subscription) -> None:
    while subscription.tasks:
        await asyncio.gather(*subscription.tasks)


def ids(listener: Listener) -> list[tuple[str, int]]:
    return [(event["data"]["id"], event["data"]["rank"]) for event in listener.events]


class FromRecord:
    """Elsewhere, in memory: everything that was ever on the topic."""

    def __init__(self, hub: Hub, record: list[Entry], low: int = 0) -> None:
        self.hub, self.record, self.oldest = hub, record, low

    async def bounds(self, channel: Channel, partition: int) -> tuple[int, int]:
        there = [entry.offset for entry in self.record if entry.partition == partition]
        return self.oldest, max(there, default=-1) + 1

    async def bring(self, channel: Channel, subscription: Subscription, partition: int) -> None:
        seen = FirstWins(1000)
        for entry in list(self.record):
            if entry.partition != partition or entry.offset < self.oldest:
                continue
            fresh = seen.first(entry.key)
            if entry.offset <= subscription.floor[partition]:
                continue
            subscription.floor[partition] = entry.offset
            if fresh and await subscription.receiver.room():
                self.hub.give(channel, subscription, [entry])
            if channel.rings[partition].holds(entry.offset):
                break
        subscription.seen[partition] = seen


async def test_a_subscriber_gets_its_tenants_first_outcomes_from_now_on() -> None:
    hub, listener = a_hub(), Listener()
    feed(hub, status_entries([("acme", "before", 1)]))
    await hub.subscribe(listener, "acme", CHANNEL)
    feed(
        hub,
        status_entries(
            [("acme", "a", 1), ("other", "x", 1), ("acme", "a", 1), ("acme", "a", 2), ("acme", "before", 1)],
            first_offset=1,
        ),
    )
    assert ids(listener) == [("a", 1), ("a", 2)]
    first = listener.frames[0]
    assert (first["type"], first["recovered"], first["gaps"]) == ("subscribed", True, [])
    assert position_of(listener.events[0])[0] == 0
    assert listener.events[0]["pushed_at"] == "2026-01-01T12:00:00Z"


async def test_resuming_from_a_position_gives_what_came_after_it_once() -> None:
    hub, first, second = a_hub(), Listener(), Listener()
    one = await hub.subscribe(first, "acme", CHANNEL)
    feed(hub, status_entries([("acme", f"t{i}", 1) for i in range(5)]))
    hub.unsubscribe(CHANNEL, one)
    feed(hub, status_entries([("acme", f"t{i}", 1) for i in range(3, 9)], first_offset=5))
    two = await hub.subscribe(second, "acme", CHANNEL, since=[position_of(first.events[2])[1]])
    await settle(two)
    assert ids(second) == [(f"t{i}", 1) for i in range(3, 9)]
    assert second.frames[0]["recovered"] is True


async def test_the_positions_of_subscribed_resume_where_nothing_had_come_yet() -> None:
    hub, first, second = a_hub(partitions=2), Listener(), Listener()
    one = await hub.subscribe(first, "acme", CHANNEL)
    hub.unsubscribe(CHANNEL, one)
    feed(hub, status_entries([("acme", "missed", 1)], partition=1))
    two = await hub.subscribe(second, "acme", CHANNEL, since=list(first.frames[0]["positions"].values()))
    await settle(two)
    assert ids(second) == [("missed", 1)]
    assert second.frames[0]["recovered"] is True


@pytest.mark.parametrize("token", ["", "garbage", "A" * 58])
async def test_a_garbage_position_is_told_and_goes_on_from_now(token: str) -> None:
    hub, listener = a_hub(), Listener()
    feed(hub, status_entries([("acme", "old", 1)]))
    await hub.subscribe(listener, "acme", CHANNEL, since=[token])
    feed(hub, status_entries([("acme", "new", 1)], first_offset=1))
    assert listener.frames[0]["recovered"] is False
    assert listener.frames[0]["gaps"]
    assert ids(listener) == [("new", 1)]


async def test_a_position_of_another_tenant_or_topic_incarnation_recovers_nothing() -> None:
    hub, first = a_hub(), Listener()
    await hub.subscribe(first, "acme", CHANNEL)
    feed(hub, status_entries([("acme", "a", 1), ("acme", "b", 1)]))
    token = position_of(first.events[0])[1]
    spy, later = Listener(), Listener()
    await hub.subscribe(spy, "other", CHANNEL, since=[token])
    assert (spy.frames[0]["recovered"], spy.events) == (False, [])
    hub.open(CHANNEL, 8, {0: 0})
    await hub.subscribe(later, "acme", CHANNEL, since=[token])
    assert later.frames[0]["recovered"] is False
    assert later.frames[0]["gaps"][0]["partition"] == 0


async def test_a_position_that_another_gateway_is_ahead_with_waits_for_what_comes_after_it() -> None:
    ahead, behind = a_hub(), a_hub()
    record = status_entries([("acme", f"t{i}", 1) for i in range(5)])
    behind.elsewhere = FromRecord(behind, record)
    first, second = Listener(), Listener()
    await ahead.subscribe(first, "acme", CHANNEL)
    feed(ahead, record[:3])
    await behind.subscribe(second, "acme", CHANNEL, since=[position_of(first.events[2])[1]])
    feed(behind, record)
    assert second.frames[0]["recovered"] is True
    assert ids(second) == [("t3", 1), ("t4", 1)]


async def test_a_position_beyond_the_end_of_the_topic_is_told_and_goes_on_from_there() -> None:
    hub, listener = a_hub(), Listener()
    hub.elsewhere = FromRecord(hub, status_entries([("acme", f"t{i}", 1) for i in range(3)]))
    feed(hub, status_entries([("acme", "t0", 1)]))
    token = Signer(b"s" * 32).sign(Position(7, 0, 2**63 - 2, 0), "acme", CHANNEL)
    two = await hub.subscribe(listener, "acme", CHANNEL, since=[token])
    feed(hub, status_entries([("acme", f"t{i}", 1) for i in range(1, 5)], first_offset=1))
    await settle(two)
    assert listener.frames[0]["recovered"] is False
    assert listener.frames[0]["gaps"] == [{"reason": "beyond the end of the topic", "partition": 0}]
    assert ids(listener) == [("t3", 1), ("t4", 1)]


async def test_older_than_the_ring_comes_from_elsewhere_without_repeats() -> None:
    record = status_entries([("acme", f"t{i % 70}", 1) for i in range(100)])
    hub, first, second = a_hub(ring=16), Listener(), Listener()
    hub.elsewhere = FromRecord(hub, record)
    await hub.subscribe(first, "acme", CHANNEL)
    for entry in record:
        feed(hub, [entry])
    token = position_of(first.events[4])[1]
    two = await hub.subscribe(second, "acme", CHANNEL, since=[token])
    await settle(two)
    assert ids(second) == [(f"t{i}", 1) for i in range(5, 70)]
    assert second.frames[0]["recovered"] is True


async def test_older_than_the_retention_tells_the_gap_and_gives_the_rest() -> None:
    record = status_entries([("acme", f"t{i}", 1) for i in range(100)])
    hub, first, second = a_hub(ring=16), Listener(), Listener()
    hub.elsewhere = FromRecord(hub, record, low=50)
    await hub.subscribe(first, "acme", CHANNEL)
    feed(hub, record)
    two = await hub.subscribe(second, "acme", CHANNEL, since=[position_of(first.events[4])[1]])
    await settle(two)
    subscribed = second.frames[0]
    assert subscribed["recovered"] is False
    assert (subscribed["gaps"][0]["first"], subscribed["gaps"][0]["last"]) == (5, 49)
    assert ids(second) == [(f"t{i}", 1) for i in range(50, 100)]


async def test_a_slow_subscriber_does_not_touch_the_others() -> None:
    hub, slow, fast = a_hub(), Listener(limit=3), Listener()
    await hub.subscribe(slow, "acme", CHANNEL)
    await hub.subscribe(fast, "acme", CHANNEL)
    feed(hub, status_entries([("acme", f"t{i}", 1) for i in range(50)]))
    assert slow.closed
    assert len(fast.events) == 50


async def test_unknown_and_starting_channels_are_refused() -> None:
    hub = a_hub()
    with pytest.raises(UnknownName):
        await hub.subscribe(Listener(), "acme", "results:frod")
    codec: Any = None
    starting = Hub(
        [Feed("results", "fraud", TOPIC, codec)], Signer(b"s" * 32), ring=10, clock=ManualClock(NOW)
    )
    with pytest.raises(Unavailable):
        await starting.subscribe(Listener(), "acme", CHANNEL)


async def test_the_highest_rank_pushed_is_remembered_per_tenant() -> None:
    hub = a_hub()
    feed(hub, status_entries([("acme", "a", 2), ("acme", "a", 1), ("other", "a", 0)]))
    found = hub.pushed("acme", "a")
    assert found is not None
    record = found.record()
    assert isinstance(record, StatusChange)
    assert (found.rank, record.status) == (2, "rank-2")
    assert hub.pushed("acme", "b") is None


@pytest.mark.parametrize("seed", range(20))
async def test_random_cuts_lose_nothing_and_repeat_nothing(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that is cut off again and again sees, per partition, exactly the first outcomes in order."""
    monkeypatch.setattr(gateway.push.hub, "_SCANNED", 5)
    random = Random(seed)
    hub = a_hub(ring=48, partitions=3)
    record: list[Entry] = []
    hub.elsewhere = FromRecord(hub, record)
    offsets = [0, 0, 0]
    expected: dict[int, list[tuple[str, int]]] = {0: [], 1: [], 2: []}
    seen = set()
    for _ in range(400):
        tenant, number, rank = (
            random.choice(["acme", "acme", "other"]),
            random.randint(0, 150),
            random.randint(0, 2),
        )
        partition = number % 3  # an id keeps to its partition, as its key does
        row, offset = (tenant, f"t{number}", rank), offsets[partition]
        record.extend(status_entries([row], partition=partition, first_offset=offset))
        offsets[partition] += 1
        if tenant == "acme" and (number, rank) not in seen:
            seen.add((number, rank))
            expected[partition].append((f"t{number}", rank))
    got: dict[int, list[tuple[str, int]]] = {0: [], 1: [], 2: []}
    listener = Listener()
    subscription = await hub.subscribe(listener, "acme", CHANNEL)
    positions: dict[str, str] = dict(listener.frames[0]["positions"])

    def collect() -> None:
        for event in listener.events:
            partition, position = position_of(event)
            got[partition].append((event["data"]["id"], event["data"]["rank"]))
            positions[str(partition)] = position

    start = 0
    while start < len(record):
        size = random.randint(1, 12)
        feed(hub, record[start : start + size])
        start += size
        for _ in range(random.choice([0, 0, 1, 3])):
            await asyncio.sleep(0)
        if random.random() < 0.4:  # cut: whatever is on its way to the client is lost
            if random.random() < 0.3:
                await settle(subscription)
            listener.frames = listener.frames[: random.randint(0, len(listener.frames))]
            collect()
            hub.unsubscribe(CHANNEL, subscription)
            size = random.choice([0, 0, 5, 60])
            feed(hub, record[start : start + size])
            start += size
            listener = Listener()
            subscription = await hub.subscribe(listener, "acme", CHANNEL, since=list(positions.values()))
            assert listener.frames[0]["recovered"] is True
    await settle(subscription)
    collect()
    assert got == expected


async def test_catching_up_filters_repeats_that_the_ring_does_not_know_of() -> None:
    record = status_entries([("acme", f"t{i % 30}", 1) for i in range(60)])
    hub, first, second = a_hub(), Listener(), Listener()
    hub.remembered = 2  # as after a restart: what was pushed long ago is not remembered
    hub.open(CHANNEL, 7, {0: 40})
    hub.elsewhere = FromRecord(hub, record)
    await hub.subscribe(first, "acme", CHANNEL)
    feed(hub, record[40:])
    old = Signer(b"s" * 32).sign(Position(7, 0, 4, 0), "acme", CHANNEL)
    two = await hub.subscribe(second, "acme", CHANNEL, since=[old])
    await settle(two)
    assert ids(second) == [(f"t{i}", 1) for i in range(5, 30)]


def test_a_ring_forgets_the_oldest_and_knows_it() -> None:
    ring = Ring(10, floor=100)
    entries = status_entries([("acme", f"t{i}", 1) for i in range(100)], first_offset=100)
    for entry in entries:
        ring.append(entry)
    assert len(ring) == 10
    assert [entry.offset for entry in ring.after(195)] == [196, 197, 198, 199]
    assert ring.after(199) == []
    assert ring.holds(189)
    assert not ring.holds(188)


def test_what_a_ring_has_forgotten_is_soon_held_by_nobody() -> None:
    ring = Ring(160, floor=0)
    held = []
    for number in range(1000):
        (entry,) = status_entries([("acme", f"ring{number}", 1)], first_offset=number)
        ring.append(entry)
        if number % 100 == 99:
            held.append(sum(isinstance(one, Entry) and one.id.startswith("ring") for one in gc.get_objects()))
    assert held[0] == 100
    assert max(held) <= 160 + 160 // 16 + 1


def test_first_wins_reaches_back_over_its_limit_only() -> None:
    first = FirstWins(3)
    assert [first.first(key) for key in "abab"] == [True, True, False, False]
    assert [first.first(key) for key in "cda"] == [True, True, True]


async def test_what_is_for_everyone_is_given_to_each_tenant_with_its_own_positions() -> None:
    feed_of_all = Feed("results", "fraud", TOPIC, STATUS_CODEC, everyone="system", needed=False)
    hub = Hub([feed_of_all], Signer(b"s" * 32), ring=100, clock=ManualClock(NOW))
    assert hub.ready
    hub.open(CHANNEL, 7, {0: 0})
    one, other = Listener(), Listener()
    first = await hub.subscribe(one, "acme", CHANNEL)
    await hub.subscribe(other, "other", CHANNEL)
    feed(hub, status_entries([("system", "s1", 1), ("acme", "a", 1), ("other", "o", 1), ("system", "s2", 1)]))
    assert (ids(one), ids(other)) == ([("s1", 1), ("a", 1), ("s2", 1)], [("s1", 1), ("o", 1), ("s2", 1)])
    hub.unsubscribe(CHANNEL, first)
    again = Listener()
    resumed = await hub.subscribe(again, "acme", CHANNEL, since=[position_of(one.events[0])[1]])
    await settle(resumed)
    assert (again.frames[0]["recovered"], ids(again)) == (True, [("a", 1), ("s2", 1)])


async def test_a_selection_holds_live_and_from_the_ring() -> None:
    hub = a_hub()
    asked = Asked(CHANNEL, CHANNEL, None, "e-1")
    selection = selection_of(asked, {"rank": [1, 2]}, hub.channel(CHANNEL).feed)
    live, late = Listener(), Listener()
    await hub.subscribe(live, "acme", CHANNEL, selection=selection)
    start = Signer(b"s" * 32).sign(Position(7, 0, -1, 0), "acme", CHANNEL)
    feed(hub, status_entries([("acme", "a", 0), ("acme", "a", 1), ("acme", "a", 2)], entity="e-1"))
    feed(hub, status_entries([("acme", "b", 1)], first_offset=3, entity="e-2"))
    subscription = await hub.subscribe(late, "acme", CHANNEL, selection=selection, since=[start])
    await settle(subscription)
    assert ids(live) == ids(late) == [("a", 1), ("a", 2)]


async def test_who_cannot_be_brought_along_is_closed_to_come_back() -> None:
    class Away:
        async def bounds(self, channel: Channel, partition: int) -> tuple[int, int]:
            return 0, 100

        async def bring(self, channel: Channel, subscription: Subscription, partition: int) -> None:
            raise Unavailable("Kafka is away")

    hub, listener = a_hub(ring=16), Listener()
    hub.elsewhere = Away()
    feed(hub, status_entries([("acme", f"t{i}", 1) for i in range(100)]))
    old = Signer(b"s" * 32).sign(Position(7, 0, 3, 0), "acme", CHANNEL)
    await settle(await hub.subscribe(listener, "acme", CHANNEL, since=[old]))
    assert listener.closed
    assert listener.events == []


async def test_who_follows_goes_on_where_a_channel_is_read_anew_from_before() -> None:
    hub, listener = a_hub(), Listener()
    await hub.subscribe(listener, "acme", CHANNEL)
    feed(hub, status_entries([("acme", f"t{i}", 1) for i in range(5)]))
    hub.open(CHANNEL, 7, {0: 2})
    feed(hub, status_entries([("acme", f"t{i}", 1) for i in range(2, 8)], first_offset=2))
    assert ids(listener) == [(f"t{i}", 1) for i in range(8)]
    assert not listener.closed


@pytest.mark.parametrize(("epoch", "floors"), [(7, {0: 9}), (8, {0: 0}), (7, {0: 5, 1: 0})])
async def test_who_would_miss_something_where_a_channel_is_read_anew_is_closed_to_come_back(
    epoch: int, floors: dict[int, int]
) -> None:
    hub, first, again = a_hub(), Listener(), Listener()
    record = status_entries([("acme", f"t{i}", 1) for i in range(12)])
    hub.elsewhere = FromRecord(hub, record)
    await hub.subscribe(first, "acme", CHANNEL)
    feed(hub, record[:5])
    hub.open(CHANNEL, epoch, floors)
    assert first.closed
    feed(hub, record[floors[0] :])
    await settle(await hub.subscribe(again, "acme", CHANNEL, since=[position_of(first.events[4])[1]]))
    if epoch == 7:
        assert ids(first) + ids(again) == [(f"t{i}", 1) for i in range(12)]
    else:
        assert again.frames[0]["recovered"] is False
