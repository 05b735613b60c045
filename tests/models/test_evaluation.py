import numpy as np
import pytest

from core.errors import InvalidInput
from models.evaluation import quality


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
