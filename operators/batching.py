"""Batching: rows of many callers scored in one call of the model, and one row at once when nobody waits.

When the model is free and nothing is queued, a caller's rows are scored where it stands: no queue, no other
thread. Whoever comes in the same pass of the event loop, or while a call is under way, waits in a bounded
queue; when the pass or the call ends, what is queued then goes together. A call that is expected to take long
is made in the one thread kept for it, so that the loop goes on. The model is never called twice at a time.

Promise: every caller gets the scores of its own rows, or one error, exactly once. A caller that is cancelled
while it waits costs no call. A row that the model cannot score fails alone (`operators.infer`).
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
from prometheus_client import Histogram

from core.clock import Clock, SystemClock
from core.errors import DeadlineExceeded, QueueFull, Unavailable
from core.telemetry.metrics import histogram
from operators.infer import FailedRow, Inferred, infer_matrix
from operators.ports import Matrix, Scorer

_MODEL = ("model", "version")
_FINE_MS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 1000)
QUEUE_MS = histogram("infer_queue_ms", "A caller's wait for the model", _MODEL, _FINE_MS)
ROWS = histogram("infer_rows", "Rows in one call of the model", _MODEL, tuple(2**p for p in range(13)))
MODEL_MS = histogram("infer_model_ms", "One call of the model", _MODEL, _FINE_MS)


@dataclass(frozen=True)
class Bounds:
    """`rows`: most in one call, but for a caller that brings more by itself. `wait_s`: longest wait of a
    queued caller for others, while the model is free. `queued`: most rows that wait. `at_once_s`: a call
    expected to take no longer is made on the event loop."""

    rows: int = 512
    wait_s: float = 0.0
    queued: int = 4096
    at_once_s: float = 0.0005


@dataclass(frozen=True)
class Scored:
    """A caller's answer. `outputs` (rows,), float32, NaN in the rows that `failed` names. `model_ms`:
    the call that they were scored in, which others may have shared."""

    model: str
    version: str
    outputs: Matrix
    failed: tuple[FailedRow, ...] = ()
    model_ms: float = 0.0


Called = tuple[Inferred, float]
"""What a call of the model gave, and its milliseconds."""


@dataclass(eq=False, slots=True)
class _Waiting:
    scorer: Scorer
    matrix: Matrix
    future: "asyncio.Future[Scored]"
    queued_at: float
    queued: bool = True
    timer: asyncio.TimerHandle | None = None


class _Meters:
    """The histograms of one version, looked up once."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer
        labels = (scorer.name, scorer.version)
        self.queue_ms: Histogram = QUEUE_MS.labels(*labels)
        self.rows: Histogram = ROWS.labels(*labels)
        self.model_ms: Histogram = MODEL_MS.labels(*labels)


