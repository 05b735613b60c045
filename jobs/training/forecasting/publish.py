"""The stages that turn a good model into a version: fitted on all that is known, exported behind the parity
gate, registered."""

import json
from importlib.metadata import version
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from core.errors import ModelRefused
from features.times import millis
from jobs.training.boosting import Sample, load_grown
from jobs.training.classification.publish import LIBRARIES, PARITY, RUN, published
from jobs.training.forecasting.backtest import candidates_of
from jobs.training.forecasting.examples import AT, KNOWN
from jobs.training.forecasting.extract import forecast_of, view_of
from jobs.training.forecasting.prepare import prepared_of, scale_of
from jobs.training.workspace import Workspace
from models import golden
from models.encode import Encoder, Matrix
from models.engines.onnx import OnnxEngine
from models.export import parity
from models.forecasts import HORIZONS, SCALE
from models.load import load
from models.manifest import DataRange, DataSource, Description
from models.store import GOLDEN, MODEL, SIGNATURE
from models.tree_ensemble import Scale
from pipelines.training.configuration import Trees

GROWN = "model.bin"
_PARITY_ROWS = 20_000


def fit(space: Workspace) -> dict[str, Any]:
    """Leaves the model: the chosen settings, learned from every example, those of the test too, for the
    newest weeks say most about the next ones. The backtest has said how good such models are."""
    found, chosen = prepared_of(space), candidates_of(space)[0]
    matrix = np.ascontiguousarray(found.matrix)
    sample = Sample(matrix, found.shares, threads=space.around.processes, aim="quantity")
    what = f"train the {space.configuration.name} model"
    model = sample.fit(chosen, seed=space.configuration.seed, progress=space.progress, what=what)
    space.folder.write(f"data/{GROWN}", model.save())
    return {"settings": msgspec.to_builtins(chosen), "trained_rows": len(matrix)}


def export(space: Workspace) -> dict[str, Any]:
    """Leaves the ONNX file and its golden rows. Raises ModelRefused when ONNX Runtime and the library differ
    by more than 1e-5 of the unit on real rows, on split boundaries or on NaN: the run then ends there."""
    space.progress("export and verify", None)
    name, found, settings = space.configuration.name, prepared_of(space), _settings(space)
    scale = scale_of(space.signature, forecast_of(space))
    grown = load_grown(settings.engine, space.data / GROWN)
    model = grown.to_quantity(name=name, scale=scale)
    engine = OnnxEngine(model, inputs=found.matrix.shape[1], where=f"model {name}")
    real = np.ascontiguousarray(found.matrix[-_PARITY_ROWS:])
    checked = np.concatenate([real, _always(grown.boundaries(real), real, scale), _absent(real, scale)])
    units = scale.of(checked).astype(np.float64)
    shares = np.maximum(grown.score(checked), np.float32(0.0))
    worst = parity(
        shares, (engine.score(checked) / units).astype(np.float32), tolerance=PARITY, where=f"model {name}"
    )
    picked = golden.choose(found.matrix, grown.splits)
    rows = space.rows.take(pa.array(picked))
    golden_inputs = np.ascontiguousarray(found.matrix[picked])
    if not np.array_equal(Encoder(space.signature).encode_table(rows), golden_inputs, equal_nan=True):
        raise ModelRefused("the rows encode to another matrix", where=f"model {name}", mend="report this")
    space.folder.write(f"data/{MODEL}", model)
    packed = golden.pack(rows, engine.score(golden_inputs), space.signature)
    space.folder.write(f"data/{GOLDEN}", packed)
    space.measured(parity=worst)
    return {"parity": worst, "checked_rows": len(checked), "bytes": len(model)}


def register(space: Workspace) -> dict[str, Any]:
    """Publishes the version and loads it as a worker would. A version that this run published before it was
    killed is taken, not published again."""
    stored = published(space)
    if stored is None:
        files = {file: (space.data / file).read_bytes() for file in (MODEL, GOLDEN, SIGNATURE)}
        stored = space.around.store.publish(space.configuration.name, files, _description(space))
    load(stored)
    space.record(version=stored.version)
    return {"version": stored.version, "digest": stored.manifest.digest}


def _settings(space: Workspace) -> Trees:
    return msgspec.convert(space.state.details("fit")["settings"], Trees)


def _always(rows: Matrix, real: Matrix, scale: Scale) -> Matrix:
    """Rows with the scale of real ones: it is never missing and never 0, for the model's door refuses it."""
    for at in scale.factors:
        rows[:, at] = real[np.arange(len(rows)) % len(real), at]
    return rows


def _absent(real: Matrix, scale: Scale) -> Matrix:
    """A row with everything missing that may be, and one of zeros."""
    rows = np.concatenate([np.full_like(real[:1], np.nan), np.zeros_like(real[:1])])
    return _always(rows, real, scale)


def _description(space: Workspace) -> Description:
    source, view, settings = space.state.details("extract"), view_of(space), _settings(space)
    forecast, test = forecast_of(space), space.state.details("evaluate")
    offsets = json.dumps(source["offsets"], sort_keys=True) if source["offsets"] else ""
    known, at = millis(space.rows[KNOWN]).to_numpy(), space.rows[AT]
    first, last = at[0].as_py(), space.rows[KNOWN][int(np.argmax(known))].as_py()
    return Description(
        data=DataSource(source["source"], source["licence"]),
        trained_on=DataRange(space.rows.num_rows, first, last),
        views={view.name: view.version},
        view_digests={view.name: view.digest},
        metrics={name: value for name, value in space.state.metrics.items() if name != "best_trial"},
        parameters=msgspec.to_builtins(settings)
        | {
            "seed": space.configuration.seed,
            "trials": int(space.state.details("search")["trials"]),
            HORIZONS: ", ".join(str(one.asked) for one in forecast.horizons),
            SCALE: forecast.scale,
            "tested_rows": int(test["rows"]),
            RUN: space.state.id,
        }
        | ({"offsets": offsets} if offsets else {}),
        libraries={
            library: version(library) for library in (LIBRARIES[settings.engine], "onnx", "onnxruntime")
        },
    )
