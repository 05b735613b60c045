"""Infer: one call when all is well, only the bad rows fail, and a broken model blames no row."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import ModelError, ModelFailed, ModelRefused
from operators.infer import Inferred, infer
from operators.ports import Matrix

BAD_ENCODE, BAD_SCORE = -1.0, -2.0


class Halving:
    """Scores `x / 2`; raises for a batch that holds a marked value, counts its calls."""

    name, version = "halving", "1"
    output_range = (0.0, 1.0)
    inputs: Sequence[str] = ("x",)

    def __init__(self, broken: bool = False) -> None:
        self.broken = broken
        self.calls = 0

    def encode(self, batch: pa.RecordBatch) -> Matrix:
        x = batch.column(0).to_numpy(zero_copy_only=False).astype(np.float32)
        if (x == BAD_ENCODE).any():
            raise ValueError("cannot encode")
        return np.ascontiguousarray(x[:, None])

    def encode_rows(self, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Matrix:
        return self.encode(
            pa.record_batch({name: [row[at] for row in rows] for at, name in enumerate(columns)})
        )

    def score(self, matrix: Matrix) -> Matrix:
        self.calls += 1
        if self.broken or (matrix == BAD_SCORE).any():
            raise RuntimeError("engine failed")
        scored: Matrix = matrix[:, 0] / 2
        return scored

    def check(self) -> None:
        if self.broken:
            raise ModelRefused("golden outputs differ")

    def contributions(self, matrix: Matrix) -> Matrix:
        return matrix


def run(values: list[float], scorer: Halving | None = None) -> Inferred:
    return infer(pa.record_batch({"x": pa.array(values, pa.float64())}), scorer or Halving())


def test_a_good_batch_is_one_call() -> None:
    scorer = Halving()
    inferred = run([0.0, 0.5, 1.0], scorer)
    assert scorer.calls == 1
    assert inferred.outputs.tolist() == [0.0, 0.25, 0.5]
    assert inferred.ok.tolist() == [0, 1, 2]
    assert inferred.failed == ()


values = st.lists(
    st.sampled_from([0.0, 0.25, 0.5, 1.0, BAD_ENCODE, BAD_SCORE, 3.0, float("nan"), float("inf")]),
    max_size=40,
)


@given(values)
def test_exactly_the_bad_rows_fail(given: list[float]) -> None:
    inferred = run(given)
    good = [row for row, value in enumerate(given) if 0 <= value <= 1]
    assert inferred.ok.tolist() == good
    assert inferred.outputs.tolist() == [given[row] / 2 for row in good]
    assert inferred.matrix[:, 0].tolist() == [given[row] for row in good]
    assert [failed.row for failed in inferred.failed] == [r for r in range(len(given)) if r not in good]
    assert all(isinstance(failed.error, ModelFailed) for failed in inferred.failed)


def test_isolation_costs_a_logarithm_of_calls() -> None:
    scorer = Halving()
    given = [0.5] * 512
    given[300] = BAD_SCORE
    inferred = run(given, scorer)
    assert [failed.row for failed in inferred.failed] == [300]
    assert scorer.calls <= 2 * 9 + 1


def test_a_broken_model_blames_no_row() -> None:
    with pytest.raises(ModelRefused):
        run([0.1, 0.2], Halving(broken=True))


def test_an_engine_that_gives_the_wrong_shape_fails_its_rows() -> None:
    class Short(Halving):
        def score(self, matrix: Matrix) -> Matrix:
            return np.zeros(0, np.float32)

    inferred = run([0.1], Short())
    assert [failed.row for failed in inferred.failed] == [0]
    assert ModelError.__name__ in inferred.failed[0].error.what


def test_an_empty_batch_asks_nobody() -> None:
    scorer = Halving(broken=True)
    inferred = run([], scorer)
    assert inferred.ok.tolist() == []
    assert inferred.matrix.shape == (0, 1)
    assert scorer.calls == 0
