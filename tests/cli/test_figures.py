"""The demo's own check: the report of a good run passes, each broken promise is named."""

from typing import Any

import pytest

from cli.demo.figures import Tally, failures

GOOD: dict[str, Any] = {
    "accepted": 100, "lost": 0, "duplicates": 0, "late": 1, "dead_lettered": 0,
    "auc_stream": 0.9, "auc_offline": 0.9005,
    "features": {"checked": 99, "mismatched": 0, "missing": 0, "extra": 0, "rows_evicted": 5},
}  # fmt: skip


def broken(**changes: Any) -> dict[str, Any]:
    features = {**GOOD["features"], **changes.pop("features", {})}
    return {**GOOD, **changes, "features": features}


def test_a_good_run_breaks_nothing() -> None:
    assert failures(GOOD) == []


@pytest.mark.parametrize(
    ("report", "word"),
    [
        (broken(lost=1), "lost"),
        (broken(duplicates=2), "duplicates"),
        (broken(features={"mismatched": 1}), "mismatched"),
        (broken(features={"missing": 1}), "missing"),
        (broken(features={"extra": 1}), "extra"),
        (broken(features={"checked": 98}), "checked"),
        (broken(features={"rows_evicted": 0}), "left a window"),
        (broken(late=2, features={"checked": 98}), "late"),
        (broken(auc_stream=0.897), "auc_stream"),
    ],
)
def test_each_broken_promise_is_named(report: dict[str, Any], word: str) -> None:
    assert any(word in line for line in failures(report))


def test_the_first_result_of_an_id_counts_and_the_second_is_a_repeat() -> None:
    tally = Tally(accepted={"a", "b"})
    assert tally.result("a", "blocked", score=90.0, late=False, degraded=False)
    assert not tally.result("a", "confirmed", score=1.0, late=False, degraded=False)
    assert tally.decisions() == {"blocked": 1}
    assert (tally.repeats, tally.lost) == (1, 1)


def test_the_warm_up_is_timed_apart_and_counted_like_the_rest() -> None:
    tally = Tally(accepted={"a", "b"})
    tally.result("a", "blocked", score=90.0, late=False, degraded=False)
    tally.stages["total"].append(900.0)
    tally.stages["queue"].append(800.0)
    tally.warmed_up()
    tally.result("b", "confirmed", score=1.0, late=False, degraded=False)
    tally.stages["total"].append(100.0)

    assert tally.percentiles() == {"total": {"p50": 100.0, "p99": 100.0}}
    assert tally.warm_up == [900.0]
    assert (tally.lost, tally.decisions()) == (0, {"blocked": 1, "confirmed": 1})
