"""A planted leak does not come into a training set, and the check finds wrong joins out."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from features.offline.training import FeatureRows, training_set
from tests.features.training_rows import DEMAND, MS, asked, entities, rows_of, window

LABELS = [n % 2 for n in range(40)]


def leaky(delay: timedelta) -> tuple[pa.Table, FeatureRows]:
    """A feature that is the label, readable so much after the row's time; before that it was 5."""
    rows = [asked(10 * n + 2, label=label) for n, label in enumerate(LABELS)]
    known = [window(-20, rides=5)]
    known += [
        window(0) | {"window_end": row["event_time"] + delay - DEMAND.disorder, "rides": row["label"]}
        for row in rows
    ]
    return entities(rows), rows_of(DEMAND, known)


Join = Callable[[pa.Table, FeatureRows], list[Any]]


def ours(rows: pa.Table, source: FeatureRows) -> list[Any]:
    return training_set(rows, ["demand.rides"], [source]).column("demand__rides").to_pylist()


def bare(condition: str) -> Join:
    def join(rows: pa.Table, source: FeatureRows) -> list[Any]:
        with duckdb.connect() as connection:
            connection.register("e", rows)
            connection.register("f", source.rows)
            query = (
                "SELECT e.*, f.rides FROM e ASOF LEFT JOIN f ON e.tenant = f.tenant AND e.city = f.city "
                f"AND e.zone = f.zone AND {condition} ORDER BY e.event_time"
            )
            return connection.sql(query).to_arrow_table().column("rides").to_pylist()

    return join


def assert_no_leak(join: Join) -> None:
    """What can be read a millisecond after a row's time is not in it; what can be at the time is."""
    assert join(*leaky(MS)) == [5, *LABELS[:-1]]
    assert join(*leaky(timedelta())) == LABELS


def test_nothing_that_was_not_readable_comes_in() -> None:
    assert_no_leak(ours)


READABLE = "e.event_time {} f.window_end + INTERVAL 2 SECOND"


def test_the_join_as_documented_does_not_leak() -> None:
    assert_no_leak(bare(READABLE.format(">=")))


@pytest.mark.parametrize(
    "condition",
    [READABLE.format("<="), READABLE.format("<"), READABLE.format(">"), "e.event_time >= f.window_end",
     READABLE.format(">=") + " - INTERVAL 1 MILLISECOND"],
)  # fmt: skip
def test_a_wrong_join_is_found_out(condition: str) -> None:
    with pytest.raises(AssertionError):
        assert_no_leak(bare(condition))


def test_the_time_used_is_never_after_the_row() -> None:
    found = training_set(leaky(MS)[0], ["demand.rides"], [leaky(MS)[1]], times=True).to_pylist()
    assert all(row["demand__time"] + DEMAND.disorder <= row["event_time"] for row in found)