class Batching:
    """The queue before one model. All of it runs in one event loop; `close` ends it."""

    def __init__(self, bounds: Bounds = Bounds(), *, clock: Clock | None = None) -> None:
        self._bounds = bounds
        self._clock = clock or SystemClock()
        self._queue: deque[_Waiting] = deque()
        self._rows_queued = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._taken = False  # a pass of the loop, a wait or a call under way has the model
        self._closed = False
        self._row_s = 0.0
        self._meters: _Meters | None = None

    @property
    def queued(self) -> int:
        """Rows that wait."""
        return self._rows_queued

    async def score(self, scorer: Scorer, matrix: Matrix, *, deadline: float | None = None) -> Scored:
        """The scores of a C-contiguous float32 matrix (rows, inputs) of a few rows, by `scorer`.

        `deadline` is a time of the loop's clock. Raises QueueFull when too many rows wait, DeadlineExceeded
        when the deadline passes (the rows are dropped unless a call has them already), and ModelError when
        the model itself does not work.
        """
        loop = asyncio.get_running_loop()
        rows = len(matrix)
        if self._closed:
            raise Unavailable("the model's process is stopping", where=f"model {scorer.name}")
        if deadline is not None and loop.time() >= deadline:
            raise _late(scorer)
        if not self._taken and rows * self._row_s <= self._bounds.at_once_s:
            self._taken = True
            loop.call_soon(self._next)  # who comes in this pass of the loop goes together
            return _scored(scorer, self._call(scorer, matrix), [rows])[0]
        if self._rows_queued + rows > self._bounds.queued:
            raise QueueFull(
                f"{self._rows_queued} rows wait for the model",
                where=f"model {scorer.name} {scorer.version}",
                mend="come again later, or run more of these processes",
            )
        waiting = _Waiting(scorer, matrix, loop.create_future(), self._clock.monotonic())
        self._queue.append(waiting)
        self._rows_queued += rows
        if deadline is not None:
            waiting.timer = loop.call_at(deadline, self._expire, waiting)
        if not self._taken:
            self._taken = True
            loop.call_soon(self._next)
        try:
            return await waiting.future
        finally:
            if waiting.timer is not None:
                waiting.timer.cancel()
            self._leave(waiting)

    async def close(self) -> None:
        """Refuse who comes, fail who waits (Unavailable), finish the call under way."""
        self._closed = True
        for waiting in self._queue:
            if not waiting.future.done():
                waiting.future.set_exception(Unavailable("the model's process is stopping"))
        await asyncio.get_running_loop().run_in_executor(None, self._thread.shutdown)

    def _next(self) -> None:
        """The model is free: take what is queued, when it has waited long enough, or leave it free."""
        while self._queue and not self._queue[0].queued:
            self._queue.popleft()
        if not self._queue:
            self._taken = False
            return
        if self._bounds.wait_s and self._rows_queued < self._bounds.rows:
            left = self._queue[0].queued_at + self._bounds.wait_s - self._clock.monotonic()
            if left > 0:
                asyncio.get_running_loop().call_later(left, self._next)
                return
        self._run()

    def _run(self) -> None:
        batch = self._take()
        if not batch:
            self._taken = False
            return
        loop = asyncio.get_running_loop()
        scorer = batch[0].scorer
        matrix = batch[0].matrix if len(batch) == 1 else np.concatenate([one.matrix for one in batch])
        now = self._clock.monotonic()
        meters = self._metered(scorer)
        for one in batch:
            meters.queue_ms.observe((now - one.queued_at) * 1e3)
        if len(matrix) * self._row_s <= self._bounds.at_once_s:
            self._answer(batch, partial(self._call, scorer, matrix))
            loop.call_soon(self._run if self._queue else self._next)  # who did not fit has waited enough
            return

        def returned(done: "asyncio.Future[Called]") -> None:
            self._answer(batch, done.result)
            self._run()  # what came meanwhile has waited enough

        loop.run_in_executor(self._thread, self._call, scorer, matrix).add_done_callback(returned)

    def _take(self) -> list[_Waiting]:
        """The first caller and those after it that want the same model, as far as they fit."""
        batch: list[_Waiting] = []
        rows = 0
        while self._queue:
            first = self._queue[0]
            if first.queued:
                more = rows + len(first.matrix)
                if batch and (first.scorer is not batch[0].scorer or more > self._bounds.rows):
                    break
                self._leave(first)
                batch.append(first)
                rows = more
            self._queue.popleft()
        return batch

    def _call(self, scorer: Scorer, matrix: Matrix) -> Called:
        begun = self._clock.monotonic()
        inferred = infer_matrix(matrix, scorer)
        took = self._clock.monotonic() - begun
        rows = len(matrix)
        self._row_s += (took / max(rows, 1) - self._row_s) / 8
        meters = self._metered(scorer)
        meters.rows.observe(rows)
        meters.model_ms.observe(took * 1e3)
        return inferred, took * 1e3

    def _answer(self, batch: Sequence[_Waiting], called: Callable[[], Called]) -> None:
        """Give everyone who still waits its part, or the error that the call ended with."""
        try:
            parts = _scored(batch[0].scorer, called(), [len(one.matrix) for one in batch])
        except Exception as error:
            for one in batch:
                if not one.future.done():
                    one.future.set_exception(error)
            return
        for one, scored in zip(batch, parts, strict=True):
            if not one.future.done():
                one.future.set_result(scored)

    def _expire(self, waiting: _Waiting) -> None:
        if not waiting.future.done():
            waiting.future.set_exception(_late(waiting.scorer))
            self._leave(waiting)

    def _leave(self, waiting: _Waiting) -> None:
        """Its rows are not queued any more."""
        if waiting.queued:
            waiting.queued = False
            self._rows_queued -= len(waiting.matrix)

    def _metered(self, scorer: Scorer) -> _Meters:
        meters = self._meters
        if meters is None or meters.scorer is not scorer:
            meters = self._meters = _Meters(scorer)
        return meters


def _scored(scorer: Scorer, called: Called, callers: Sequence[int]) -> list[Scored]:
    """The part of each caller, who brought so many rows, in order."""
    inferred, model_ms = called
    scores = inferred.outputs
    if inferred.failed:
        scores = np.full(sum(callers), np.nan, np.float32)
        scores[inferred.ok] = inferred.outputs
    found, start = [], 0
    for rows in callers:
        end = start + rows
        failed = tuple(
            FailedRow(bad.row - start, bad.error) for bad in inferred.failed if start <= bad.row < end
        )
        found.append(Scored(scorer.name, scorer.version, scores[start:end], failed, model_ms))
        start = end
    return found


def _late(scorer: Scorer) -> DeadlineExceeded:
    return DeadlineExceeded(
        "the deadline passed before the model was free", where=f"model {scorer.name} {scorer.version}"
    )
