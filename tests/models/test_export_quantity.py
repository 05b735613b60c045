"""Trees that give a quantity agree, as ONNX, with their library: on rows, boundaries and missing values."""

import lightgbm
import numpy as np
import pytest
import xgboost
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.errors import ModelRefused
from models import export, export_lightgbm
from models.encode import Matrix
from models.engines.onnx import OnnxEngine
from models.export import parity
from models.tree_ensemble import Scale

SCALE = Scale((1, 3))


def data(seed: int) -> tuple[Matrix, np.ndarray]:  # type: ignore[type-arg]
    """Columns 1 and 3 are factors of the scale: above 0 and always there."""
    random = np.random.default_rng(seed)
    rows = random.normal(size=(600, 5)).astype(np.float32)
    rows[:, 2] = np.round(rows[:, 2])
    rows[random.random(rows.shape) < 0.2] = np.nan
    rows[:, 1] = np.exp(random.normal(4.0, 2.0, len(rows)))
    rows[:, 3] = random.integers(1, 8, len(rows))
    shares = 1.0 + 0.4 * np.nan_to_num(rows[:, 0]) - 0.9 * np.isnan(rows[:, 4]) + random.normal(0, 0.1, 600)
    return rows, shares.astype(np.float32)


def with_xgboost(rows: Matrix, shares: np.ndarray, objective: str) -> xgboost.Booster:  # type: ignore[type-arg]
    given = {"objective": objective, "max_depth": 4, "nthread": 1}
    return xgboost.train(given, xgboost.QuantileDMatrix(rows, shares), 15)


def with_lightgbm(rows: Matrix, shares: np.ndarray, **more: object) -> lightgbm.Booster:  # type: ignore[type-arg]
    given = {"objective": "regression_l1", "verbose": -1, "num_leaves": 15, "num_threads": 1} | more
    return lightgbm.train(given, lightgbm.Dataset(rows, shares, params={"verbose": -1}), 15)


def checked(rows: Matrix, on_splits: Matrix) -> Matrix:
    """A scale is never missing: the model's door refuses it."""
    for at in SCALE.factors:
        on_splits[:, at] = np.nan_to_num(on_splits[:, at], nan=1.0)
    return np.concatenate([rows, on_splits])


def agrees(sums: np.ndarray, got: Matrix, rows: Matrix) -> float:  # type: ignore[type-arg]
    """The sums of the library against the file's quantities in units of the scale, worked out in float64:
    where leaves cancel out, what is left of float32 is relative to the unit, not to the quantity."""
    units = rows[:, 1].astype(np.float64) * rows[:, 3]
    return parity(np.maximum(sums.astype(np.float64), 0.0), got / units, tolerance=1e-5, where="t")


def score(model: bytes, rows: Matrix) -> Matrix:
    return OnnxEngine(model, inputs=rows.shape[1], where="test").score(rows)


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 10_000), st.sampled_from(["reg:squarederror", "reg:absoluteerror"]))
def test_xgboost(seed: int, objective: str) -> None:
    rows, shares = data(seed)
    booster = with_xgboost(rows, shares, objective)
    all_rows = checked(rows, export.boundaries(booster, rows))
    got = score(export.to_quantity(booster, name="q", scale=SCALE), all_rows)
    sums = booster.inplace_predict(all_rows)
    agrees(sums, got, all_rows)
    assert (got == 0.0).any()
    plain = score(export.to_quantity(booster, name="q"), all_rows)
    parity(np.maximum(sums, 0.0), plain, tolerance=1e-5, where="t")


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 10_000), st.sampled_from(["regression", "regression_l1"]))
def test_lightgbm(seed: int, objective: str) -> None:
    rows, shares = data(seed)
    booster = with_lightgbm(rows, shares, objective=objective)
    all_rows = checked(rows, export_lightgbm.boundaries(booster, rows))
    got = score(export_lightgbm.to_quantity(booster, name="q", scale=SCALE), all_rows)
    agrees(np.asarray(booster.predict(all_rows)), got, all_rows)


def test_the_unit_is_the_product_of_the_factors() -> None:
    rows, _ = data(1)
    assert np.array_equal(SCALE.of(rows), rows[:, 1] * rows[:, 3])
    assert np.array_equal(Scale((1,)).of(rows), rows[:, 1])


def test_parity_is_relative_above_one_and_absolute_below() -> None:
    large, small = np.array([10_000.0], np.float32), np.array([0.001], np.float32)
    parity(large, large * np.float32(1 + 5e-6), tolerance=1e-5, where="t")
    with pytest.raises(ModelRefused, match="largest difference"):
        parity(large, large * np.float32(1 + 3e-5), tolerance=1e-5, where="t")
    with pytest.raises(ModelRefused, match="row 0"):
        parity(small, small + np.float32(2e-5), tolerance=1e-5, where="t")
    with pytest.raises(ModelRefused, match="row 0"):
        parity(large, np.array([np.nan], np.float32), tolerance=1e-5, where="t")


def test_a_conversion_that_forgets_the_base_is_seen() -> None:
    rows, shares = data(3)
    booster = with_xgboost(rows, shares + 5.0, "reg:squarederror")
    trees, parameters = export._trees(booster, ("reg:squarederror",), "q")
    wrong = trees.to_quantity(inputs=int(parameters["num_feature"]), base=0.0, name="q", scale=SCALE)
    with pytest.raises(ModelRefused, match="largest difference"):
        agrees(booster.inplace_predict(rows), score(wrong, rows), rows)


@pytest.mark.parametrize("objective", ["count:poisson", "reg:gamma", "binary:logistic"])
def test_xgboost_of_another_objective_is_refused(objective: str) -> None:
    rows, shares = data(1)
    booster = with_xgboost(rows, (shares > 1).astype(np.float32) + (objective == "reg:gamma"), objective)
    with pytest.raises(ModelRefused, match="no export for objective"):
        export.to_quantity(booster, name="q")


@pytest.mark.parametrize("more", [{"objective": "poisson"}, {"reg_sqrt": True, "objective": "regression"}])
def test_lightgbm_of_another_objective_is_refused(more: dict[str, object]) -> None:
    rows, shares = data(1)
    booster = with_lightgbm(rows, np.abs(shares), **more)
    with pytest.raises(ModelRefused, match="no export for objective"):
        export_lightgbm.to_quantity(booster, name="q")
