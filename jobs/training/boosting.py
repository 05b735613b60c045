"""Boosted trees on a matrix, grown by XGBoost or LightGBM with the same settings.

Settings have one name for both libraries (`pipelines.training.configuration.Trees`). Equal arguments, on an
equal number of threads, give an equal model. Missing values go where the loss says.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import xgboost

from core.errors import ModelFailed
from jobs.sources.progress import Progress, silent
from models import export, export_lightgbm
from models.encode import Matrix
from models.tree_ensemble import Scale
from pipelines.training.configuration import Engine, Trees

if TYPE_CHECKING:
    import lightgbm

_MOST_LEAVES = 255
Aim = Literal["classes", "quantity"]
"""What trees give: the probability of the second of two classes, or the median of a quantity."""
_XGBOOST_AIMS: dict[Aim, str] = {"classes": "binary:logistic", "quantity": "reg:absoluteerror"}
_LIGHTGBM_AIMS: dict[Aim, str] = {"classes": "binary", "quantity": "regression_l1"}


class Grown(Protocol):
    """A model of either library."""

    engine: Engine

    def score(self, matrix: Matrix) -> Matrix:
        """What the trees give, (rows,) float32, as the library itself computes it."""
        ...

    def to_onnx(self, *, name: str) -> bytes:
        """The ONNX file of two classes; raises ModelRefused."""
        ...

    def to_quantity(self, *, name: str, scale: Scale) -> bytes:
        """The ONNX file of a quantity; raises ModelRefused."""
        ...

    def boundaries(self, rows: Matrix) -> Matrix:
        """Rows on the split boundaries of the model, beside them, and with NaN there."""
        ...

    @property
    def splits(self) -> list[tuple[int, float]]:
        """Every distinct split: position of the input, and threshold."""
        ...

    def save(self) -> bytes:
        """The model in the library's own format."""
        ...


class XGBoostModel:
    """A booster of XGBoost."""

    engine: Engine = "xgboost"

    def __init__(self, booster: xgboost.Booster) -> None:
        self.booster = booster

    def score(self, matrix: Matrix) -> Matrix:
        return np.asarray(self.booster.inplace_predict(matrix), np.float32)

    def to_onnx(self, *, name: str) -> bytes:
        return export.to_onnx(self.booster, name=name)

    def to_quantity(self, *, name: str, scale: Scale) -> bytes:
        return export.to_quantity(self.booster, name=name, scale=scale)

    def boundaries(self, rows: Matrix) -> Matrix:
        return export.boundaries(self.booster, rows)

    @property
    def splits(self) -> list[tuple[int, float]]:
        return export.splits_of(self.booster)

    def save(self) -> bytes:
        return bytes(self.booster.save_raw("ubj"))


class LightGBMModel:
    """A booster of LightGBM."""

    engine: Engine = "lightgbm"

    def __init__(self, booster: "lightgbm.Booster") -> None:
        self.booster = booster

    def score(self, matrix: Matrix) -> Matrix:
        return np.asarray(self.booster.predict(matrix), np.float32)

    def to_onnx(self, *, name: str) -> bytes:
        return export_lightgbm.to_onnx(self.booster, name=name)

    def to_quantity(self, *, name: str, scale: Scale) -> bytes:
        return export_lightgbm.to_quantity(self.booster, name=name, scale=scale)

    def boundaries(self, rows: Matrix) -> Matrix:
        return export_lightgbm.boundaries(self.booster, rows)

    @property
    def splits(self) -> list[tuple[int, float]]:
        return export_lightgbm.splits_of(self.booster)

    def save(self) -> bytes:
        return str(self.booster.model_to_string()).encode()


