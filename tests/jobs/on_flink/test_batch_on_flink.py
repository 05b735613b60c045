"""A backfill on a real Flink: the windows of DuckDB, from a recorded range, in batch mode."""

import random
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from core.errors import DeclarationError
from core.settings import settings
from features.catalog.regional_demand import REGIONAL_DEMAND
from features.compile.flink_batch import WindowedBatch
from features.offline.batch import Span
from features.view import FeatureView
from jobs.on_flink.batch import backfill_on_flink
from pipelines.recorded import bounds
from tests.jobs.on_flink.live import java_parts
from tests.jobs.on_flink.test_windows_on_flink import (
    BEGIN,
    DAY,
    SHAPES,
    Start,
    check_rows,
    expected,
    of_the_record,
    rides,
    rows_of,
    start,
    stream_of,
)

__all__ = ["start"]
pytestmark = [pytest.mark.services, pytest.mark.timeout(600)]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: type(shape).__name__)
def test_the_windows_of_a_recorded_range_are_duckdb_s(start: Start, shape: Any) -> None:
    dice = random.Random(4)
    view = without_looking_back(of_the_record(shape))
    live = start(view)
    happened = rides(dice, 600)
    shuffled = dice.sample(happened, len(happened))  # there is no lateness
    live.send([*shuffled, *shuffled[:50]])
    _, until = bounds(live.stream.source, settings())
    live.send([type(happened[0])(tenant="t", id="after", city="a", zone="", at=BEGIN)])
    end = BEGIN + DAY
    middle = happened[300].at.replace(microsecond=0)
    wanted = [row for row in expected(view, happened, end) if row["window_end"] > middle]
    batch = WindowedBatch(live.stream, Span(middle, end), until)
    backfill_on_flink(batch, settings(), java_parts(settings()), timeout=timedelta(minutes=3))
    found = rows_of(live, len(wanted))
    assert len(wanted) > 30
    check_rows(found, wanted)
    assert live.count(live.stream.rows) == len(wanted)


def without_looking_back(view: FeatureView) -> FeatureView:
    """The view with its aggregates only."""
    return replace(view, features=tuple(feature for feature, _ in view.aggregates))


def test_a_view_that_looks_back_is_refused_with_the_reason() -> None:
    span = Span(BEGIN, BEGIN + DAY)
    with pytest.raises(DeclarationError, match="look back at other"):
        WindowedBatch(stream_of(REGIONAL_DEMAND), span, {0: 1})
