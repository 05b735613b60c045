"""The exported model agrees with XGBoost where they could differ, and the gate sees it when it does not."""

import json

import numpy as np
import onnx
import pytest
import xgboost

from core.errors import ModelRefused
from models.encode import Encoder, Matrix
from models.engines.onnx import OnnxEngine
from models.export import boundaries, parity, to_onnx
from tests.models import made


def _matrix() -> Matrix:
    return Encoder(made.SIGNED).encode(made.rows(500, seed=11))


def _score(model: bytes, matrix: Matrix) -> Matrix:
    return OnnxEngine(model, inputs=matrix.shape[1], where="test").score(matrix)


def test_it_agrees_on_rows_on_boundaries_and_on_missing_values() -> None:
    booster, matrix = made.booster(), _matrix()
    edges = boundaries(booster, matrix)
    missing = np.full((1, 4), np.nan, np.float32)
    extremes = np.array([[np.inf] * 4, [-np.inf] * 4, [-0.0] * 4, [3e38] * 4], np.float32)
    for rows in (matrix, edges, missing, extremes):
        parity(
            booster.inplace_predict(rows),
            _score(to_onnx(booster, name="small"), rows),
            tolerance=1e-6,
            where="t",
        )


def test_boundaries_stand_on_splits_and_just_below() -> None:
    """A row on a split and the one just below it must part ways in some tree."""
    booster, matrix = made.booster(), _matrix()
    edges = boundaries(booster, matrix)
    splits = {
        (at, np.float32(value))
        for tree in json.loads(booster.save_raw("json"))["learner"]["gradient_booster"]["model"]["trees"]
        for at, value, left in zip(
            tree["split_indices"], tree["split_conditions"], tree["left_children"], strict=True
        )
        if left >= 0
    }
    assert len(edges) == 3 * len(splits)
    on = edges[0::3]
    assert all(any(row[at] == value for row in on) for at, value in splits)


@pytest.mark.parametrize(
    ("attribute", "change"),
    [
        ("nodes_modes", lambda values: [v.replace(b"BRANCH_LT", b"BRANCH_LEQ") for v in values]),
        ("nodes_missing_value_tracks_true", lambda values: [1 - v for v in values]),
    ],
)
def test_the_gate_sees_a_wrong_comparison_or_side(attribute: str, change: object) -> None:
    booster, matrix = made.booster(), _matrix()
    model = onnx.load_from_string(to_onnx(booster, name="small"))
    (found,) = (a for a in model.graph.node[0].attribute if a.name == attribute)
    field = found.strings if found.strings else found.ints
    values = change(list(field))  # type: ignore[operator]
    del field[:]
    field.extend(values)
    rows = boundaries(booster, matrix)
    with pytest.raises(ModelRefused, match="largest difference"):
        parity(
            booster.inplace_predict(rows), _score(model.SerializeToString(), rows), tolerance=1e-5, where="t"
        )


def test_the_gate_refuses_what_is_not_a_number() -> None:
    good = np.array([0.1, 0.2], np.float32)
    with pytest.raises(ModelRefused):
        parity(good, np.array([0.1, np.nan], np.float32), tolerance=1e-5, where="t")


def test_another_objective_is_refused() -> None:
    data = xgboost.DMatrix(_matrix(), label=np.zeros(500))
    booster = xgboost.train({"objective": "reg:squarederror"}, data, 1)
    with pytest.raises(ModelRefused, match="reg:squarederror"):
        to_onnx(booster, name="small")
