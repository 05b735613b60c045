"""Rows per horizon equal what a plain loop over calendar dates makes."""

import random
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from core.clock import to_millis
from operators.forecast import ASKED, Horizon, per_horizon


@pytest.mark.parametrize("every", [timedelta(hours=1), timedelta(days=1), timedelta(minutes=15)])
@pytest.mark.parametrize("seed", range(5))
def test_rows_per_horizon_equal_a_loop_over_dates(every: timedelta, seed: int) -> None:
    dice = random.Random(seed)
    horizons = [
        Horizon(f"h{at}", steps=dice.randint(1, 200), lead=dice.choice([0, 1, dice.randint(2, 5_000)]))
        for at in range(dice.randint(1, 4))
    ]
    first = datetime(dice.choice([1969, 1970, 2024, 2026]), 2, 27, tzinfo=UTC)
    origins = [first + dice.randint(0, 9_000) * every for _ in range(dice.randint(0, 30))]
    rows = pa.RecordBatch.from_pydict({"id": pa.array(range(len(origins)), pa.int64())})
    millis = np.array([to_millis(one) for one in origins], np.int64)
    made = per_horizon(rows, millis, horizons, every)
    expected = []
    for id, origin in enumerate(origins):
        for horizon in horizons:
            begins = origin + horizon.lead * every
            row = {"id": id, "lead": horizon.lead, "steps": horizon.steps}
            expected.append(row | {"weekday": begins.weekday(), "hour": begins.hour})
    assert made.to_pylist() == expected
    assert made.schema.names == ["id", *ASKED]
    for horizon in horizons:
        ends = [to_millis(origin + (horizon.lead + horizon.steps) * every) for origin in origins]
        assert horizon.ends(millis, every).tolist() == ends
