"""Parts and folds never share a row, and are apart by the gap."""

from datetime import timedelta
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from core.errors import InvalidInput
from jobs.training.splitting import Millis, before, rolling_origins, sampled, split
from pipelines.training.configuration import Split

DAY = 86_400_000
TIMES = st.tuples(st.integers(0, 10_000), st.integers(60, 300), st.sampled_from([1, 60, DAY])).map(
    lambda found: made(*found)
)


def made(seed: int, rows: int, step: int) -> Millis:
    """Ascending times over two months, in steps that make many of them equal."""
    return np.sort(np.random.default_rng(seed).integers(0, 60 * DAY // step, rows) * step)


@given(times=TIMES, test_rows=st.integers(20, 40), gap=st.floats(0, 10), validation=st.booleans())
def test_parts_are_apart_by_the_gap(times: Millis, test_rows: int, gap: float, validation: bool) -> None:
    given_ = Split(test_rows=test_rows, gap_days=gap)
    try:
        parts = split(times, given_, validation=validation)
    except InvalidInput:
        assume(False)
    apart = timedelta(days=gap) // timedelta(milliseconds=1)
    test, learned, later = times[parts.test], times[parts.learned], times[parts.validation]
    assert len(test) == test_rows
    assert learned.max() < test.min() - apart
    assert np.count_nonzero(times[: parts.test_start] < test.min() - apart) == len(learned)
    if validation:
        assert times[: parts.train_end].max() < later.min() - apart
    else:
        assert (parts.train_end, len(later)) == (parts.learned_end, 0)


@given(times=TIMES, count=st.integers(1, 6), gap=st.floats(0, 5))
def test_each_fold_learns_from_its_past_only(times: Millis, count: int, gap: float) -> None:
    try:
        folds = rolling_origins(times, len(times), count=count, gap=timedelta(days=gap))
    except InvalidInput:
        assume(False)
    apart = timedelta(days=gap) // timedelta(milliseconds=1)
    for fold in folds:
        assert times[: fold.train_end].max() < times[fold.test_start] - apart
    assert folds[-1].test_end == len(times)
    for one, following in pairwise(folds):
        assert one.test_end == following.test_start


def test_nothing_to_learn_from_is_refused() -> None:
    times = np.arange(100, dtype=np.int64)
    with pytest.raises(InvalidInput, match="leave nothing"):
        split(times, Split(test_rows=20, gap_days=1.0), validation=False)
    assert before(times, 50, timedelta(0)) == 50


def test_a_sample_is_drawn_without_repeats_and_the_same_again() -> None:
    found = sampled(1_000, 100, seed=3)
    assert len(np.unique(found)) == 100
    assert (np.diff(found) > 0).all()
    assert (sampled(1_000, 100, seed=3) == found).all()
    assert len(sampled(50, 100, seed=3)) == 50
