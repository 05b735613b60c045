import numpy as np
import pytest

from core.errors import InvalidInput
from models.evaluation import interval, quality, resampled


def test_quality_counts_pairs_in_the_right_order() -> None:
    labels = np.array([0, 1, 0, 1, 1])
    scores = np.array([0.1, 0.4, 0.35, 0.8, 0.3], np.float32)
    pairs = [(p, n) for p in (0.4, 0.8, 0.3) for n in (0.1, 0.35)]
    found = quality(labels, scores)
    assert found.auc == pytest.approx(sum(p > n for p, n in pairs) / len(pairs))
    assert found.average_precision == pytest.approx((1 / 1 + 2 / 2 + 3 / 4) / 3)
    assert (found.rows, found.positives) == (5, 3)


@pytest.mark.parametrize("labels", [[0, 0], [1, 1], []])
def test_one_class_alone_has_no_quality(labels: list[int]) -> None:
    with pytest.raises(InvalidInput):
        quality(np.array(labels), np.zeros(len(labels), np.float32))


def test_the_bootstrap_is_that_of_resampled_rows() -> None:
    """Against scikit-learn over the same drawn rows, with many equal scores."""
    random = np.random.default_rng(0)
    labels = (random.random(500) < 0.1).astype(np.int8)
    scores = np.round(random.random(500) + 0.3 * labels, 1).astype(np.float32)
    found = resampled(labels, scores, draws=20, seed=3)
    same = np.random.default_rng(3)
    for number in range(20):
        drawn = same.integers(0, 500, 500)
        expected = quality(labels[drawn], scores[drawn])
        assert found.auc[number] == pytest.approx(expected.auc)
        assert found.average_precision[number] == pytest.approx(expected.average_precision)


def test_an_interval_covers_the_true_value_about_as_often_as_it_says() -> None:
    """AUC of two normal distributions one apart is 0.7602; 95 % intervals of 200 samples, 150 rows each."""
    random, held = np.random.default_rng(1), 0
    for seed in range(200):
        labels = np.repeat(np.array([0, 1], np.int8), 75)
        scores = (random.normal(size=150) + labels).astype(np.float32)
        draws = resampled(labels, scores, draws=200, seed=seed).auc
        one = interval(quality(labels, scores).auc, draws, confidence=0.95)
        held += one.low <= 0.7602 <= one.high
    assert 178 <= held <= 198
