"""Which engine scores a batch of which size: found by a short calibration when a model is loaded.

An engine costs something a call and something a row, so two of them change places at most once as batches
grow: ONNX Runtime is the better one up to about 100 rows of 200 trees, XGBoost from there. What is looked for
is therefore one number of rows, at which the other engine takes over, and one mistaken measurement among many
does not decide it.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from core.errors import MillstreamError
from models.encode import Matrix
from models.engines.port import Engine

SIZES = tuple(2**power for power in range(13))
BUDGET_S = 0.15
_ROUNDS = 9
Timer = Callable[[], float]


@dataclass(frozen=True)
class Choice:
    """`few` scores fewer than `from_rows` rows, `many` scores `from_rows` and more."""

    few: Engine
    many: Engine
    from_rows: int

    def of(self, rows: int) -> Engine:
        return self.few if rows < self.from_rows else self.many

    @property
    def text(self) -> str:
        """For logs."""
        if self.few is self.many:
            return self.few.name
        return f"{self.few.name}, from {self.from_rows} rows {self.many.name}"


class ChosenEngine:
    """Scores with the engine that is the faster one for so many rows.

    Both were seen to agree within the golden tolerance (1e-5), not to the last bit: a row's score may differ
    by so much with the size of the batch it comes in. Pin one engine where that matters.
    """

    def __init__(self, choice: Choice) -> None:
        self.choice = choice
        self._few, self._many, self._from = choice.few.score, choice.many.score, choice.from_rows

    @property
    def name(self) -> str:
        return self.choice.text

    def score(self, matrix: Matrix) -> Matrix:
        """See `Engine.score`."""
        return self._few(matrix) if len(matrix) < self._from else self._many(matrix)


def agree(one: Engine, other: Engine, rows: Matrix, *, tolerance: float) -> bool:
    """Whether both give the same for every row; False as well where one of them fails."""
    try:
        first, second = one.score(rows), other.score(rows)
    except MillstreamError:
        return False
    return first.shape == second.shape and bool(
        (np.abs(first.astype(np.float64) - second) <= tolerance).all()
    )


def calibrate(
    one: Engine,
    other: Engine,
    rows: Matrix,
    *,
    budget_s: float = BUDGET_S,
    sizes: Sequence[int] = SIZES,
    timer: Timer = time.thread_time,
) -> Choice:
    """Measure both on `rows`, repeated to every size, for at most `budget_s` of `timer` and one call more.

    `one` is the engine with the lower cost a call: it keeps the small batches, or all. The default timer is
    the processor time of this thread, so that a busy machine does not mislead; it is for engines that work
    in the calling thread alone. Others are measured by the wall (`time.perf_counter`).

    Every measurement is on other rows than the one before: a processor learns the way of a few rows through
    the trees by heart (32 rows again and again take half the time). Sizes ascend, in rounds; the fastest
    measurement of a size counts, and sizes that were not reached are taken like the largest that was.
    """
    until = timer() + budget_s
    costs: list[list[float]] = []  # per size: of one, of the other
    at = 0
    for turn in range(_ROUNDS):
        for index, size in enumerate(sizes):
            if turn and index >= len(costs):
                break
            took = []
            for engine in (one, other) if turn % 2 == 0 else (other, one):
                given = rows.take(np.arange(at, at + size), axis=0, mode="wrap")
                begun = timer()
                if begun >= until:
                    return _choose(one, other, sizes, costs)
                engine.score(given)
                took.append(timer() - begun)
            at += size
            if turn % 2:
                took.reverse()
            if index == len(costs):
                costs.append(took)
            else:
                costs[index] = [min(pair) for pair in zip(costs[index], took, strict=True)]
    return _choose(one, other, sizes, costs)


def _choose(one: Engine, other: Engine, sizes: Sequence[int], costs: Sequence[Sequence[float]]) -> Choice:
    """The take-over that wastes least, as a factor over all sizes; on equal terms `one` keeps the batch."""
    best, least = len(costs), math.inf
    for cut in range(len(costs), -1, -1):
        wasted = sum(
            math.log(max(pair[0 if index < cut else 1], 1e-9) / max(min(pair), 1e-9))
            for index, pair in enumerate(costs)
        )
        if wasted < least - 1e-9:
            best, least = cut, wasted
    if best == len(costs):
        return Choice(one, one, 1)
    if best == 0:
        return Choice(other, other, 1)
    return Choice(one, other, (sizes[best - 1] + sizes[best]) // 2 + 1)  # between those that were measured
