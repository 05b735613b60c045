"""The stages that turn a good model into a version: export behind the parity gate, registration, staging."""

import json
from importlib.metadata import version
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from core.errors import ModelRefused
from jobs.training.boosting import XGBoostModel, load_grown
from jobs.training.classification.fit import GROWN, settings_of
from jobs.training.classification.prepare import parts_of
from jobs.training.workspace import Workspace
from models import golden
from models.encode import Encoder
from models.engines.onnx import OnnxEngine
from models.export import parity
from models.load import load
from models.manifest import DataRange, DataSource, Description
from models.store import BOOSTER, GOLDEN, MODEL, SIGNATURE, StoredModel

PARITY = 1e-5
RUN = "run"
_PARITY_ROWS = 20_000
LIBRARIES = {"xgboost": "xgboost-cpu", "lightgbm": "lightgbm"}


def export(space: Workspace) -> dict[str, Any]:
    """Leaves the ONNX file and its golden rows. Raises ModelRefused when ONNX Runtime and the library differ
    by more than 1e-5 on real rows, on split boundaries or on NaN: the run then ends there."""
    space.progress("export and verify", None)
    name, parts, settings = space.configuration.name, parts_of(space), settings_of(space)
    grown = load_grown(settings.engine, space.data / GROWN)
    model = grown.to_onnx(name=name)
    later = np.ascontiguousarray(space.matrix[parts.test])
    engine = OnnxEngine(model, inputs=later.shape[1], where=f"model {name}")
    real = later[:_PARITY_ROWS]
    missing, zeros = np.full_like(real[:1], np.nan), np.zeros_like(real[:1])
    checked = np.concatenate([real, grown.boundaries(real), missing, zeros])
    worst = parity(grown.score(checked), engine.score(checked), tolerance=PARITY, where=f"model {name}")
    picked = golden.choose(later, grown.splits)
    rows = space.rows.slice(parts.test_start).take(pa.array(picked))
    signature = space.signature
    if not np.array_equal(Encoder(signature).encode_table(rows), later[picked], equal_nan=True):
        raise ModelRefused("the rows encode to another matrix", where=f"model {name}", mend="report this")
    space.folder.write(f"data/{MODEL}", model)
    space.folder.write(f"data/{GOLDEN}", golden.pack(rows, engine.score(later[picked]), signature))
    space.measured(parity=worst)
    return {"parity": worst, "checked_rows": len(checked), "bytes": len(model)}


def register(space: Workspace) -> dict[str, Any]:
    """Publishes the version and loads it as a worker would. A version that this run published before it was
    killed is taken, not published again."""
    name, settings = space.configuration.name, settings_of(space)
    stored = published(space)
    if stored is None:
        files = {file: (space.data / file).read_bytes() for file in (MODEL, GOLDEN, SIGNATURE)}
        grown = load_grown(settings.engine, space.data / GROWN)
        if isinstance(grown, XGBoostModel):
            files[BOOSTER] = grown.save()
        stored = space.around.store.publish(name, files, _description(space))
    load(stored)
    space.record(version=stored.version)
    return {"version": stored.version, "digest": stored.manifest.digest}


def published(space: Workspace) -> StoredModel | None:
    """The version that this run published already."""
    store, name = space.around.store, space.configuration.name
    for number in reversed(store.versions(name)):
        stored = store.resolve(name, number)
        if stored.manifest.description.parameters.get(RUN) == space.state.id:
            return stored
        if stored.manifest.created_at < space.state.created_at:
            return None
    return None


def _description(space: Workspace) -> Description:
    parts, settings, rows = parts_of(space), settings_of(space), space.rows
    source = space.state.details("extract")
    searched = int(space.state.details("search")["trials"])
    offsets = json.dumps(source["offsets"], sort_keys=True) if source["offsets"] else ""
    return Description(
        data=DataSource(source["source"], source["licence"]),
        trained_on=_range(rows.slice(0, parts.learned_end), space.time),
        tested_on=_range(rows.slice(parts.test_start), space.time),
        views={view.name: view.version for view in space.views},
        view_digests={view.name: view.digest for view in space.views},
        metrics={name: value for name, value in space.state.metrics.items() if name != "best_trial"},
        parameters=msgspec.to_builtins(settings)
        | {"seed": space.configuration.seed, "trials": searched, RUN: space.state.id}
        | ({"offsets": offsets} if offsets else {}),
        libraries={
            library: version(library) for library in (LIBRARIES[settings.engine], "onnx", "onnxruntime")
        },
    )


def _range(table: pa.Table, time: str) -> DataRange:
    times = table.column(time)
    return DataRange(table.num_rows, times[0].as_py(), times[-1].as_py())
