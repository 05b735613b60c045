"""Forecast: rows of a windowed view, as what a model is asked at the end of their window.

    window of the row              lead        steps
    |-----------------|-----------|=================|
                    origin   the horizon: what is forecast

A row becomes one row per horizon: its own columns, how far away and how long the horizon is, and when it
begins. Trainings make their examples by the same function, so that a model is asked what it learned.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import numpy.typing as npt
import pyarrow as pa

LEAD, STEPS, WEEKDAY, HOUR = "lead", "steps", "weekday", "hour"
ASKED = (LEAD, STEPS, WEEKDAY, HOUR)
"""The columns that a horizon adds to a row: int64, never null."""

Integers = npt.NDArray[np.int64]
_DAY = 86_400_000
_THURSDAY = 3  # the first day of the epoch


@dataclass(frozen=True)
class Horizon:
    """A stretch of time that is forecast: `steps` windows together, after `lead` windows that follow the
    origin."""

    name: str
    steps: int
    lead: int = 0

    def __str__(self) -> str:
        return f"{self.name}: {self.steps} after {self.lead}"

    def begins(self, origins: Integers, every: timedelta) -> Integers:
        """When it begins for each origin, in ms."""
        return origins + self.lead * (every // timedelta(milliseconds=1))

    def ends(self, origins: Integers, every: timedelta) -> Integers:
        """When it has ended, in ms; not in it."""
        return origins + (self.lead + self.steps) * (every // timedelta(milliseconds=1))

    def asked(self, origins: Integers, every: timedelta) -> dict[str, pa.Array]:
        """The columns of `ASKED`. weekday (Monday is 0) and hour are those of its beginning, in UTC."""
        begins, rows = self.begins(origins, every), len(origins)
        return {
            LEAD: pa.array(np.full(rows, self.lead, np.int64)),
            STEPS: pa.array(np.full(rows, self.steps, np.int64)),
            WEEKDAY: pa.array((begins // _DAY + _THURSDAY) % 7),
            HOUR: pa.array(begins % _DAY // (_DAY // 24)),
        }


def per_horizon(
    rows: pa.RecordBatch, origins: Integers, horizons: Sequence[Horizon], every: timedelta
) -> pa.RecordBatch:
    """`len(horizons)` rows for each row, which stay together in the order of the horizons: the columns of
    `rows`, then those of `ASKED`. `origins`: the end of each row's window, in ms; `every`: the time from one
    window's end to the next one's."""
    count, width = rows.num_rows, len(horizons)
    # by horizon first, as they are made; `order` puts a row's horizons next to each other
    order = np.arange(count * width).reshape(width, count).T.reshape(-1)
    asked = [horizon.asked(origins, every) for horizon in horizons]
    own = rows.take(pa.array(np.repeat(np.arange(count), width)))
    added = [pa.concat_arrays([one[name] for one in asked]).take(pa.array(order)) for name in ASKED]
    return pa.RecordBatch.from_arrays(
        [*own.columns, *added],
        schema=pa.schema([*own.schema, *(pa.field(name, pa.int64(), nullable=False) for name in ASKED)]),
    )
