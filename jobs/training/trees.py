"""Boosted trees on a matrix: XGBoost's histogram method with the settings of the fraud model."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xgboost

from jobs.sources.progress import Progress, silent
from models.encode import Matrix

Labels = npt.NDArray[np.int8]


@dataclass(frozen=True)
class TreeSettings:
    """`trees` of at most `depth` levels. Rows and inputs are sampled per tree; missing values go where the
    loss says."""

    trees: int = 200
    depth: int = 8
    learning_rate: float = 0.1
    row_share: float = 0.8
    input_share: float = 0.5
    least_leaf_weight: float = 10.0
    seed: int = 7
    threads: int = 0

    def parameters(self) -> dict[str, int | float | str]:
        """As XGBoost names them. 0 threads means all processors."""
        return {
            "objective": "binary:logistic",
            "tree_method": "hist",
            "max_depth": self.depth,
            "eta": self.learning_rate,
            "subsample": self.row_share,
            "colsample_bytree": self.input_share,
            "min_child_weight": self.least_leaf_weight,
            "seed": self.seed,
            "nthread": self.threads or os.cpu_count() or 1,
        }


def fit(
    matrix: Matrix,
    labels: Labels,
    settings: TreeSettings,
    *,
    progress: Progress = silent,
    what: str = "train",
) -> xgboost.Booster:
    """A booster for `matrix` (rows, inputs) and 0/1 `labels` (rows,); equal arguments give an equal model."""
    parameters = settings.parameters()
    data = xgboost.QuantileDMatrix(matrix, labels, nthread=int(parameters["nthread"]))
    return xgboost.train(
        parameters,
        data,
        settings.trees,
        callbacks=[_Told(progress, what, settings.trees)],
        verbose_eval=False,
    )


def strongest(booster: xgboost.Booster, among: Sequence[int], count: int) -> list[int]:
    """The `count` input positions of `among` with the largest total gain, in their own order."""
    gains = booster.get_score(importance_type="total_gain")
    ranked = sorted(among, key=lambda at: (-float(gains.get(f"f{at}", 0.0)), at))
    return sorted(ranked[:count])


class _Told(xgboost.callback.TrainingCallback):  # type: ignore[misc]
    def __init__(self, progress: Progress, what: str, rounds: int) -> None:
        super().__init__()
        self._progress, self._what, self._rounds = progress, what, rounds

    def after_iteration(self, model: xgboost.Booster, epoch: int, evals_log: object) -> bool:
        self._progress(self._what, (epoch + 1) / self._rounds)
        return False
