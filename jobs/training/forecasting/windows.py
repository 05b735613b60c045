"""Rolling origins by the clock: what is known at a time is learned from, what follows is judged on.

    |---------------- known ----------------|---- window ----|
                                          until            until + length

An example is known once its target has ended. After the origin the model stays as it is, while it looks at
the newest values; a target that ends after the window belongs to the next one, or to none.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import numpy.typing as npt

from core.errors import InvalidInput

Millis = npt.NDArray[np.int64]
Positions = npt.NDArray[np.int64]
LEAST_LEARNED = 100


@dataclass(frozen=True)
class JudgedWindow:
    """Times in ms."""

    until: int
    end: int

    def learned(self, known: Millis) -> Positions:
        """The examples whose target had ended by then."""
        return np.flatnonzero(known <= self.until)

    def judged(self, origins: Millis, known: Millis) -> Positions:
        """The examples that begin within the window and end there."""
        return np.flatnonzero((origins >= self.until) & (known <= self.end))


def windows(known: Millis, *, length: timedelta, count: int, later: int = 0) -> list[JudgedWindow]:
    """`count` windows that follow each other, oldest first; the last one ends with the newest target, or
    `later` windows before."""
    last, span = int(known.max()), length // timedelta(milliseconds=1)
    ends = [last - (later + number) * span for number in reversed(range(count))]
    return [JudgedWindow(end - span, end) for end in ends]


def usable(
    found: Sequence[JudgedWindow], origins: Millis, known: Millis, gated: npt.NDArray[np.bool_], *, what: str
) -> list[JudgedWindow]:
    """Those with something to learn from and, of what is `gated`, to be judged on. Raises InvalidInput when
    one has not: a backtest over fewer origins than asked for would only seem to be one."""
    for one in found:
        learned, judged = one.learned(known), one.judged(origins, known)
        if len(learned) < LEAST_LEARNED or not gated[judged].any():
            raise InvalidInput(
                f"{len(learned)} examples before an origin and {int(gated[judged].sum())} after it",
                where=what,
                mend="take more history, fewer origins or folds, or shorter windows",
            )
    return list(found)
