"""When each event of a replay is sent, and which event time it carries.

*Recorded clock*: original spacing, shifted so that the last event is now; sent faster than it happened.
*Wall clock*: evenly at a rate, with the time of sending.
"""

from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import numpy.typing as npt

Millis = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Recorded:
    """Events with their recorded times (`at`, epoch ms, ascending) moved so that the last one is `now`."""

    at: Millis
    speed: float

    @classmethod
    def of(cls, recorded: Millis, *, now: int, rate: float) -> "Recorded":
        """`rate`: events per second to send on average; the spacing between events stays in proportion."""
        at = recorded - recorded[-1] + now
        span_s = float(at[-1] - at[0]) / 1000
        return cls(at, max(span_s * rate / max(len(at), 1), 1.0))

    @property
    def send_at_s(self) -> npt.NDArray[np.float64]:
        """Seconds after the start of the replay at which each event is due."""
        return np.asarray((self.at - self.at[0]) / 1000 / self.speed, dtype=np.float64)

    def scaled(self, bound: timedelta) -> timedelta:
        """A bound on wall-clock time as a bound on replayed time, rounded up to whole milliseconds."""
        return timedelta(milliseconds=int(np.ceil(bound / timedelta(milliseconds=1) * self.speed)))


def wall_clock(count: int, rate: float) -> npt.NDArray[np.float64]:
    """Seconds after the start at which each of `count` events is due."""
    return np.arange(count, dtype=np.float64) / rate
