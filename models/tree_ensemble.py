"""Boosted trees as an ONNX file, whatever library grew them: one `TreeEnsembleRegressor`, then what its sum
means.

Of two classes the sum is log-odds and goes through a sigmoid, which saves the label and the second class
that a classifier would compute as well. Of a quantity it is the quantity, or its share of a scale that is one
of the inputs.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper

from models.encode import Matrix

INPUT, OUTPUT, QUANTITY = "inputs", "probability", "quantity"
_MOST_BOUNDARIES = 4_096
Comparison = Literal["BRANCH_LT", "BRANCH_LEQ"]


@dataclass(frozen=True)
class Scale:
    """The sum counts in units of the product of these inputs, positions in the matrix: so trees that were
    grown on shares of a moving average give quantities, whatever the size of the series."""

    factors: tuple[int, ...]

    def of(self, matrix: Matrix) -> Matrix:
        """The unit of every row, (rows,) float32; multiplied from left to right, as the file does."""
        unit = matrix[:, self.factors[0]].copy()
        for at in self.factors[1:]:
            unit *= matrix[:, at]
        return unit


@dataclass
class Trees:
    """The nodes of an ensemble, in ONNX's columns. `comparison` holds where a row goes to the left child."""

    comparison: Comparison
    _nodes: dict[str, list[Any]] = field(
        default_factory=lambda: {
            key: []
            for key in (
                "treeids", "nodeids", "featureids", "modes", "values",
                "truenodeids", "falsenodeids", "missing_value_tracks_true",
            )
        }
    )  # fmt: skip
    _leaves: dict[str, list[Any]] = field(
        default_factory=lambda: {"treeids": [], "nodeids": [], "weights": []}
    )

    def split(
        self, tree: int, node: int, *, at: int, value: float, left: int, right: int, missing_left: bool
    ) -> None:
        """Input `at` is compared with `value`; NaN goes to the left where `missing_left`."""
        self._node(tree, node, at, self.comparison, value, left, right, int(missing_left))

    def leaf(self, tree: int, node: int, value: float) -> None:
        """Rows that come here add `value`."""
        self._node(tree, node, 0, "LEAF", 0.0, 0, 0, 0)
        for key, entry in zip(self._leaves, (tree, node, value), strict=True):
            self._leaves[key].append(entry)

    def to_onnx(self, *, inputs: int, base: float, name: str) -> bytes:
        """The file of two classes: float32 `inputs` (rows, inputs) to float32 `probability` (rows,). `base`
        is added in log-odds."""
        # ONNX Runtime applies no LOGISTIC post_transform to a regressor with one target
        squash = helper.make_node("Sigmoid", ["scores"], ["column"])
        return self._file([squash], [], OUTPUT, inputs=inputs, base=base, name=name)

    def to_quantity(self, *, inputs: int, base: float, name: str, scale: Scale | None) -> bytes:
        """The file of a quantity: float32 `inputs` (rows, inputs) to float32 `quantity` (rows,), the sum with
        `base`, in units of the scale where there is one. A quantity below 0 is 0."""
        sums, steps, constants = "scores", [], []
        for at in scale.factors if scale is not None else ():
            constants.append(helper.make_tensor(f"at_{at}", TensorProto.INT64, [1], [at]))
            steps.append(helper.make_node("Gather", [INPUT, f"at_{at}"], [f"factor_{at}"], axis=1))
        if scale is not None:
            unit = f"factor_{scale.factors[0]}"
            for at in scale.factors[1:]:
                steps.append(helper.make_node("Mul", [unit, f"factor_{at}"], [f"unit_{at}"]))
                unit = f"unit_{at}"
            steps.append(helper.make_node("Mul", ["scores", unit], ["scaled"]))
            sums = "scaled"
        steps.append(helper.make_node("Relu", [sums], ["column"]))
        return self._file(steps, constants, QUANTITY, inputs=inputs, base=base, name=name)

    def _file(
        self,
        steps: list[onnx.NodeProto],
        constants: list[onnx.TensorProto],
        output: str,
        *,
        inputs: int,
        base: float,
        name: str,
    ) -> bytes:
        """The regressor, which gives `scores` (rows, 1), the steps from there to `column`, flattened."""
        node = helper.make_node(
            "TreeEnsembleRegressor",
            [INPUT],
            ["scores"],
            domain="ai.onnx.ml",
            n_targets=1,
            aggregate_function="SUM",
            base_values=[base],
            **{f"nodes_{key}": values for key, values in self._nodes.items()},
            target_treeids=self._leaves["treeids"],
            target_nodeids=self._leaves["nodeids"],
            target_ids=[0] * len(self._leaves["nodeids"]),
            target_weights=self._leaves["weights"],
        )
        flat = helper.make_node("Reshape", ["column", "rows"], [output])
        graph = helper.make_graph(
            [node, *steps, flat],
            name,
            [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [None, inputs])],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, [None])],
            [*constants, helper.make_tensor("rows", TensorProto.INT64, [1], [-1])],
        )
        model = helper.make_model(
            graph,
            producer_name="millstream",
            opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)],
            ir_version=9,
        )
        onnx.checker.check_model(model)
        return bytes(model.SerializeToString())

    def _node(self, *entries: Any) -> None:
        for key, entry in zip(self._nodes, entries, strict=True):
            self._nodes[key].append(entry)


def rows_on_splits(splits: Iterable[tuple[int, float]], rows: Matrix, *, beside: float, seed: int) -> Matrix:
    """Copies of `rows` with one input set to a threshold (input, value), to its float32 neighbour towards
    `beside`, or to NaN, in turn. Shape (at most 3 x 4,096, inputs)."""
    random = np.random.default_rng(seed)
    found = sorted(set(splits))
    if len(found) > _MOST_BOUNDARIES:
        found = [found[i] for i in random.choice(len(found), _MOST_BOUNDARIES, replace=False)]
    chosen = rows[random.integers(0, len(rows), 3 * len(found))].copy()
    for number, (at, value) in enumerate(found):
        at_split = np.float32(value)
        chosen[3 * number, at] = at_split
        chosen[3 * number + 1, at] = np.nextafter(at_split, np.float32(beside))
        chosen[3 * number + 2, at] = np.nan
    return chosen
