"""Splits by time: train, validation and test, and folds with a rolling origin. Rows are in time order.

    |------- train -------|  gap  |- validation -|  gap  |-- test --|
    |------------- learned ----------------------|

A gap is a stretch of time: rows in it are in no part, so that what one part knows of an entity is older than
what the next one asks by at least that long.
"""

from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import numpy.typing as npt

from core.errors import InvalidInput
from pipelines.training.configuration import Split

Millis = npt.NDArray[np.int64]
Positions = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Parts:
    """Row positions; every part begins where it says, and ends where the next number says, not included."""

    train_end: int
    validation_start: int
    learned_end: int
    test_start: int
    rows: int

    @property
    def learned(self) -> slice:
        """What the model that is published learns from: train, validation and the gap between them."""
        return slice(0, self.learned_end)

    @property
    def validation(self) -> slice:
        return slice(self.validation_start, self.learned_end)

    @property
    def test(self) -> slice:
        return slice(self.test_start, self.rows)


@dataclass(frozen=True)
class Fold:
    """Learn from rows 0 to `train_end`, be judged on `test_start` to `test_end`; ends are not included."""

    train_end: int
    test_start: int
    test_end: int


def split(times: Millis, given: Split, *, validation: bool) -> Parts:
    """The parts of rows at these times (ms, ascending); without `validation` that part is empty, and train is
    all that is learned from. Raises InvalidInput when a part would be empty that is wanted."""
    rows, gap = len(times), timedelta(days=given.gap_days)
    test_start = rows - given.test_rows
    learned_end = before(times, test_start, gap) if test_start > 0 else 0
    validation_start = train_end = learned_end
    if validation:
        validation_start -= round(learned_end * given.validation_share)
        train_end = before(times, validation_start, gap) if 0 < validation_start < learned_end else 0
    if not train_end:
        raise InvalidInput(
            f"{rows} rows leave nothing to learn from before a test of {given.test_rows} rows and gaps of "
            f"{given.gap_days:g} days",
            where="split",
            mend="take more history, fewer test rows or a smaller gap",
        )
    return Parts(train_end, validation_start, learned_end, test_start, rows)


def rolling_origins(times: Millis, end: int, *, count: int, gap: timedelta) -> list[Fold]:
    """`count` folds over rows 0 to `end`, oldest first. The newest `count` of `count` + 2 equal windows are
    judged on, each learned from everything that is older than it by more than the gap. Folds whose gap
    leaves nothing to learn from are left out; raises InvalidInput when none is left."""
    window = end // (count + 2)
    folds = []
    for number in range(count):
        start = end - (count - number) * window
        learned = before(times, start, gap) if window else 0
        if learned:
            folds.append(Fold(learned, start, start + window))
    if not folds:
        raise InvalidInput(
            f"{end} rows are too few for {count} folds",
            where="folds",
            mend="take more history or fewer folds",
        )
    return folds


def before(times: Millis, start: int, gap: timedelta) -> int:
    """How many rows are older than the row at `start` by more than the gap."""
    first = int(times[start]) - gap // timedelta(milliseconds=1)
    return int(np.searchsorted(times[:start], first, side="left"))


def sampled(end: int, most: int, *, seed: int) -> Positions:
    """At most `most` of rows 0 to `end`, drawn evenly, in time order."""
    if end <= most:
        return np.arange(end, dtype=np.int64)
    drawn = np.random.default_rng(seed).choice(end, most, replace=False)
    return np.sort(drawn).astype(np.int64)