class Sample:
    """Rows to learn from, binned once per library and then used for as many models as are wanted."""

    def __init__(
        self, matrix: Matrix, labels: npt.NDArray[Any], *, threads: int, aim: Aim = "classes"
    ) -> None:
        self._matrix, self._labels, self._threads, self._aim = matrix, labels, threads, aim
        self._xgboost: xgboost.QuantileDMatrix | None = None
        self._lightgbm: lightgbm.Dataset | None = None

    def fit(
        self, settings: Trees, *, seed: int, progress: Progress = silent, what: str = "train"
    ) -> XGBoostModel | LightGBMModel:
        """A model with these settings."""
        if settings.engine == "xgboost":
            return self._with_xgboost(settings, seed, progress, what)
        return self._with_lightgbm(settings, seed, progress, what)

    def _with_xgboost(self, settings: Trees, seed: int, progress: Progress, what: str) -> XGBoostModel:
        if self._xgboost is None:
            self._xgboost = xgboost.QuantileDMatrix(self._matrix, self._labels, nthread=self._threads)
        booster = xgboost.train(
            {**xgboost_parameters(settings, seed=seed, aim=self._aim), "nthread": self._threads},
            self._xgboost,
            settings.trees,
            callbacks=[_Told(progress, what, settings.trees)],
            verbose_eval=False,
        )
        return XGBoostModel(booster)

    def _with_lightgbm(self, settings: Trees, seed: int, progress: Progress, what: str) -> LightGBMModel:
        import lightgbm

        parameters = lightgbm_parameters(settings, seed=seed, aim=self._aim)
        parameters["num_threads"] = self._threads
        if self._lightgbm is None:
            # what may differ from model to model must not shape the bins
            self._lightgbm = lightgbm.Dataset(
                self._matrix,
                self._labels,
                params={"verbose": -1, "feature_pre_filter": False, "num_threads": self._threads},
                free_raw_data=True,
            )

        def told(environment: Any) -> None:
            progress(what, (environment.iteration + 1) / settings.trees)

        booster = lightgbm.train(parameters, self._lightgbm, settings.trees, callbacks=[told])
        return LightGBMModel(booster)


def xgboost_parameters(settings: Trees, *, seed: int, aim: Aim = "classes") -> dict[str, int | float | str]:
    """As XGBoost names them."""
    return {
        "objective": _XGBOOST_AIMS[aim],
        "tree_method": "hist",
        "max_depth": settings.depth,
        "eta": settings.learning_rate,
        "subsample": settings.row_share,
        "colsample_bytree": settings.input_share,
        "min_child_weight": settings.least_leaf_weight,
        "seed": seed,
    }


def lightgbm_parameters(
    settings: Trees, *, seed: int, aim: Aim = "classes"
) -> dict[str, int | float | str | bool]:
    """As LightGBM names them. It grows leaf by leaf: half of what the depth has room for, 255 at most."""
    return {
        "objective": _LIGHTGBM_AIMS[aim],
        "max_depth": settings.depth,
        "num_leaves": min(max(2 ** (settings.depth - 1), 2), _MOST_LEAVES),
        "learning_rate": settings.learning_rate,
        "bagging_fraction": settings.row_share,
        "bagging_freq": 1 if settings.row_share < 1.0 else 0,
        "feature_fraction": settings.input_share,
        "min_sum_hessian_in_leaf": settings.least_leaf_weight,
        "min_data_in_leaf": 1,
        "deterministic": True,
        "force_row_wise": True,
        "seed": seed,
        "verbose": -1,
    }


def load_grown(engine: Engine, path: Path) -> XGBoostModel | LightGBMModel:
    """A model from the file that `save` made. Raises ModelFailed."""
    try:
        if engine == "xgboost":
            booster = xgboost.Booster()
            booster.load_model(bytearray(path.read_bytes()))
            return XGBoostModel(booster)
        import lightgbm

        return LightGBMModel(lightgbm.Booster(model_str=path.read_text()))
    except (xgboost.core.XGBoostError, ValueError, OSError) as error:
        raise ModelFailed(
            f"the model cannot be read: {error}", where=str(path), mend="begin a new run"
        ) from error


def strongest(model: XGBoostModel, among: Sequence[int], count: int) -> list[int]:
    """The `count` input positions of `among` with the largest total gain, in their own order."""
    gains = model.booster.get_score(importance_type="total_gain")
    ranked = sorted(among, key=lambda at: (-float(gains.get(f"f{at}", 0.0)), at))
    return sorted(ranked[:count])


class _Told(xgboost.callback.TrainingCallback):  # type: ignore[misc]
    def __init__(self, progress: Progress, what: str, rounds: int) -> None:
        super().__init__()
        self._progress, self._what, self._rounds = progress, what, rounds

    def after_iteration(self, model: xgboost.Booster, epoch: int, evals_log: object) -> bool:
        self._progress(self._what, (epoch + 1) / self._rounds)
        return False
