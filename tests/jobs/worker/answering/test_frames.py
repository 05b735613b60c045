"""Pieces gather to frames: all of them, in order, the first at once, not more often than the interval."""

import asyncio
import itertools
import random

from jobs.worker.answering.frames import Frames

INTERVAL_S = 0.03


async def test_pieces_are_numbered_in_order_and_the_first_goes_at_once() -> None:
    sent: list[tuple[float, int, list[bytes]]] = []
    loop, random_ = asyncio.get_running_loop(), random.Random(1)
    frames = Frames(lambda number, pieces: sent.append((loop.time(), number, pieces)), interval_s=INTERVAL_S)
    given = [str(number).encode() for number in range(60)]
    for number, piece in enumerate(given):
        await frames.add(piece)
        if number == 0:
            assert len(sent) == 1
        await asyncio.sleep(random_.choice((0, 0.001, 0.005, 0.05)))
    frames.flush()
    await asyncio.sleep(2 * INTERVAL_S)
    assert [piece for _, _, pieces in sent for piece in pieces] == given
    number = 0
    for _, first, pieces in sent:
        assert first == number
        number += len(pieces)
    assert frames.sent == 60
    gaps = [later[0] - earlier[0] for earlier, later in itertools.pairwise(sent[:-1])]
    assert min(gaps) >= INTERVAL_S * 0.9
    assert len(sent) < 60


async def test_a_piece_never_waits_longer_than_the_interval() -> None:
    loop = asyncio.get_running_loop()
    sent: list[float] = []
    frames = Frames(lambda number, pieces: sent.append(loop.time()), interval_s=INTERVAL_S)
    await frames.add(b"a")
    await frames.add(b"b")
    added = loop.time()
    await asyncio.sleep(4 * INTERVAL_S)
    assert len(sent) == 2
    assert sent[1] - added < 2 * INTERVAL_S
