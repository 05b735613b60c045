"""A boosted tree model of XGBoost as ONNX: one `TreeEnsembleRegressor`, then a sigmoid.

XGBoost goes left where `value < threshold` in float32 and has a side for missing values at every split;
`BRANCH_LT` with `nodes_missing_value_tracks_true` means the same. The regressor gives one probability a row,
which saves the label and the second class that a classifier would compute as well. `parity` is the gate: an
export is used only after it agreed with XGBoost on real rows, on missing values and on the split boundaries.
"""

import json
import math
from typing import Any

import numpy as np
import onnx
import xgboost
from onnx import TensorProto, helper

from core.errors import ModelRefused
from models.encode import Matrix

INPUT, OUTPUT = "inputs", "probability"
_LEAF, _SPLIT = "LEAF", "BRANCH_LT"
_MOST_BOUNDARIES = 4_096


def to_onnx(booster: xgboost.Booster, *, name: str) -> bytes:
    """The ONNX file of a `binary:logistic` booster with numeric splits. Raises ModelRefused for any other."""
    learner = json.loads(booster.save_raw("json"))["learner"]
    objective = learner["objective"]["name"]
    if objective != "binary:logistic" or learner["gradient_booster"]["name"] != "gbtree":
        raise _refused(f"no export for objective {objective}", name)
    inputs = int(learner["learner_model_param"]["num_feature"])
    nodes: dict[str, list[Any]] = {
        key: []
        for key in (
            "treeids", "nodeids", "featureids", "modes", "values",
            "truenodeids", "falsenodeids", "missing_value_tracks_true",
        )
    }  # fmt: skip
    leaves: dict[str, list[Any]] = {"treeids": [], "nodeids": [], "weights": []}
    for number, tree in enumerate(learner["gradient_booster"]["model"]["trees"]):
        _add_tree(number, tree, nodes, leaves, name)
    node = helper.make_node(
        "TreeEnsembleRegressor",
        [INPUT],
        ["scores"],
        domain="ai.onnx.ml",
        n_targets=1,
        aggregate_function="SUM",
        base_values=[_base(learner["learner_model_param"]["base_score"])],
        **{f"nodes_{key}": values for key, values in nodes.items()},
        target_treeids=leaves["treeids"],
        target_nodeids=leaves["nodeids"],
        target_ids=[0] * len(leaves["nodeids"]),
        target_weights=leaves["weights"],
    )
    # ONNX Runtime applies no LOGISTIC post_transform to a regressor with one target
    squash = helper.make_node("Sigmoid", ["scores"], ["column"])
    flat = helper.make_node("Reshape", ["column", "rows"], [OUTPUT])
    graph = helper.make_graph(
        [node, squash, flat],
        name,
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [None, inputs])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [None])],
        [helper.make_tensor("rows", TensorProto.INT64, [1], [-1])],
    )
    model = helper.make_model(
        graph,
        producer_name="millstream",
        opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)],
        ir_version=9,
    )
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


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
    random = np.random.default_rng(seed)
    splits = splits_of(booster)
    if len(splits) > _MOST_BOUNDARIES:
        splits = [splits[i] for i in random.choice(len(splits), _MOST_BOUNDARIES, replace=False)]
    chosen = rows[random.integers(0, len(rows), 3 * len(splits))].copy()
    for number, (at, value) in enumerate(splits):
        at_split = np.float32(value)
        chosen[3 * number, at] = at_split
        chosen[3 * number + 1, at] = np.nextafter(at_split, np.float32(-np.inf))
        chosen[3 * number + 2, at] = np.nan
    return chosen


def parity(expected: Matrix, got: Matrix, *, tolerance: float, where: str) -> float:
    """The largest absolute difference; raises ModelRefused when it is above `tolerance` or not a number."""
    if expected.shape != got.shape or not len(got):
        raise _refused(f"outputs of shape {got.shape}, expected {expected.shape}", where)
    worst = float(np.max(np.abs(expected.astype(np.float64) - got)))
    if not worst <= tolerance:
        at = int(np.nanargmax(np.abs(expected.astype(np.float64) - got)))
        raise _refused(
            f"row {at} gives {got[at]!r}, expected {expected[at]!r}; largest difference {worst:.3g}, "
            f"allowed {tolerance:.3g}",
            where,
        )
    return worst


def _add_tree(
    number: int, tree: dict[str, Any], nodes: dict[str, list[Any]], leaves: dict[str, list[Any]], name: str
) -> None:
    if any(tree["split_type"]):
        raise _refused("no export for categorical splits", name)
    left, right = tree["left_children"], tree["right_children"]
    for at, condition in enumerate(tree["split_conditions"]):
        leaf = left[at] < 0
        nodes["treeids"].append(number)
        nodes["nodeids"].append(at)
        nodes["featureids"].append(0 if leaf else tree["split_indices"][at])
        nodes["modes"].append(_LEAF if leaf else _SPLIT)
        nodes["values"].append(0.0 if leaf else condition)
        nodes["truenodeids"].append(0 if leaf else left[at])
        nodes["falsenodeids"].append(0 if leaf else right[at])
        nodes["missing_value_tracks_true"].append(0 if leaf else int(tree["default_left"][at]))
        if leaf:
            leaves["treeids"].append(number)
            leaves["nodeids"].append(at)
            leaves["weights"].append(condition)


def _base(text: str) -> float:
    """The constant part in log-odds; XGBoost writes the probability, since 3.1 as a list of one."""
    probability = float(text.strip("[]"))
    return math.log(probability / (1.0 - probability))


def _refused(what: str, where: str) -> ModelRefused:
    return ModelRefused(what, where=f"export of {where}", mend="the model was not published; train it again")
