"""Every caller gets its own rows' scores or one error, exactly once, whatever comes between."""

import asyncio
import random
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from core.errors import DeadlineExceeded, ModelError, ModelFailed, ModelRefused, QueueFull, Unavailable
from operators.batching import Batching, Bounds, Scored
from operators.ports import Matrix

BAD = -1.0
IN_THREAD = 0.0  # nothing is fast enough for the event loop


class Third:
    """Scores `x / 3` of x in [0, 3]; a batch with a marked row raises. Notices calls that overlap."""

    name = "third"
    inputs: Sequence[str] = ("x",)
    output_range = (0.0, 1.0)

    def __init__(self, version: str = "1") -> None:
        self.version = version
        self.broken = False
        self.sizes: list[int] = []
        self.threads: set[str] = set()
        self.free = threading.Event()
        self.free.set()
        self.begun = threading.Event()
        self._one = threading.Lock()

    def encode(self, batch: Any) -> Matrix:
        raise NotImplementedError

    def encode_rows(self, columns: Any, rows: Any) -> Matrix:
        raise NotImplementedError

    def score(self, matrix: Matrix) -> Matrix:
        assert self._one.acquire(blocking=False), "the model is used twice at a time"
        try:
            self.begun.set()
            assert self.free.wait(20)
            self.sizes.append(len(matrix))
            self.threads.add(threading.current_thread().name)
            if self.broken or (matrix == BAD).any():
                raise RuntimeError("engine failed")
            scored: Matrix = matrix[:, 0] / np.float32(3)
            return scored
        finally:
            self._one.release()

    def check(self) -> None:
        if self.broken:
            raise ModelRefused("golden outputs differ")

    def contributions(self, matrix: Matrix) -> Matrix:
        return matrix


def rows(*values: float) -> Matrix:
    return np.array(values, np.float32)[:, None]


async def ask(batching: Batching, scorer: Third, matrix: Matrix, **more: Any) -> Scored:
    return await batching.score(scorer, matrix, **more)


async def held(batching: Batching, scorer: Third, count: int = 1) -> "asyncio.Task[Scored]":
    """A call of `count` rows under way in the model's thread, until `scorer.free` is set."""
    batching._row_s = 1.0  # as after a slow call
    scorer.free.clear()
    scorer.begun.clear()
    task = asyncio.create_task(ask(batching, scorer, rows(*[0.0] * count)))
    while not scorer.begun.is_set():
        await asyncio.sleep(0)
    return task


async def test_alone_there_is_no_queue_and_no_other_thread() -> None:
    batching, scorer = Batching(), Third()
    for value in (0.0, 1.0, 3.0):
        scored = await ask(batching, scorer, rows(value))
        assert scored.outputs.tolist() == [np.float32(value) / np.float32(3)]
        assert (scored.model, scored.version) == ("third", "1")
        await asyncio.sleep(0)
    assert scorer.sizes == [1, 1, 1]
    assert scorer.threads == {threading.current_thread().name}
    await batching.close()


async def test_who_comes_in_one_pass_goes_together() -> None:
    batching, scorer = Batching(Bounds(rows=512, at_once_s=60.0)), Third()
    answers = await asyncio.gather(*(ask(batching, scorer, rows(n % 3)) for n in range(32)))
    assert scorer.sizes == [1, 31]
    assert [a.outputs[0] for a in answers] == [np.float32(n % 3) / np.float32(3) for n in range(32)]
    await batching.close()


@pytest.mark.parametrize("row_s", [1.0, 0.0], ids=["slow model", "fast model"])
async def test_what_is_queued_goes_when_the_call_returns(row_s: float) -> None:
    batching, scorer = Batching(Bounds(rows=8, wait_s=3600.0)), Third()
    first = await held(batching, scorer, 8)
    batching._row_s = row_s
    others = [asyncio.create_task(ask(batching, scorer, rows(1.0, 2.0))) for _ in range(5)]
    await asyncio.sleep(0)
    assert batching.queued == 10
    scorer.free.set()
    await asyncio.gather(first, *others)  # without a wait for more
    assert scorer.sizes == [8, 8, 2]
    assert batching.queued == 0
    await batching.close()


