"""A boosted tree model of XGBoost as ONNX, and the gate that every export passes.

XGBoost goes left where `value < threshold` in float32 and has a side for missing values at every split;
`BRANCH_LT` with `nodes_missing_value_tracks_true` means the same. `parity` is the gate: an export is used
only after it agreed with the library on real rows, on missing values and on the split boundaries.
"""

import json
import math
from typing import Any

import numpy as np
import xgboost

from core.errors import ModelRefused
from models.encode import Matrix
from models.tree_ensemble import OUTPUT, QUANTITY, Scale, Trees, rows_on_splits

__all__ = ["OUTPUT", "QUANTITY", "boundaries", "parity", "to_onnx", "to_quantity"]
_QUANTITIES = ("reg:squarederror", "reg:absoluteerror")


def to_onnx(booster: xgboost.Booster, *, name: str) -> bytes:
    """The ONNX file of a `binary:logistic` booster with numeric splits. Raises ModelRefused for any other."""
    trees, parameters = _trees(booster, ("binary:logistic",), name)
    probability = _base(parameters)
    base = math.log(probability / (1.0 - probability))
    return trees.to_onnx(inputs=int(parameters["num_feature"]), base=base, name=name)


def to_quantity(booster: xgboost.Booster, *, name: str, scale: Scale | None = None) -> bytes:
    """The ONNX file of a booster of squared or absolute error with numeric splits; see
    `Trees.to_quantity`. Raises ModelRefused for any other."""
    trees, parameters = _trees(booster, _QUANTITIES, name)
    inputs = int(parameters["num_feature"])
    return trees.to_quantity(inputs=inputs, base=_base(parameters), name=name, scale=scale)


def splits_of(booster: xgboost.Booster) -> list[tuple[int, float]]:
    """Every distinct split of the model, sorted: position of the input, and threshold as float32 has it."""
    trees = json.loads(booster.save_raw("json"))["learner"]["gradient_booster"]["model"]["trees"]
    found = {
        (at, float(np.float32(value)))
        for tree in trees
        for at, value, left in zip(
            tree["split_indices"], tree["split_conditions"], tree["left_children"], strict=True
        )
        if left >= 0
    }
    return sorted(found)


def boundaries(booster: xgboost.Booster, rows: Matrix, *, seed: int = 0) -> Matrix:
    """Rows that stand exactly on splits: copies of `rows` with one input set to a threshold of the model, to
    the float32 just below it, or to NaN, in turn. Shape (at most 3 x 4,096, inputs)."""
    return rows_on_splits(splits_of(booster), rows, beside=-np.inf, seed=seed)


def parity(expected: Matrix, got: Matrix, *, tolerance: float, where: str) -> float:
    """The largest difference, absolute up to 1 and relative to what is expected above; raises ModelRefused
    when it is above `tolerance` or not a number."""
    if expected.shape != got.shape or not len(got):
        raise refused(f"outputs of shape {got.shape}, expected {expected.shape}", where)
    exact = expected.astype(np.float64)
    off = np.abs(exact - got) / np.maximum(np.abs(exact), 1.0)
    worst = float(np.max(off))
    if not worst <= tolerance:
        at = int(np.argmax(np.where(np.isnan(off), np.inf, off)))
        raise refused(
            f"row {at} gives {got[at]!r}, expected {expected[at]!r}; largest difference {worst:.3g}, "
            f"allowed {tolerance:.3g}",
            where,
        )
    return worst


def refused(what: str, where: str) -> ModelRefused:
    """The error of an export that is not to be used."""
    return ModelRefused(what, where=f"export of {where}", mend="the model was not published; train it again")


def _add(number: int, tree: dict[str, Any], trees: Trees, name: str) -> None:
    if any(tree["split_type"]):
        raise refused("no export for categorical splits", name)
    left, right = tree["left_children"], tree["right_children"]
    for at, condition in enumerate(tree["split_conditions"]):
        if left[at] < 0:
            trees.leaf(number, at, condition)
        else:
            trees.split(
                number,
                at,
                at=tree["split_indices"][at],
                value=condition,
                left=left[at],
                right=right[at],
                missing_left=bool(tree["default_left"][at]),
            )


def _trees(booster: xgboost.Booster, objectives: tuple[str, ...], name: str) -> tuple[Trees, dict[str, str]]:
    learner = json.loads(booster.save_raw("json"))["learner"]
    objective = learner["objective"]["name"]
    if objective not in objectives or learner["gradient_booster"]["name"] != "gbtree":
        raise refused(f"no export for objective {objective}", name)
    trees = Trees("BRANCH_LT")
    for number, tree in enumerate(learner["gradient_booster"]["model"]["trees"]):
        _add(number, tree, trees, name)
    return trees, learner["learner_model_param"]


def _base(parameters: dict[str, str]) -> float:
    """The constant part as XGBoost writes it, since 3.1 as a list of one: of two classes a probability."""
    return float(parameters["base_score"].strip("[]"))
