"""The judge finds what is planted and nothing else."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pyarrow as pa
import pytest

from core.errors import UnknownName
from features.aggregates import First, Last
from features.judge.verify import verify
from features.offline.history import compute
from features.view import Feature
from tests.features.views import BEGIN, VIEW, swipe, table

EVENTS = table(
    [
        swipe(n, n * 3.5, card="ab"[n % 2], cents=n * 37 % 901, domain=[None, "x", "y"][n % 3])
        for n in range(60)
    ]
)


def streamed(late: tuple[int, ...] = ()) -> list[dict[str, Any]]:
    """What a right stream makes of EVENTS when the rows `late` are too late."""
    rows = EVENTS.to_pylist()
    on_time = [row for number, row in enumerate(rows) if number not in late]
    values = iter(compute(VIEW, pa.Table.from_pylist(on_time, schema=EVENTS.schema)).to_pylist())
    empty = dict.fromkeys(VIEW.feature_names)
    return [
        row | (empty if number in late else next(values)) | {"late": number in late}
        for number, row in enumerate(rows)
    ]


def as_table(rows: list[dict[str, Any]]) -> pa.Table:
    features = [
        (feature.name, pa.int64() if VIEW.kind(feature) == "long" else pa.float64())
        for feature in VIEW.features
    ]
    return pa.Table.from_pylist(rows, pa.schema([*EVENTS.schema, *features, ("late", pa.bool_())]))


def test_a_right_stream_passes_and_eviction_was_tested() -> None:
    report = verify(VIEW, EVENTS, as_table(streamed()))
    assert report.ok
    assert (report.checked, report.late) == (60, 0)
    assert set(report.per_feature.values()) == {0}
    times = [(row["card"], row["at"]) for row in EVENTS.to_pylist()]
    newest = {card: max(at for other, at in times if other == card) for card, _ in times}
    wanted = sum(newest[card] - at > over for card, at in times for over in VIEW.windows)
    assert report.rows_evicted == wanted > 0


def test_late_rows_are_in_no_window_and_are_not_checked() -> None:
    report = verify(VIEW, EVENTS, as_table(streamed(late=(7, 30))))
    assert report.ok
    assert (report.checked, report.late) == (58, 2)


def test_repeats_count_once_on_both_sides() -> None:
    rows = streamed()
    repeated = pa.concat_tables([EVENTS, EVENTS.slice(5, 10)])
    report = verify(VIEW, repeated, as_table([*rows, *rows[20:30]]))
    assert report.ok
    assert report.checked == 60


@pytest.mark.parametrize("feature", ["count_10s", "sum_60s", "max_10s", "domains_60s"])
def test_one_integer_that_is_off_by_one_is_found(feature: str) -> None:
    rows = streamed()
    rows[33][feature] += 1
    report = verify(VIEW, EVENTS, as_table(rows))
    assert report.mismatched == 1
    assert report.per_feature[feature] == 1
    assert not report.ok


@pytest.mark.parametrize(("factor", "mismatched"), [(1 + 1e-12, 0), (1 + 1e-7, 1), (float("nan"), 1)])
def test_doubles_are_compared_to_the_tolerance(factor: float, mismatched: int) -> None:
    rows = streamed()
    rows[40]["mean_60s"] *= factor
    assert verify(VIEW, EVENTS, as_table(rows)).mismatched == mismatched


def test_a_null_is_not_a_zero() -> None:
    rows = streamed()
    rows[3]["weight_10s"] = 0.0
    assert verify(VIEW, EVENTS, as_table(rows)).per_feature["weight_10s"] == 1


@pytest.mark.parametrize("wrong", [None, "z"])
def test_texts_and_booleans_are_compared_exactly(wrong: str | None) -> None:
    over = timedelta(seconds=60)
    view = replace(
        VIEW,
        features=(
            Feature("domain_first", First("domain", over=over), unit="domain"),
            Feature("trusted_last", Last("trusted", over=over), unit="answer"),
        ),
    )
    events = table([swipe(n, n, domain="x", trusted=bool(n % 2)) for n in range(4)])
    rows = [
        row | {"domain_first": "x", "trusted_last": bool(n % 2), "late": False}
        for n, row in enumerate(events.to_pylist())
    ]
    assert verify(view, events, pa.Table.from_pylist(rows)).ok
    rows[2]["domain_first"] = wrong
    rows[3]["trusted_last"] = False
    report = verify(view, events, pa.Table.from_pylist(rows))
    assert report.per_feature == {"domain_first": 1, "trusted_last": 1}


def test_a_row_that_is_lost_and_one_from_nowhere_are_found() -> None:
    rows = streamed()
    lost = rows.pop(12)
    report = verify(VIEW, EVENTS, as_table([*rows, lost | {"id": "nobody's"}]))
    assert (report.missing, report.extra, report.checked) == (1, 1, 59)


def test_a_late_row_that_was_counted_after_all_is_found() -> None:
    rows = streamed()
    rows[10] |= dict.fromkeys(VIEW.feature_names) | {"late": True}
    report = verify(VIEW, EVENTS, as_table(rows))
    assert report.mismatched > 0


def test_a_row_under_another_entity_or_time_is_found() -> None:
    rows = streamed()
    rows[8] = rows[8] | {"card": "c"}
    assert verify(VIEW, EVENTS, as_table(rows)).extra == 1


def test_a_missing_column_is_named() -> None:
    with pytest.raises(UnknownName, match="late"):
        verify(VIEW, EVENTS, as_table(streamed()).drop_columns(["late"]))


def test_only_the_asked_span_is_looked_at_with_all_events() -> None:
    rows = streamed(late=(3, 50))
    for number in (0, 59):
        rows[number]["count_10s"] += 1
    rows[1]["card"] = "c"
    since, until = BEGIN + timedelta(seconds=7), BEGIN + timedelta(seconds=59 * 3.5)
    report = verify(VIEW, EVENTS, as_table(rows), since=since, until=until)
    assert report.ok
    assert (report.checked, report.late) == (55, 2)
    assert verify(VIEW, EVENTS, as_table(rows)).mismatched == 2


def test_each_feature_is_reported_with_its_largest_difference() -> None:
    rows = streamed()
    rows[40]["mean_60s"] *= 1 + 1e-3
    rows[41]["mean_60s"] *= 1 + 1e-4
    lost = rows.pop(59)
    found = verify(VIEW, EVENTS, as_table([*rows, lost | {"id": "nobody's"}])).by_feature
    assert list(found) == list(VIEW.feature_names)
    mean = found["mean_60s"]
    assert (mean.checked, mean.mismatched, mean.missing, mean.extra) == (59, 2, 1, 1)
    assert mean.largest_difference == pytest.approx(1e-3 / (1 + 1e-3))
    assert (found["count_10s"].mismatched, found["count_10s"].largest_difference) == (0, 0.0)


def test_a_column_of_another_type_is_wrong_in_every_row() -> None:
    right = as_table(streamed())
    place = right.schema.get_field_index("sum_10s")
    planted = right.set_column(place, "sum_10s", right.column("sum_10s").cast(pa.float64()))
    report = verify(VIEW, EVENTS, planted)
    assert (report.mismatched, report.per_feature["sum_10s"]) == (60, 60)
    assert report.per_feature["count_10s"] == 0
