"""What waits for a slow client, by policy, against a plain list of what was pushed."""

from random import Random
from typing import Any

import msgspec
import pytest

from gateway.push.frames import Policy
from gateway.push.hub import Subscription
from gateway.push.queue import CONTROL, Burst, FrameQueue, Pushable
from tests.gateway.samples import Listener, texts_of


def subscription(policy: Policy, label: str = "results:fraud") -> Subscription:
    return Subscription(Listener(), "acme", label, policy=policy)


def event(number: int, key: str = "") -> Pushable:
    return Pushable(0, f"p{number}", key, msgspec.json.encode({"id": number}).decode())


def popped(queue: FrameQueue) -> list[Any]:
    found: list[Any] = []
    while (item := queue.pop()) is not None:
        found.append(item)
    return found


def drained(queue: FrameQueue) -> list[Any]:
    """What would be written: events as numbers, frames as they are."""
    found: list[Any] = []
    while (item := queue.pop()) is not None:
        found.append(item if isinstance(item, str) else msgspec.json.decode(item[1].body)["id"])
    return found


def test_events_wait_in_their_order_and_are_encoded_once_per_channel() -> None:
    queue, one, two = FrameQueue(10), subscription("disconnect"), subscription("disconnect", "entity:fraud:e")
    pushed = event(1)
    assert queue.push(one, pushed)
    assert queue.push(two, pushed)
    assert queue.tell("pong")
    assert pushed.text("results:fraud") is pushed.text("results:fraud")
    assert msgspec.json.decode(pushed.text("entity:fraud:e")) == {
        "type": "event",
        "channel": "entity:fraud:e",
        "id": 1,
    }
    assert drained(queue) == [1, 1, "pong"]


def test_disconnect_takes_no_more_than_the_limit() -> None:
    queue, one = FrameQueue(3), subscription("disconnect")
    assert [queue.push(one, event(n)) for n in range(5)] == [True, True, True, False, False]


def test_a_burst_waits_as_one_and_counts_as_many() -> None:
    queue, one, two = FrameQueue(5), subscription("disconnect"), subscription("disconnect", "entity:fraud:e")
    burst = Burst(tuple(event(n) for n in (1, 2, 3)))
    assert queue.push(one, burst)
    assert len(queue) == 3
    assert not queue.push(two, burst)
    assert queue.push(two, event(4))
    assert [
        [made["id"] for made in msgspec.json.decode(f"[{item[1].text('x')}]")] for item in popped(queue)
    ] == [
        [1, 2, 3],
        [4],
    ]
    assert len(queue) == 0


def test_a_burst_is_one_message_for_those_who_take_several_frames_in_one() -> None:
    burst = Burst(tuple(event(n) for n in (1, 2, 3)))
    frames = [{"type": "event", "channel": "x", "id": number} for number in (1, 2, 3)]
    (message,) = texts_of(burst.messages("x", batched=True))
    assert msgspec.json.decode(message) == frames
    assert [msgspec.json.decode(text) for text in texts_of(burst.messages("x", batched=False))] == frames
    for batched in (True, False):
        assert burst.messages("x", batched=batched) is burst.messages("x", batched=batched)
        assert texts_of(Burst((event(1),)).messages("x", batched=batched)) == [event(1).text("x")]
        assert texts_of(event(1).messages("x", batched=batched)) == [event(1).text("x")]


def test_frames_of_the_protocol_are_bounded_too() -> None:
    queue = FrameQueue(3)
    assert sum(queue.tell("pong") for _ in range(1000)) == 3 + CONTROL


@pytest.mark.parametrize("seed", range(10))
def test_drop_oldest_keeps_the_newest_and_tells_the_rest(seed: int) -> None:
    random = Random(seed)
    limit = random.randint(1, 20)
    queue, one = FrameQueue(limit), subscription("drop_oldest")
    written: list[Any] = []
    pushed = 0
    for _ in range(300):
        if random.random() < 0.7:
            assert queue.push(one, event(pushed))
            pushed += 1
        else:
            item = queue.pop()
            if item is not None:
                written.append(item if isinstance(item, str) else msgspec.json.decode(item[1].body)["id"])
        assert len(queue) <= limit
    written += drained(queue)
    ids = [one for one in written if isinstance(one, int)]
    counts = [msgspec.json.decode(one)["count"] for one in written if isinstance(one, str)]
    assert ids == sorted(set(ids))
    assert ids[-1] == pushed - 1
    assert len(ids) + sum(counts) == pushed


@pytest.mark.parametrize("seed", range(10))
def test_coalescing_keeps_the_newest_of_each_key_in_the_order_of_its_offset(seed: int) -> None:
    random = Random(seed)
    queue, one = FrameQueue(8), subscription("coalesce_by_key")
    waiting: list[tuple[str, int]] = []  # the oracle: what waits, oldest first
    for number in range(300):
        if random.random() < 0.75:
            key = random.choice("abcdefgh")
            waiting = [held for held in waiting if held[0] != key] + [(key, number)]
            assert queue.push(one, event(number, key))
        elif waiting:
            item = queue.pop()
            assert isinstance(item, tuple)
            assert msgspec.json.decode(item[1].body)["id"] == waiting.pop(0)[1]
    assert drained(queue) == [number for _, number in waiting]


def test_coalescing_more_keys_than_fit_is_too_slow() -> None:
    queue, one = FrameQueue(3), subscription("coalesce_by_key")
    assert [queue.push(one, event(n, str(n))) for n in range(5)] == [True, True, True, False, False]
    assert queue.push(one, event(9, "0"))


def test_a_policy_is_the_subscriptions_own() -> None:
    queue = FrameQueue(4)
    dropping, firm = subscription("drop_oldest"), subscription("disconnect", "alerts")
    assert queue.push(firm, event(1))
    for number in (2, 3, 4, 5, 6):
        assert queue.push(dropping, event(number))
    assert not queue.push(firm, event(7))
    assert [one for one in drained(queue) if isinstance(one, int)] == [1, 4, 5, 6]
