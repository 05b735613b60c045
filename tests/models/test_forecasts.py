"""Errors of forecasts and the seasonal naive forecast, against what a reader of their definition writes."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import InvalidInput
from models.forecasts import accuracy, seasonal_naive, sums

COUNTS = st.integers(0, 50)


@given(st.lists(st.tuples(COUNTS, st.floats(0, 100)), min_size=1, max_size=40))
def test_errors_equal_their_definition(pairs: list[tuple[int, float]]) -> None:
    shares, off, total, forecast, zeros = [], 0.0, 0, 0.0, 0
    for actual, guess in pairs:
        off, total, forecast = off + abs(guess - actual), total + actual, forecast + guess
        if actual == 0:
            zeros += 1
        else:
            shares.append(abs(guess - actual) / actual)
    found = accuracy(np.array([a for a, _ in pairs], float), np.array([f for _, f in pairs], float))
    assert (found.forecasts, found.zeros) == (len(pairs), zeros)
    if shares:
        assert found.mape == pytest.approx(sum(shares) / len(shares))
        assert found.wape == pytest.approx(off / total)
        assert found.bias == pytest.approx(forecast / total - 1)
    else:
        assert math.isnan(found.mape)
        assert math.isnan(found.wape)


@given(
    values=st.lists(COUNTS, min_size=1, max_size=40),
    lead=st.integers(0, 9),
    steps=st.integers(1, 9),
    season=st.integers(1, 7),
)
def test_seasonal_naive_looks_back_whole_seasons_and_never_past_the_origin(
    values: list[int], lead: int, steps: int, season: int
) -> None:
    origins = np.arange(1, len(values) + 1)
    found = seasonal_naive(np.array(values, float), origins, lead=lead, steps=steps, season=season)
    for origin, got in zip(origins, found, strict=True):
        wanted: float | None = 0.0
        for at in range(origin + lead, origin + lead + steps):
            seasons = 1
            while origin + lead + steps - seasons * season > origin:
                seasons += 1
            before = at - seasons * season
            assert before < origin
            wanted = None if before < 0 or wanted is None else wanted + values[before]
        assert got == wanted if wanted is not None else math.isnan(got)


def test_a_stretch_that_is_not_whole_has_no_sum() -> None:
    found = sums(np.array([1.0, 2.0, 4.0]), np.array([-1, 0, 1, 2]), np.array([1, 2, 3, 4]))
    assert np.array_equal(found, [np.nan, 3.0, 6.0, np.nan], equal_nan=True)


@pytest.mark.parametrize(
    ("actual", "forecast"), [([], []), ([1.0], [1.0, 2.0]), ([-1.0], [1.0]), ([1.0], [np.nan])]
)
def test_what_has_no_error_is_refused(actual: list[float], forecast: list[float]) -> None:
    with pytest.raises(InvalidInput):
        accuracy(np.array(actual), np.array(forecast))
