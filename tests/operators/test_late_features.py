"""Late rows get their features as of their own time; without a store they are marked, never lost."""

from collections.abc import Mapping
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest

from core.clock import ManualClock
from core.errors import Unavailable
from operators.breaker import Breaker, Breaking
from operators.late_features import fill_late

ONE_FAILURE = Breaking(failures=1, open_for=timedelta(seconds=1))


class Store:
    """Gives ten times the id; counts its calls; away when told so."""

    def __init__(self, away: bool = False) -> None:
        self.away = away
        self.asked: list[list[int]] = []

    def read_rows(self, batch: pa.RecordBatch) -> Mapping[str, pa.Array]:
        ids = batch.column(0).to_pylist()
        self.asked.append(ids)
        if self.away:
            raise Unavailable("connection refused")
        return {"count": pa.array([10 * i for i in ids], pa.int64())}


BATCH = pa.record_batch({"id": [1, 2, 3], "count": pa.array([7, None, 9], pa.int64())})
LATE = np.array([False, True, False])


def test_only_late_rows_are_read_and_filled() -> None:
    store = Store()
    filled = fill_late(BATCH, LATE, ["count"], store, Breaker(ManualClock(), ONE_FAILURE))
    assert store.asked == [[2]]
    assert filled.batch.to_pydict() == {"id": [1, 2, 3], "count": [7, 20, 9]}
    assert not filled.missing.any()
    assert filled.reason is None


def test_without_late_rows_the_store_is_not_asked() -> None:
    store = Store()
    filled = fill_late(BATCH, np.zeros(3, bool), ["count"], store, Breaker(ManualClock(), ONE_FAILURE))
    assert store.asked == []
    assert filled.batch is BATCH


@pytest.mark.parametrize("store", [None, Store(away=True)])
def test_a_store_that_is_away_marks_the_late_rows(store: Store | None) -> None:
    filled = fill_late(BATCH, LATE, ["count"], store, Breaker(ManualClock(), ONE_FAILURE))
    assert filled.batch.equals(BATCH)
    assert filled.missing.tolist() == [False, True, False]
    assert filled.reason


def test_the_store_is_left_alone_for_a_while_after_a_failure_and_then_tried_again() -> None:
    clock, store = ManualClock(), Store(away=True)
    breaker = Breaker(clock, ONE_FAILURE)
    for _ in range(5):
        assert fill_late(BATCH, LATE, ["count"], store, breaker).missing.any()
    assert len(store.asked) == 1
    store.away = False
    clock.advance(timedelta(seconds=1))
    assert not fill_late(BATCH, LATE, ["count"], store, breaker).missing.any()
    assert not fill_late(BATCH, LATE, ["count"], store, breaker).missing.any()
    assert len(store.asked) == 3
