"""The stage that turns examples into a matrix: features in units of the scale, and when the target begins."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from features.derived import Derived
from features.times import millis
from features.view import FeatureView
from jobs.training.forecasting.examples import AT, KNOWN, NAIVE, TARGET
from jobs.training.forecasting.extract import forecast_of, view_of
from jobs.training.forecasting.windows import Millis
from jobs.training.workspace import MATRIX, SIGNATURE, Workspace
from models.encode import Encoder, Matrix
from models.export import QUANTITY
from models.forecasts import Values
from models.signature import Input, Output, Signature
from models.tree_ensemble import Scale
from operators.forecast import ASKED, STEPS
from pipelines.training.configuration import Forecast

_NAMES = ("targets", "naive", "origins", "known", "gated")
_MOST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Prepared:
    """Of every example: inputs, float32 (rows, inputs); the unit of its target, float32 (rows,); the target
    and the seasonal naive forecast; origin and end of the target (ms); whether the gate is about it."""

    matrix: Matrix
    units: Matrix
    targets: Values
    naive: Values
    origins: Millis
    known: Millis
    gated: npt.NDArray[np.bool_]

    @property
    def shares(self) -> Matrix:
        """What is learned: targets in their units."""
        return (self.targets / self.units).astype(np.float32)


def prepare(space: Workspace) -> dict[str, Any]:
    """Leaves matrix, signature and what `Prepared` holds."""
    forecast, view, rows = forecast_of(space), view_of(space), space.rows
    space.progress("encode", None)
    made = signature(view, forecast, unit=view.feature(space.configuration.target.column).unit)
    matrix = Encoder(made).encode_table(rows)
    gated = [one.name for one in forecast.horizons if one.gate]
    arrays: dict[str, npt.NDArray[Any]] = {
        "targets": rows[TARGET].to_numpy(),
        "naive": rows[NAIVE].to_numpy(),
        "origins": millis(rows[AT]).to_numpy() - round(view.disorder.total_seconds() * 1_000),
        "known": millis(rows[KNOWN]).to_numpy(),
        "gated": np.isin(np.array(rows["horizon"].to_pylist()), gated),
    }
    for name in _NAMES:
        space.keep_array(f"{name}.npy", arrays[name])
    space.folder.write(f"data/{SIGNATURE}", made.to_json())
    space.keep_array(MATRIX, matrix)
    return {"rows": len(matrix), "inputs": len(made.inputs)}


def signature(view: FeatureView, forecast: Forecast, *, unit: str) -> Signature:
    """The derived features of the view, and of the target where it begins and how long it is. Where there is
    no scale there is no forecast: it may not be null, nor the number of steps. Forecasts are in `unit`."""
    features = [one.name for one in view.features if isinstance(one.definition, Derived)]
    never_null = (forecast.scale, *ASKED)
    inputs = tuple(
        Input(name=name, column=name, nullable=name not in never_null) for name in (*features, *ASKED)
    )
    made = Signature(inputs=inputs, output=Output(name=QUANTITY, low=0.0, high=_MOST, unit=unit))
    made.check(where="training")
    return made


def scale_of(made: Signature, forecast: Forecast) -> Scale:
    """Targets are counted in units of the scale a window, times the number of windows."""
    names = [item.name for item in made.inputs]
    return Scale((names.index(forecast.scale), names.index(STEPS)))


@lru_cache(maxsize=2)
def prepared(folder: Path, scale: Scale) -> Prepared:
    """What `prepare` left in the folder of a run's data."""
    matrix: Matrix = np.load(folder / MATRIX, mmap_mode="r")
    return Prepared(matrix, scale.of(matrix), *(np.load(folder / f"{name}.npy") for name in _NAMES))


def prepared_of(space: Workspace) -> Prepared:
    return prepared(space.data, scale_of(space.signature, forecast_of(space)))
