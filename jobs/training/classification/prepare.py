"""The stage that cuts by time and turns rows into a matrix of the inputs that are worth looking at."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from msgspec.structs import replace

from features.times import millis
from jobs.training.boosting import Sample, XGBoostModel, strongest
from jobs.training.classification.inputs import candidates, signature
from jobs.training.splitting import Millis, Parts, split
from jobs.training.workspace import LABELS, MATRIX, SIGNATURE, Labels, Workspace
from models.encode import Encoder, Matrix
from models.signature import Input

TIMES = "times.npy"
_CHOOSING = {"trees": 60, "depth": 6, "learning_rate": 0.2}
"""Enough to rank inputs, in a fifth of the time of a model."""


def prepare(space: Workspace) -> dict[str, Any]:
    """Leaves matrix, labels, times and signature. Vocabularies and the choice of inputs are learned from rows
    that are neither validation nor test. Raises InvalidInput when a part would be empty."""
    rows = space.rows
    times: Millis = millis(rows.column(space.time)).to_numpy()
    given = space.configuration
    parts = split(times, given.split, validation=given.search.trials > 0)
    space.progress("encode", None)
    attributes, features = candidates(space.views, rows.slice(0, parts.learned_end))
    everything = list(signature([*attributes, *features]).inputs)
    matrix = Encoder(signature(everything)).encode_table(rows)
    labels: Labels = rows.column(given.target.column).to_numpy().astype(np.int8)
    kept = _chosen(space, matrix, labels, everything, {item.name for item in features}, parts)
    chosen = [everything[at] for at in kept]
    if len(kept) < len(everything):
        matrix = np.ascontiguousarray(matrix[:, kept])
    space.keep_array(LABELS, labels)
    space.keep_array(TIMES, times)
    space.folder.write(f"data/{SIGNATURE}", signature(chosen).to_json())
    space.keep_array(MATRIX, matrix)
    return {
        "train_end": parts.train_end,
        "validation_start": parts.validation_start,
        "learned_end": parts.learned_end,
        "test_start": parts.test_start,
        "rows": parts.rows,
        "inputs": len(chosen),
        "candidates": len(everything),
    }


def parts_of(space: Workspace) -> Parts:
    """The parts that `prepare` made."""
    known = space.state.details("prepare")
    return Parts(**{name: int(known[name]) for name in Parts.__dataclass_fields__})


def times_of(space: Workspace) -> Millis:
    found: Millis = np.load(space.data / TIMES)
    return found


def _chosen(
    space: Workspace,
    matrix: Matrix,
    labels: Labels,
    everything: Sequence[Input],
    features: set[str],
    parts: Parts,
) -> list[int]:
    """Positions to keep: all features, and the attributes that gained most in the first half of what is
    learned from."""
    own = [at for at, item in enumerate(everything) if item.name in features]
    attributes = [at for at, item in enumerate(everything) if item.name not in features]
    room = max(space.configuration.inputs - len(own), 1)
    if len(attributes) <= room:
        return list(range(len(everything)))
    half = parts.learned_end // 2
    quick = replace(space.configuration.trees, engine="xgboost", **_CHOOSING)
    sample = Sample(matrix[:half], labels[:half], threads=space.around.processes)
    model = sample.fit(quick, seed=space.configuration.seed, progress=space.progress, what="choose inputs")
    if not isinstance(model, XGBoostModel):
        raise TypeError(type(model).__name__)
    return sorted([*strongest(model, attributes, room), *own])
