"""Bands: limits are exclusive, no score means a person looks, and the whole agrees with a naive loop."""

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import DeclarationError
from operators.decide import Band, Bands, decide

BANDS = Bands(
    (Band("block", "blocked", above=80), Band("confirm", "confirmed", below=20, explain=False)),
    otherwise=Band("review", "in_review"),
)


@pytest.mark.parametrize(
    ("score", "decision", "status"),
    [
        (100.0, "block", "blocked"),
        (np.nextafter(np.float32(80), np.float32(100)), "block", "blocked"),
        (80.0, "review", "in_review"),
        (50.0, "review", "in_review"),
        (20.0, "review", "in_review"),
        (np.nextafter(np.float32(20), np.float32(0)), "confirm", "confirmed"),
        (0.0, "confirm", "confirmed"),
        (math.nan, "review", "in_review"),
        (None, "review", "in_review"),
    ],
)
def test_limits_are_exclusive_and_no_score_is_reviewed(
    score: float | None, decision: str, status: str
) -> None:
    decided = decide(pa.array([score], pa.float32()), BANDS)
    assert decided.decision.to_pylist() == [decision]
    assert decided.status.to_pylist() == [status]


scores = st.lists(
    st.one_of(st.none(), st.floats(width=32, allow_nan=True), st.sampled_from([20.0, 80.0])), max_size=60
)


@given(scores)
def test_agrees_with_a_loop(values: list[float | None]) -> None:
    def naive(score: float | None) -> str:
        if score is not None and score > 80:
            return "block"
        if score is not None and score < 20:
            return "confirm"
        return "review"

    decided = decide(values, BANDS)
    expected = [naive(value) for value in values]
    assert decided.decision.to_pylist() == expected
    for name in ("block", "confirm", "review"):
        assert decided.only(name).tolist() == [i for i, found in enumerate(expected) if found == name]
    assert decided.explained.tolist() == [i for i, found in enumerate(expected) if found != "confirm"]


def test_probabilities_times_hundred_in_float32_keep_the_limits() -> None:
    scores = np.array([0.8, 0.2], np.float32) * np.float32(100)
    assert decide(scores, BANDS).decision.to_pylist() == ["review", "review"]


def test_a_band_with_both_limits_is_an_open_interval() -> None:
    bands = Bands((Band("watch", "watched", above=40, below=60),), otherwise=Band("pass", "passed"))
    assert decide([40.0, 41.0, 59.0, 60.0], bands).decision.to_pylist() == ["pass", "watch", "watch", "pass"]


@pytest.mark.parametrize(
    "bands",
    [
        (Band("block", "blocked", above=80), Band("hold", "held", above=90)),
        (Band("block", "blocked", above=80), Band("block", "blocked", below=20)),
        (Band("never", "never", above=80, below=80),),
        (Band("all", "all"),),
        (Band("nan", "nan", above=math.nan),),
    ],
)
def test_bands_that_overlap_or_never_match_are_refused(bands: tuple[Band, ...]) -> None:
    with pytest.raises(DeclarationError):
        Bands(bands, otherwise=Band("review", "in_review"))


def test_touching_bands_are_allowed_and_the_limit_falls_to_otherwise() -> None:
    bands = Bands(
        (Band("low", "low", below=50), Band("high", "high", above=50)), otherwise=Band("middle", "middle")
    )
    assert decide([49.0, 50.0, 51.0], bands).decision.to_pylist() == ["low", "middle", "high"]


def test_an_unknown_decision_is_refused_with_the_known_ones() -> None:
    with pytest.raises(DeclarationError, match="block"):
        decide([1.0], BANDS).only("blokc")