async def test_a_full_queue_refuses_and_lets_in_again() -> None:
    batching, scorer = Batching(Bounds(queued=3)), Third()
    first = await held(batching, scorer)
    waiting = [asyncio.create_task(ask(batching, scorer, rows(1.0))) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(QueueFull) as refused:
        await ask(batching, scorer, rows(2.0))
    assert refused.value.retry_after_s > 0
    waiting[0].cancel()
    await asyncio.sleep(0)
    late = asyncio.create_task(ask(batching, scorer, rows(2.0)))
    scorer.free.set()
    assert (await late).outputs.tolist() == [np.float32(2) / np.float32(3)]
    await asyncio.gather(first, *waiting[1:])
    assert sum(scorer.sizes) == 4, "the cancelled caller cost a row"
    await batching.close()


async def test_a_passed_deadline_ends_the_wait_and_drops_the_rows() -> None:
    batching, scorer = Batching(), Third()
    first = await held(batching, scorer)
    now = asyncio.get_running_loop().time()
    with pytest.raises(DeadlineExceeded):
        await ask(batching, scorer, rows(1.0), deadline=now + 0.01)
    with pytest.raises(DeadlineExceeded):
        await ask(batching, scorer, rows(1.0), deadline=now)
    assert batching.queued == 0
    scorer.free.set()
    await first
    assert sum(scorer.sizes) == 1
    await batching.close()


async def test_a_bad_row_fails_alone_and_a_broken_model_fails_all() -> None:
    batching, scorer = Batching(), Third()
    first = await held(batching, scorer)
    good = asyncio.create_task(ask(batching, scorer, rows(1.0)))
    mixed = asyncio.create_task(ask(batching, scorer, rows(2.0, BAD, 3.0)))
    scorer.free.set()
    await first
    assert (await good).failed == ()
    found = await mixed
    assert [bad.row for bad in found.failed] == [1]
    assert isinstance(found.failed[0].error, ModelFailed)
    assert np.isnan(found.outputs[1])
    assert found.outputs[[0, 2]].tolist() == [np.float32(2) / np.float32(3), 1.0]
    scorer.broken = True
    for outcome in await asyncio.gather(
        *(ask(batching, scorer, rows(1.0)) for _ in range(4)), return_exceptions=True
    ):
        assert isinstance(outcome, ModelError)
    scorer.broken = False
    assert (await ask(batching, scorer, rows(3.0))).outputs.tolist() == [1.0]
    await batching.close()


async def test_versions_are_not_mixed_in_a_call() -> None:
    batching, old, new = Batching(), Third("1"), Third("2")
    first = await held(batching, old)
    asked = [asyncio.create_task(ask(batching, scorer, rows(1.0))) for scorer in (old, old, new, new, old)]
    old.free.set()
    await first
    assert [answer.version for answer in await asyncio.gather(*asked)] == ["1", "1", "2", "2", "1"]
    assert new.sizes == [2]
    await batching.close()


async def test_closing_fails_who_waits_and_refuses_who_comes() -> None:
    batching, scorer = Batching(), Third()
    first = await held(batching, scorer)
    waiting = asyncio.create_task(ask(batching, scorer, rows(1.0)))
    await asyncio.sleep(0)
    closing = asyncio.create_task(batching.close())
    await asyncio.sleep(0)
    scorer.free.set()
    await closing
    with pytest.raises(Unavailable):
        await waiting
    with pytest.raises(Unavailable):
        await ask(batching, scorer, rows(1.0))
    assert (await first).outputs.tolist() == [0.0]


@pytest.mark.parametrize("seed", range(25))
async def test_everyone_gets_its_own_answer_exactly_once(seed: int) -> None:
    """Random arrivals, sizes, cancellations, deadlines, bad rows, versions; in the loop and in the thread."""
    rng = random.Random(seed)
    bounds = Bounds(
        rows=rng.choice((1, 4, 16)),
        wait_s=rng.choice((0.0, 0.001)),
        queued=rng.choice((6, 40, 4000)),
        at_once_s=rng.choice((IN_THREAD, 60.0)),
    )
    batching = Batching(bounds)
    if bounds.at_once_s == IN_THREAD:
        batching._row_s = 1.0
    scorers = [Third("1"), Third("2")]
    outcomes: dict[int, str] = {}

    async def caller(number: int) -> None:
        for _ in range(rng.randrange(4)):
            await asyncio.sleep(0)
        given = [rng.choice((0.0, 1.0, 2.0, 3.0, BAD, 9.0)) for _ in range(rng.randint(1, 5))]
        scorer = rng.choice(scorers)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + rng.choice((0.0, 0.0005, 60.0, 60.0))
        outcome = "none"
        try:
            scored = await batching.score(scorer, rows(*given), deadline=deadline)
        except (QueueFull, DeadlineExceeded) as error:
            outcome = error.code
        except asyncio.CancelledError:
            outcomes[number] = "cancelled"
            raise
        else:
            outcome = "scored"
            bad = [at for at, value in enumerate(given) if value in (BAD, 9.0)]
            assert [one.row for one in scored.failed] == bad
            expected = [np.float32(v) / np.float32(3) for at, v in enumerate(given) if at not in bad]
            kept = [at for at in range(len(given)) if at not in bad]
            assert scored.outputs[kept].tolist() == expected
            assert len(scored.outputs) == len(given)
            assert scored.version == scorer.version
        assert number not in outcomes
        outcomes[number] = outcome

    tasks = [asyncio.create_task(caller(number)) for number in range(120)]
    for task in tasks:
        if rng.random() < 0.15:
            await asyncio.sleep(0)
            task.cancel()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    failed = [one for one in done if one is not None and not isinstance(one, asyncio.CancelledError)]
    assert not failed, failed[:3]
    cancelled = sum(isinstance(one, asyncio.CancelledError) for one in done)
    assert len(outcomes) + cancelled >= len(tasks)
    assert batching.queued == 0
    assert "scored" in outcomes.values()
    await batching.close()
