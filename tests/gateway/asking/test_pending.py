"""A streamed answer comes whole and in order, whatever of it came over Kafka."""

import asyncio
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from core.errors import DeadlineExceeded, QueueFull, Rejected, Unavailable
from gateway.asking.pending import Pending, Piece, answer_of
from gateway.asking.waiters import Waiter, Waiters
from pipelines.asking.failures import failure_of
from pipelines.asking.outcomes import InMemoryOutcomes
from schemas.catalog.asking import Reply

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def reply(attempt: str, number: int, pieces: list[bytes], **more: Any) -> Reply:
    return Reply(
        tenant="a",
        id="1",
        pipeline="p",
        replied_at=NOW,
        attempt=attempt,
        number=number,
        pieces=pieces,
        **more,
    )


def pending(store: InMemoryOutcomes, within_s: float = 5.0) -> tuple[Waiters, Waiter, Pending]:
    waiters = Waiters(most=10)
    waiter = waiters.join()
    until = asyncio.get_running_loop().time() + within_s
    return waiters, waiter, Pending("p", "a", "1", waiter, store, until)


def frames(random_: random.Random, attempt: str, pieces: list[bytes]) -> list[Reply]:
    made, at = [], 0
    while at < len(pieces):
        size = random_.randint(1, 5)
        made.append(reply(attempt, at, pieces[at : at + size]))
        at += size
    return made


@pytest.mark.parametrize("seed", range(60))
async def test_every_piece_comes_once_and_in_order(seed: int) -> None:
    """Frames are left out or come twice; an attempt may have died before; the client may have a part."""
    random_, store = random.Random(seed), InMemoryOutcomes(ttl=timedelta(minutes=1))
    whole = [b"%d" % n for n in range(random_.randint(0, 30))]
    await store.add("a", "1", whole)
    sent = [frame for frame in frames(random_, "b", whole) if random_.random() > 0.2]
    sent += [frame for frame in sent if random_.random() < 0.2]  # to a repeat, all once more
    died = random_.random() < 0.5
    before = frames(random_, "a", [b"old"] * random_.randint(1, 8)) if died else []
    has = random_.randrange(len(whole)) if whole and random_.random() < 0.5 else None
    after = "" if has is None else f"b:{has}"
    waiters, waiter, one = pending(store)
    end = reply("b", len(whole), [], last=True, state="answered", status=200, body=b"{}")
    waiters.deliver([(waiter.correlation_id, frame) for frame in [*before, *sent, end]])
    come = [piece async for piece in one.pieces(after)]
    answer = await one.end()
    assert (answer.state, answer.pieces) == ("answered", len(whole))
    last = [piece for piece in come if piece.attempt == "b"]
    begins = died and bool(whole)
    # what a client has of attempt b is void once attempt a was seen in between
    start = 0 if has is None or died else has + 1
    assert [piece.data for piece in last] == whole[start:]
    assert [piece.number for piece in last] == list(range(start, len(whole)))
    assert [piece.begins for piece in last] == [begins] + [False] * (len(last) - 1) if last else True
    await asyncio.sleep(0)
    one.leave()
    assert len(waiters) == 0


@pytest.mark.parametrize("after", ["", "b", ":", "b:", "b:x", "b:-1", "b:99999999999", "\u0663:\u0663"])
async def test_a_position_that_is_none_begins_at_the_start(after: str) -> None:
    store = InMemoryOutcomes(ttl=timedelta(minutes=1))
    waiters, waiter, one = pending(store)
    waiters.deliver(
        [
            (waiter.correlation_id, reply("b", 0, [b"x", b"y"])),
            (waiter.correlation_id, reply("b", 2, [], last=True, state="answered", status=200)),
        ]
    )
    come = [piece async for piece in one.pieces(after)]
    assert come == [Piece("b", 0, b"x"), Piece("b", 1, b"y")]


async def test_pieces_that_are_nowhere_are_told() -> None:
    waiters, waiter, one = pending(InMemoryOutcomes(ttl=timedelta(minutes=1)))
    waiters.deliver([(waiter.correlation_id, reply("b", 3, [], last=True, state="answered", status=200))])
    with pytest.raises(Unavailable):
        [piece async for piece in one.pieces()]


async def test_the_deadline_ends_the_waiting() -> None:
    waiters, _, one = pending(InMemoryOutcomes(ttl=timedelta(minutes=1)), within_s=0.05)
    with pytest.raises(DeadlineExceeded):
        await one.end()
    with pytest.raises(DeadlineExceeded):
        await one.ready()
    one.leave()
    assert len(waiters) == 0


async def test_leaving_before_the_end_cancels_once_and_after_it_never() -> None:
    cancelled: list[int] = []
    waiters, waiter, one = pending(InMemoryOutcomes(ttl=timedelta(minutes=1)))
    one.cancel = lambda: cancelled.append(1)
    async with one:
        pass
    one.leave()
    assert cancelled == [1]
    waiters, waiter, one = pending(InMemoryOutcomes(ttl=timedelta(minutes=1)))
    one.cancel = lambda: cancelled.append(2)
    waiters.deliver([(waiter.correlation_id, reply("b", 0, [], last=True, state="answered", status=200))])
    async with one:
        await one.end()
    assert cancelled == [1]


async def test_what_the_answerer_raised_is_raised() -> None:
    error = Rejected("wrong", fields={"/a": "missing"})
    waiters, waiter, one = pending(InMemoryOutcomes(ttl=timedelta(minutes=1)))
    failed = reply("b", 0, [], last=True, state="failed", failure=failure_of(error))
    waiters.deliver([(waiter.correlation_id, failed)])
    with pytest.raises(Rejected) as raised:
        answer_of(await one.end())
    assert raised.value.fields == error.fields
    with pytest.raises(Rejected):
        await one.ready()


async def test_no_more_wait_than_may_and_strangers_are_ignored() -> None:
    waiters = Waiters(most=3)
    joined = [waiters.join() for _ in range(3)]
    assert len({waiter.correlation_id for waiter in joined}) == 3
    with pytest.raises(QueueFull):
        waiters.join()
    waiters.deliver([("somebody-1", reply("b", 0, [])), (f"{waiters.epoch}-99", reply("b", 0, []))])
    joined[0].leave()
    joined[0].leave()
    waiters.join()
    assert len(waiters) == 3


async def test_a_reply_that_has_come_is_given_at_the_deadline_too() -> None:
    waiters = Waiters(most=1)
    waiter = waiters.join()
    now = asyncio.get_running_loop().time()
    with pytest.raises(TimeoutError):
        await waiter.next(now)
    waiters.deliver([(waiter.correlation_id, reply("b", 0, [b"x"]))])
    waiters.deliver([(waiter.correlation_id, reply("b", 1, [b"y"]))])
    assert [(await waiter.next(now)).number for _ in range(2)] == [0, 1]


async def test_who_waits_is_told_that_the_request_could_not_be_sent() -> None:
    waiter = Waiters(most=1).join()
    waiter.sent(None)
    waiting = asyncio.create_task(waiter.next(asyncio.get_running_loop().time() + 60))
    await asyncio.sleep(0)
    assert not waiting.done()
    waiter.sent(QueueFull("full"))
    with pytest.raises(QueueFull):
        await waiting
