"""Trees over all series: fitted on what was known at an origin, in processes of their own."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jobs.training.boosting import LightGBMModel, Sample, XGBoostModel
from jobs.training.forecasting.prepare import Prepared, prepared
from jobs.training.forecasting.windows import JudgedWindow, Positions
from jobs.training.trials import Judged
from models.encode import Matrix
from models.forecasts import Values, accuracy
from models.tree_ensemble import Scale
from pipelines.training.configuration import Trees


@dataclass(frozen=True)
class Task:
    """Settings, and the windows that they are judged in, one after the other. `folder`: of the run's data."""

    folder: Path
    scale: Scale
    windows: tuple[JudgedWindow, ...]
    settings: Trees
    seed: int
    thresholds: tuple[float, ...] = ()


def judge(task: Task) -> Judged:
    """The mean of -MAPE, over what the gate is about, after each window; cut short after one where it is
    below its threshold."""
    found = prepared(task.folder, task.scale)
    values: list[float] = []
    means: list[float] = []
    for number, window in enumerate(task.windows):
        rows = window.judged(found.origins, found.known)
        rows = rows[found.gated[rows]]
        made = quantities(grown(found, window, task.settings, task.seed), found, rows)
        values.append(-accuracy(found.targets[rows], made).mape)
        means.append(float(np.mean(values)))
        last = number == len(task.windows) - 1
        if not last and task.thresholds and means[-1] < task.thresholds[number]:
            return Judged(tuple(means), pruned=True)
    return Judged(tuple(means), pruned=False)


def predict(task: Task) -> list[Values]:
    """What is forecast for the examples of each window, in their order."""
    found = prepared(task.folder, task.scale)
    return [
        quantities(
            grown(found, window, task.settings, task.seed), found, window.judged(found.origins, found.known)
        )
        for window in task.windows
    ]


def grown(found: Prepared, window: JudgedWindow, settings: Trees, seed: int) -> XGBoostModel | LightGBMModel:
    """A model of what was known at the window's beginning."""
    rows = window.learned(found.known)
    matrix = np.ascontiguousarray(found.matrix[rows])
    return Sample(matrix, found.shares[rows], threads=1, aim="quantity").fit(settings, seed=seed)


def quantities(model: XGBoostModel | LightGBMModel, found: Prepared, rows: Positions) -> Values:
    """Forecasts of those examples, never below 0."""
    shares: Matrix = model.score(np.ascontiguousarray(found.matrix[rows]))
    forecasts: Values = np.maximum(shares.astype(np.float64) * found.units[rows], 0.0)
    return forecasts
