"""Shares by ONNX Runtime are those of XGBoost, on rows with gaps and on the boundaries of splits."""

import json

import numpy as np
import pytest
import xgboost

from core.errors import ModelRefused
from models.engines import booster as boosters
from models.engines import ubjson
from models.engines.contributions import ContributionEngine
from models.export import boundaries


@pytest.fixture(scope="module")
def trained() -> tuple[xgboost.Booster, np.ndarray]:
    random = np.random.default_rng(4)
    matrix = random.integers(0, 9, (3000, 6)).astype(np.float32)
    matrix[random.random(matrix.shape) < 0.2] = np.nan
    labels = (
        np.nan_to_num(matrix[:, 0]) * np.nan_to_num(matrix[:, 1], nan=4) + random.normal(0, 4, 3000)
    ) > 18
    data = xgboost.DMatrix(matrix, labels)
    return xgboost.train({"objective": "binary:logistic", "max_depth": 6}, data, 40), matrix


def engine(booster: xgboost.Booster, inputs: int = 6) -> ContributionEngine:
    return ContributionEngine(
        boosters.read(bytes(booster.save_raw("ubj")), inputs=inputs, where="test"), where="test"
    )


def test_equal_to_xgboost(trained: tuple[xgboost.Booster, np.ndarray]) -> None:
    booster, matrix = trained
    rows = np.concatenate([matrix[:500], boundaries(booster, matrix), np.full((1, 6), np.nan, np.float32)])
    expected = booster.predict(xgboost.DMatrix(rows), pred_contribs=True, approx_contribs=True)[:, :-1]
    found = engine(booster).contributions(np.ascontiguousarray(rows))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(expected).max() > 0.5


def test_no_rows_no_shares(trained: tuple[xgboost.Booster, np.ndarray]) -> None:
    assert engine(trained[0]).contributions(np.empty((0, 6), np.float32)).shape == (0, 6)


def test_trees_without_a_split_share_nothing() -> None:
    data = xgboost.DMatrix(np.zeros((20, 2), np.float32), np.arange(20) % 2)
    booster = xgboost.train({"objective": "binary:logistic"}, data, 3)
    assert engine(booster, 2).contributions(np.ones((4, 2), np.float32)).tolist() == [[0.0, 0.0]] * 4


def test_another_width_and_damaged_bytes_are_refused(trained: tuple[xgboost.Booster, np.ndarray]) -> None:
    with pytest.raises(ModelRefused, match="6 inputs"):
        engine(trained[0], 5)
    with pytest.raises(ModelRefused):
        boosters.read(b"no booster", inputs=6, where="test")


def test_ubjson_reads_what_xgboost_writes(trained: tuple[xgboost.Booster, np.ndarray]) -> None:
    def rounded(value: object) -> object:
        if isinstance(value, dict):
            return {name: rounded(inner) for name, inner in value.items()}
        if isinstance(value, list):
            return [rounded(inner) for inner in value]
        return np.float32(value) if isinstance(value, float) else value

    booster = trained[0]
    assert rounded(ubjson.parse(bytes(booster.save_raw("ubj")))) == rounded(
        json.loads(booster.save_raw("json"))
    )


def test_damaged_boosters_are_refused_and_never_hang(trained: tuple[xgboost.Booster, np.ndarray]) -> None:
    good = bytes(trained[0].save_raw("ubj"))
    random = np.random.default_rng(5)
    refused = 0
    for cut in random.integers(0, len(good), 20):
        with pytest.raises(ModelRefused):
            ContributionEngine(boosters.read(good[:cut], inputs=6, where="test"), where="test")
    for at in random.integers(0, len(good), 60):
        damaged = bytearray(good)
        damaged[at] ^= 1 << int(random.integers(0, 8))
        try:
            ContributionEngine(boosters.read(bytes(damaged), inputs=6, where="test"), where="test")
        except ModelRefused:
            refused += 1
    assert refused > 0
