"""A boosted tree model of LightGBM as ONNX, out of its JSON dump.

LightGBM compares in float64 and goes left where `value <= threshold`; inputs are float32, so the largest
float32 that is not above the threshold separates the same inputs. Inputs within 1e-35 of 0 count as 0 there,
which only thresholds in that range can tell. What it does with NaN is decided per split: where training saw
missing values NaN goes to the split's default side; where it saw none, NaN counts as 0.
"""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from models.encode import Matrix
from models.export import refused
from models.tree_ensemble import Scale, Trees, rows_on_splits

if TYPE_CHECKING:
    import lightgbm

_QUANTITIES = ("regression", "regression_l1")
_ZERO = np.float32(1e-35)
_INFINITE = 1e300


def to_onnx(booster: "lightgbm.Booster", *, name: str) -> bytes:
    """The ONNX file of a binary booster with numeric splits. Raises ModelRefused for any other: another
    objective or sigmoid, random forests, linear leaves, categorical splits, zero as missing."""
    trees, inputs = _trees(booster, ("binary sigmoid:1",), name)
    return trees.to_onnx(inputs=inputs, base=0.0, name=name)


def to_quantity(booster: "lightgbm.Booster", *, name: str, scale: Scale | None = None) -> bytes:
    """The ONNX file of a booster of squared or absolute error (L2, L1) with numeric splits; see
    `Trees.to_quantity`. Raises ModelRefused as `to_onnx` does, and for square roots as targets."""
    trees, inputs = _trees(booster, _QUANTITIES, name)
    return trees.to_quantity(inputs=inputs, base=0.0, name=name, scale=scale)


def splits_of(booster: "lightgbm.Booster") -> list[tuple[int, float]]:
    """Every distinct split, sorted: position of the input, and the last float32 that goes left."""
    found = {
        (int(node["split_feature"]), float(last_left(node["threshold"])))
        for tree in booster.dump_model()["tree_info"]
        for node in _nodes(tree["tree_structure"])
        if "split_feature" in node
    }
    return sorted(found)


def boundaries(booster: "lightgbm.Booster", rows: Matrix, *, seed: int = 0) -> Matrix:
    """As `models.export.boundaries`: on the last float32 that goes left, on the one just above it, NaN."""
    return rows_on_splits(splits_of(booster), rows, beside=np.inf, seed=seed)


def last_left(threshold: float) -> np.float32:
    """The largest float32 that goes left at a split. The dump writes infinity as 1e300."""
    if abs(threshold) >= _INFINITE:
        return np.float32(math.copysign(math.inf, threshold))
    if abs(threshold) <= float(_ZERO):
        return _ZERO if threshold >= 0 else np.nextafter(-_ZERO, np.float32(-np.inf))
    with np.errstate(over="ignore"):  # between the largest float32 and infinity
        near = np.float32(threshold)
    return near if float(near) <= threshold else np.nextafter(near, np.float32(-np.inf))


def _trees(booster: "lightgbm.Booster", objectives: tuple[str, ...], name: str) -> tuple[Trees, int]:
    """The trees and the number of inputs."""
    dump = booster.dump_model()
    objective = " ".join(str(dump.get("objective", "")).split())
    if objective not in objectives or dump["num_tree_per_iteration"] != 1:
        raise refused(f"no export for objective {objective!r}", name)
    if dump.get("average_output"):
        raise refused("no export for random forests", name)
    trees = Trees("BRANCH_LEQ")
    for number, tree in enumerate(dump["tree_info"]):
        _add(number, tree["tree_structure"], trees, name)
    return trees, int(dump["max_feature_idx"]) + 1


def _add(number: int, root: dict[str, Any], trees: Trees, name: str) -> None:
    nodes = list(_nodes(root))
    places = {id(node): at for at, node in enumerate(nodes)}
    for at, node in enumerate(nodes):
        if "split_feature" not in node:
            if "leaf_coeff" in node:
                raise refused("no export for linear leaves", name)
            trees.leaf(number, at, float(node["leaf_value"]))
            continue
        if node["decision_type"] != "<=":
            raise refused("no export for categorical splits", name)
        if node["missing_type"] not in ("None", "NaN"):
            raise refused(f"no export for missing values as {node['missing_type']}", name)
        threshold = float(node["threshold"])
        if math.isnan(threshold):
            raise refused("a split has no threshold", name)
        absent = bool(node["default_left"]) if node["missing_type"] == "NaN" else threshold >= 0.0
        trees.split(
            number,
            at,
            at=int(node["split_feature"]),
            value=float(last_left(threshold)),
            left=places[id(node["left_child"])],
            right=places[id(node["right_child"])],
            missing_left=absent,
        )


def _nodes(root: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The nodes of a tree, the root first; without recursion, for trees may be deep."""
    waiting = [root]
    while waiting:
        node = waiting.pop()
        yield node
        if "split_feature" in node:
            waiting += [node["right_child"], node["left_child"]]
