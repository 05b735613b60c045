"""Prophet, judged beside the trees: fitted per series on what was known, forecasting from there.

Taylor and Letham, "Forecasting at Scale" (2018). It has no ONNX form, so it cannot become champion.
"""

import logging
from dataclasses import dataclass

import numpy as np

from models.forecasts import Values

LEAST_VALUES = 2
_QUIET = ("cmdstanpy", "prophet", "prophet.plot")


@dataclass(frozen=True)
class ProphetTask:
    """The known values of a series, `step` ms apart, the last one's window ending at `known_until` (ms); how
    many further ones are wanted."""

    values: Values
    known_until: int
    step: int
    wanted: int
    seed: int


def forecast(task: ProphetTask) -> Values:
    """The next values, none below 0. Of a series that has just begun there is nothing to fit: with fewer than
    two values it stays as it is, or 0."""
    if len(task.values) < LEAST_VALUES:
        return np.full(task.wanted, task.values[-1] if len(task.values) else 0.0)
    _quiet()
    import pandas
    from prophet import Prophet

    count = len(task.values)
    starts = task.known_until - task.step * np.arange(count, 0, -1)
    later = task.known_until + task.step * np.arange(task.wanted)
    model = Prophet(uncertainty_samples=0)
    model.fit(pandas.DataFrame({"ds": starts.astype("datetime64[ms]"), "y": task.values}), seed=task.seed)
    made = model.predict(pandas.DataFrame({"ds": later.astype("datetime64[ms]")}))
    found: Values = np.maximum(made["yhat"].to_numpy(np.float64), 0.0)
    return found


def _quiet() -> None:
    """Nothing of every step of the solver, and of libraries for plots that are not there. The solver's
    library adds a handler of its own where there is none yet."""
    for name in _QUIET:
        quiet = logging.getLogger(name)
        quiet.handlers, quiet.propagate = [logging.NullHandler()], False
