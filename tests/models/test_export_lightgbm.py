"""LightGBM's export agrees with LightGBM wherever they could differ, whatever the trees look like."""

import lightgbm
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.errors import ModelRefused
from models.encode import Matrix
from models.engines.onnx import OnnxEngine
from models.export import parity
from models.export_lightgbm import boundaries, last_left, to_onnx

EXTREMES = (np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-35, -1e-35, 1e-38, 3e38, -3e38)


def data(seed: int, shares: tuple[float, ...]) -> tuple[Matrix, np.ndarray]:  # type: ignore[type-arg]
    """Smooth, rounded, small whole and tiny numbers, each column with its share of NaN."""
    random = np.random.default_rng(seed)
    rows = random.normal(size=(800, len(shares))).astype(np.float32)
    rows[:, 1] = np.round(rows[:, 1])
    rows[:, 2] = random.integers(0, 3, len(rows))
    rows[:, 3] = rows[:, 3] * np.float32(1e-35)
    rows[random.random(rows.shape) < np.array(shares)] = np.nan
    score = np.nan_to_num(rows[:, 0]) + np.nan_to_num(rows[:, 1]) + np.isnan(rows[:, 4]) + (rows[:, 2] == 1)
    return rows, (score + random.normal(size=len(rows)) > 0.5).astype(np.int8)


def grown(rows: Matrix, labels: np.ndarray, **more: object) -> lightgbm.Booster:  # type: ignore[type-arg]
    parameters = {
        "objective": "binary",
        "verbose": -1,
        "num_leaves": 15,
        "num_threads": 1,
        "min_data_in_leaf": 3,
    }
    given = parameters | more
    return lightgbm.train(given, lightgbm.Dataset(rows, labels, params={"verbose": -1}), 8)


def score(model: bytes, rows: Matrix) -> Matrix:
    return OnnxEngine(model, inputs=rows.shape[1], where="test").score(rows)


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 10_000),
    shares=st.tuples(*[st.sampled_from([0.0, 0.0, 0.1, 0.6, 1.0])] * 5),
    depth=st.integers(1, 7),
)
def test_it_agrees_on_rows_on_boundaries_and_on_missing_values(
    seed: int, shares: tuple[float, ...], depth: int
) -> None:
    rows, labels = data(seed, shares)
    booster = grown(rows, labels, max_depth=depth, seed=seed)
    random = np.random.default_rng(seed)
    extremes = random.choice(np.array(EXTREMES, np.float32), (200, rows.shape[1]))
    checked = np.concatenate([rows, boundaries(booster, rows, seed=seed), extremes])
    model = to_onnx(booster, name="small")
    parity(np.asarray(booster.predict(checked), np.float32), score(model, checked), tolerance=1e-6, where="t")


@settings(max_examples=200)
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_the_last_value_that_goes_left(threshold: float) -> None:
    """LightGBM's own rule, asked in float64 of the value and of the next one."""

    def left(value: np.float32) -> bool:
        seen = 0.0 if abs(float(value)) <= float(np.float32(1e-35)) else float(value)
        return seen <= (np.copysign(np.inf, threshold) if abs(threshold) >= 1e300 else threshold)

    last = last_left(threshold)
    assert left(last)
    following = np.nextafter(last, np.float32(np.inf))
    assert following == last or not left(following)


@pytest.mark.parametrize(
    "more",
    [
        {"objective": "regression"},
        {"sigmoid": 2.0},
        {"boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.5},
        {"linear_tree": True},
        {"zero_as_missing": True},
    ],
)
def test_what_means_something_else_is_refused(more: dict[str, object]) -> None:
    rows, labels = data(1, (0.0, 0.1, 0.0, 0.0, 0.2))
    given = dict(more)
    if "linear_tree" in given or "zero_as_missing" in given:
        dataset = lightgbm.Dataset(rows, labels, params={"verbose": -1} | given)
        booster = lightgbm.train({"objective": "binary", "verbose": -1, "num_threads": 1} | given, dataset, 3)
    else:
        booster = grown(rows, labels, **given)
    with pytest.raises(ModelRefused, match="no export for"):
        to_onnx(booster, name="small")


def test_categorical_splits_are_refused() -> None:
    rows, labels = data(2, (0.0,) * 5)
    dataset = lightgbm.Dataset(rows, labels, categorical_feature=[2], params={"verbose": -1})
    booster = lightgbm.train(
        {
            "objective": "binary",
            "verbose": -1,
            "num_threads": 1,
            "min_data_per_group": 1,
            "max_cat_to_onehot": 1,
        },
        dataset,
        5,
    )
    with pytest.raises(ModelRefused, match="categorical"):
        to_onnx(booster, name="small")


def test_a_single_leaf_is_a_model_too() -> None:
    rows = np.zeros((50, 2), np.float32)
    booster = grown(rows, (np.arange(50) % 5 == 0).astype(np.int8))
    got = score(to_onnx(booster, name="flat"), rows)
    assert got == pytest.approx(np.asarray(booster.predict(rows)), abs=1e-6)
