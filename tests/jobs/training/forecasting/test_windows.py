"""Rolling origins: what is learned had ended before, what is judged begins after, nothing twice."""

from datetime import timedelta

import numpy as np
import pytest

from core.errors import InvalidInput
from jobs.training.forecasting.windows import usable, windows

DAY = 86_400_000
ORIGINS = np.repeat(np.arange(200, dtype=np.int64) * DAY, 2)
KNOWN = ORIGINS + np.tile([DAY, 7 * DAY], 200)
GATED = np.ones(len(KNOWN), bool)


def test_learned_and_judged_are_apart_and_windows_follow_each_other() -> None:
    found = windows(KNOWN, length=timedelta(days=21), count=4)
    assert found[-1].end == KNOWN.max()
    assert all(one.end - one.until == 21 * DAY for one in found)
    assert [one.end for one in found[:-1]] == [one.until for one in found[1:]]
    judged = [one.judged(ORIGINS, KNOWN) for one in found]
    assert len(np.unique(np.concatenate(judged))) == sum(map(len, judged)) == 3 * (21 + 15) + 2 * 15
    for one, rows in zip(found, judged, strict=True):
        assert KNOWN[one.learned(KNOWN)].max() <= one.until <= ORIGINS[rows].min()
        assert KNOWN[rows].max() <= one.end


def test_folds_end_where_the_test_begins() -> None:
    test = windows(KNOWN, length=timedelta(days=21), count=4)
    folds = windows(KNOWN, length=timedelta(days=21), count=3, later=4)
    assert folds[-1].end == test[0].until
    assert max(KNOWN[one.judged(ORIGINS, KNOWN)].max() for one in folds) <= test[0].until


def test_an_origin_with_too_little_before_it_is_refused() -> None:
    found = windows(KNOWN, length=timedelta(days=21), count=9)
    with pytest.raises(InvalidInput, match="examples before an origin"):
        usable(found, ORIGINS, KNOWN, GATED, what="test")
    with pytest.raises(InvalidInput, match="and 0 after it"):
        usable(found[-1:], ORIGINS, KNOWN, ~GATED, what="test")
    assert usable(found[-2:], ORIGINS, KNOWN, GATED, what="test") == found[-2:]
