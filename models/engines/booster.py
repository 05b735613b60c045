"""A booster file of XGBoost, read and checked before anything works with its trees.

XGBoost's own loader takes much of a file on trust; some with one flipped bit end the process. Here every
child, input and parent is looked at once, and XGBoost is handed a file that is written anew from what was
checked.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from core.errors import ModelRefused
from models.encode import Matrix
from models.engines import ubjson

_PER_NODE = (
    "left_children", "right_children", "split_conditions", "split_indices", "default_left", "sum_hessian",
    "split_type", "parents",
)  # fmt: skip
_WHOLE = {
    "left_children": np.int32, "right_children": np.int32, "parents": np.int32, "split_indices": np.int32,
    "split_conditions": np.float32, "sum_hessian": np.float32, "base_weights": np.float32,
    "loss_changes": np.float32, "default_left": np.uint8, "split_type": np.uint8,
}  # fmt: skip
_CATEGORIES = {
    "categories": np.int32, "categories_nodes": np.int32,
    "categories_segments": np.int64, "categories_sizes": np.int64,
}  # fmt: skip
_VERSION = (3, 2, 0)
_NO_PARENT = 2**31 - 1
_MOST_BOUNDARY_ROWS = 512


@dataclass(frozen=True)
class BoosterFile:
    """`objective` as XGBoost names it; `base` is the constant part, a probability; `trees` as in the file."""

    inputs: int
    objective: str
    base: float
    trees: tuple[dict[str, Any], ...]

    def rewritten(self) -> bytes:
        """A file of XGBoost's (UBJSON) with the same trees, that has nothing which was not checked."""
        count = len(self.trees)
        model = {
            "gbtree_model_param": {"num_parallel_tree": "1", "num_trees": str(count)},
            "iteration_indptr": list(range(count + 1)),
            "tree_info": [0] * count,
            "trees": [_rewritten(tree, number, self.inputs) for number, tree in enumerate(self.trees)],
        }
        learner = {
            "attributes": {},
            "feature_names": [],
            "feature_types": [],
            "gradient_booster": {"model": model, "name": "gbtree"},
            "learner_model_param": {
                "base_score": f"[{self.base!r}]",
                "boost_from_average": "1",
                "num_class": "0",
                "num_feature": str(self.inputs),
                "num_target": "1",
            },
            "objective": {"name": self.objective, "reg_loss_param": {"scale_pos_weight": "1"}},
        }
        return ubjson.dump({"learner": learner, "version": list(_VERSION)})

    def boundaries(self) -> Matrix:
        """At most 512 rows, float32 (rows, inputs), with every input on a threshold of the model or on the
        float32 just below it, or missing; few thresholds come again, of many some are left out."""
        found: list[set[float]] = [set() for _ in range(self.inputs)]
        for tree in self.trees:
            for at, value, left in zip(
                tree["split_indices"], tree["split_conditions"], tree["left_children"], strict=True
            ):
                if left >= 0:
                    found[at].add(value)
        rows = min(_MOST_BOUNDARY_ROWS, 3 * max(map(len, found), default=0))
        matrix = np.full((rows, self.inputs), np.nan, np.float32)
        for at, values in enumerate(found):
            if values:
                thresholds = np.array(sorted(values), np.float32)
                below = np.nextafter(thresholds, np.float32(-np.inf))
                candidates = np.stack([thresholds, below, np.full_like(below, np.nan)], axis=1).reshape(-1)
                matrix[:, at] = np.resize(np.roll(candidates, at), rows)
        return matrix


def read(data: bytes, *, inputs: int, where: str) -> BoosterFile:
    """Raises ModelRefused for what is no booster of trees with numeric splits over `inputs` inputs."""
    try:
        learner: dict[str, Any] = ubjson.parse(data)["learner"]
        kind = learner["gradient_booster"]["name"]
    except (ValueError, KeyError, TypeError) as error:
        raise _refused(f"the XGBoost booster cannot be read: {str(error)[:300]}", where) from error
    if kind != "gbtree":
        raise _refused(f"a {kind} booster; only gbtree is read", where)
    try:
        width = int(learner["learner_model_param"]["num_feature"])
        if width != inputs:
            raise _refused(f"the booster takes {width} inputs, the signature has {inputs}", where)
        objective = str(learner["objective"]["name"])
        base = float(np.float32(learner["learner_model_param"]["base_score"].strip("[]")))
        if not np.isfinite(base):
            raise ValueError(f"a constant part of {base}")
        trees = tuple(learner["gradient_booster"]["model"]["trees"])
        for number, tree in enumerate(trees):
            _check_tree(tree, inputs, f"tree {number}", where)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise _refused(f"the XGBoost booster is damaged: {type(error).__name__} {error}", where) from error
    return BoosterFile(inputs, objective, base, trees)


def _check_tree(tree: dict[str, Any], inputs: int, name: str, where: str) -> None:
    nodes = len(tree["left_children"])
    if not nodes or any(len(tree[key]) != nodes for key in _PER_NODE):
        raise ValueError(f"{name} has arrays of different lengths")
    if int(tree["tree_param"]["num_nodes"]) != nodes:
        raise ValueError(f"{name} says {tree['tree_param']['num_nodes']} nodes and has {nodes}")
    if any(tree["split_type"]):
        raise _refused(f"{name} has categorical splits; only numeric ones are read", where)
    left, right = np.array(tree["left_children"]), np.array(tree["right_children"])
    split = left >= 0
    if (split != (right >= 0)).any() or (left[~split] != -1).any() or (right[~split] != -1).any():
        raise ValueError(f"{name} has a node that is neither split nor leaf")
    if not set(tree["default_left"]) <= {0, 1}:
        raise ValueError(f"{name} has a side for missing values that is neither")
    if not np.isfinite(np.array(tree["split_conditions"], np.float64)).all():
        raise ValueError(f"{name} has a threshold or a leaf that is no number")
    asked = np.array(tree["split_indices"])[split]
    if ((asked < 0) | (asked >= inputs)).any():
        raise ValueError(f"{name} splits on an input that is not there")
    children = np.concatenate([left[split], right[split]])
    pruned = int(tree["tree_param"]["num_deleted"])
    apart = len(np.unique(children)) == len(children) == nodes - 1 - pruned
    if not apart or (children >= nodes).any() or (children == 0).any():
        raise ValueError(f"{name} is no tree: a node with two parents, or with none")
    parents = np.array(tree["parents"])
    above = np.flatnonzero(split)
    if parents[0] != _NO_PARENT or (parents[children] != np.concatenate([above, above])).any():
        raise ValueError(f"{name} has a node whose parent is another")


def _rewritten(tree: dict[str, Any], number: int, inputs: int) -> dict[str, Any]:
    nodes = len(tree["left_children"])
    written: dict[str, Any] = {}
    for key, kind in _WHOLE.items():
        # what XGBoost only keeps, it does not compute with
        written[key] = np.array(tree[key], kind) if key in _PER_NODE else np.zeros(nodes, kind)
    written |= {key: np.empty(0, kind) for key, kind in _CATEGORIES.items()}
    written["id"] = number
    written["tree_param"] = {
        "num_deleted": str(int(tree["tree_param"]["num_deleted"])),
        "num_feature": str(inputs),
        "num_nodes": str(nodes),
        "size_leaf_vector": "1",
    }
    return written


def _refused(what: str, where: str) -> ModelRefused:
    return ModelRefused(what, where=where, mend="train and publish the model again")
