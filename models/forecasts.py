"""How far forecasts are off: MAPE, WAPE, bias; and the forecast that anyone has for nothing.

MAPE is the mean of |forecast - actual| / actual over the forecasts whose actual value is not zero: the others
have no such error, and are counted apart. WAPE, the sum of |forecast - actual| over the sum of the actual
values, has them in it. Hyndman and Koehler, "Another look at measures of forecast accuracy" (2006).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from core.errors import InvalidInput

Values = npt.NDArray[np.float64]
Positions = npt.NDArray[np.int64]
HORIZONS, SCALE = "horizons", "scale"
"""Parameters in the description of a version: what it was asked in its training, and what it counts in."""


@dataclass(frozen=True)
class Accuracy:
    """Of `forecasts`, `zeros` had an actual value of 0. mape, wape and bias are shares, NaN where all actual
    values were 0. bias is above 0 where too much was forecast."""

    mape: float
    wape: float
    bias: float
    forecasts: int
    zeros: int


def accuracy(actual: Values, forecast: Values) -> Accuracy:
    """Raises InvalidInput for no rows, different lengths, values below 0 or values that are no numbers."""
    if len(actual) != len(forecast) or not len(actual):
        raise InvalidInput(f"{len(actual)} actual values, {len(forecast)} forecasts")
    if not np.isfinite(actual).all() or not np.isfinite(forecast).all() or (actual < 0).any():
        raise InvalidInput("actual values and forecasts must be finite, actual ones at least 0")
    off, there, total = np.abs(forecast - actual), actual > 0, float(actual.sum())
    return Accuracy(
        mape=float(np.mean(off[there] / actual[there])) if there.any() else float("nan"),
        wape=float(off.sum() / total) if total else float("nan"),
        bias=float(forecast.sum() / total - 1.0) if total else float("nan"),
        forecasts=len(actual),
        zeros=int((~there).sum()),
    )


def sums(values: Values, starts: Positions, ends: Positions) -> Values:
    """The sums of `values[start:end]`; NaN where a stretch is not whole within the values."""
    added = np.concatenate([[0.0], np.cumsum(values)])
    whole = (starts >= 0) & (ends <= len(values))
    last = len(values)
    found = added[np.clip(ends, 0, last)] - added[np.clip(starts, 0, last)]
    return np.where(whole, found, np.nan)


def seasonal_naive(values: Values, origins: Positions, *, lead: int, steps: int, season: int) -> Values:
    """What happened in the same stretch so many whole seasons earlier, as few as it takes for all of it to be
    known. An origin is how many of the values are known; the stretch is [origin + lead, origin + lead +
    steps). NaN where it begins before the values do."""
    back = -(-(lead + steps) // season) * season
    starts = origins + lead - back
    return sums(values, starts, starts + steps)
