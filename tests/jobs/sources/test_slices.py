from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from core.errors import InvalidInput
from jobs.sources.slices import Slices, cut, ending_at

START = datetime(2026, 1, 1, tzinfo=UTC)


def hourly(hours: int) -> pa.Table:
    times = [START + timedelta(hours=n) for n in range(hours)]
    return pa.table({"n": range(hours), "occurred_at": pa.array(times, pa.timestamp("ms", tz="UTC"))})


def numbers(part: pa.Table) -> range:
    values = part.column("n").to_pylist()
    found = range(values[0], values[-1] + 1) if values else range(0)
    assert values == list(found)
    return found


def test_the_parts_follow_each_other_and_history_is_seven_days() -> None:
    slices = cut(hourly(400), events=50)
    assert numbers(slices.wall) == range(350, 400)
    assert numbers(slices.recorded) == range(300, 350)
    assert numbers(slices.history) == range(300 - 7 * 24, 300)
    assert numbers(slices.training) == range(300 - 7 * 24)
    assert slices.stream_starts_at == START + timedelta(hours=300)


def test_rows_of_one_time_are_not_torn_apart_by_the_start_of_history() -> None:
    table = pa.concat_tables([hourly(1), hourly(400).slice(0, 1), hourly(400)])
    slices = cut(table, events=50)
    assert max(slices.training.column("occurred_at").to_pylist()) < min(
        slices.history.column("occurred_at").to_pylist()
    )
    assert (
        sum(part.num_rows for part in (slices.training, slices.history, slices.recorded, slices.wall)) == 402
    )


def test_the_second_phase_may_have_another_length() -> None:
    slices: Slices = cut(hourly(400), events=10, wall_events=0)
    assert numbers(slices.recorded) == range(390, 400)
    assert slices.wall.num_rows == 0


@pytest.mark.parametrize(("hours", "events"), [(100, 51), (200, 20), (10, 0)])
def test_nothing_left_to_learn_from_is_refused(hours: int, events: int) -> None:
    with pytest.raises(InvalidInput):
        cut(hourly(hours), events=events)


def test_moving_keeps_the_spacing_and_everything_else() -> None:
    table = hourly(5)
    end = datetime(2027, 3, 4, 5, 6, 7, 8000, tzinfo=UTC)
    moved = ending_at(table, end)
    assert moved.schema == table.schema
    assert moved.column("n").equals(table.column("n"))
    assert moved.column("occurred_at").to_pylist() == [end - timedelta(hours=4 - n) for n in range(5)]


def test_history_is_moved_with_the_stream() -> None:
    table = hourly(10)
    last = table.column("occurred_at")[-1].as_py()
    end = START + timedelta(days=900)
    moved = ending_at(table.slice(0, 4), end, last=last)
    assert moved.column("occurred_at")[-1].as_py() == end - timedelta(hours=6)
