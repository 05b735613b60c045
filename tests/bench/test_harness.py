"""The harness measures what it says: ratios, goals, order, and when a run does not count."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.harness import BenchResult, Ratio, compare, quiet, require_equal, versions
from bench.peers import peer_python
from bench.registry import BENCHES, run, text
from bench.report import keep, latest
from core.clock import ManualClock
from core.errors import DeclarationError, InternalError, UnknownName


def result(*ratios: Ratio, control: Ratio | None = None) -> BenchResult:
    return BenchResult("codec", list(ratios), versions(("fastavro",)), {"rows": 512}, {"us": 1.5}, control)


def test_rounds_go_a_b_b_a_and_drift_cancels() -> None:
    order: list[str] = []
    ticking: Iterator[int] = iter(range(1000))

    def arm(name: str, base: float) -> float:
        order.append(name)
        return base + 0.1 * next(ticking)  # a machine that gets slower all the time

    ratio = compare("r", numerator=lambda: arm("A", 1), denominator=lambda: arm("B", 1), goal=None)
    assert order[:2] == ["A", "B"]
    assert order[2:6] == ["A", "B", "B", "A"]
    assert len(ratio.per_round) == 5
    assert all(each == pytest.approx(1.0) for each in ratio.per_round)


def test_a_ratio_is_the_numerators_time_over_the_denominators() -> None:
    ratio = compare("r", numerator=lambda: 6.0, denominator=lambda: 2.0, goal=3.0, rounds=7)
    assert ratio.median == 3.0
    assert len(ratio.per_round) == 7
    assert ratio.met


def test_goals_go_both_ways() -> None:
    assert Ratio("r", (2.0, 2.1, 2.2), goal=2.1).met
    assert not Ratio("r", (2.0, 2.0, 2.2), goal=2.1).met
    assert Ratio("r", (2.0, 2.1, 2.2), goal=2.1, at_most=True).met
    assert not Ratio("r", (2.0, 2.2, 2.2), goal=2.1, at_most=True).met


def test_a_noisy_or_shifted_control_makes_the_run_invalid() -> None:
    assert quiet((0.99, 1.0, 1.01, 1.0, 1.02))
    assert not quiet((1.2, 1.21, 1.19, 1.2, 1.2))
    assert not quiet((0.5, 1.0, 1.5, 0.6, 1.4))
    assert not result(control=Ratio("control", (0.5, 1.0, 1.5, 0.6, 1.4), None)).valid


def test_unequal_arms_are_not_measured() -> None:
    require_equal("sums", 3, 3)
    with pytest.raises(InternalError, match="sums"):
        require_equal("sums", 3, 4)


def test_the_json_has_the_agreed_form() -> None:
    found = json.loads(json.dumps(result(Ratio("decode", (2.0, 3.0, 4.0), goal=2.5)).as_json()))
    assert found["bench"] == "codec"
    assert found["ratios"] == {"decode": {"median": 3.0, "min": 2.0, "max": 4.0, "goal": 2.5, "met": True}}
    assert found["versions"]["fastavro"]
    assert found["valid"] is True


def test_results_are_kept_and_the_table_shows_the_latest_valid_one(tmp_path: Path) -> None:
    noise = Ratio("control", (0.5, 1.0, 1.5, 0.6, 1.4), None)
    for ratio, control in ((5.0, None), (9.0, None), (7.0, noise)):
        keep(
            result(Ratio("decode", (ratio,) * 5, goal=8.0), control=control),
            folder=tmp_path,
            clock=ManualClock(),
        )
    lines = (tmp_path / "results.jsonl").read_text().splitlines()
    assert [json.loads(line)["ratios"]["decode"]["median"] for line in lines] == [5.0, 9.0, 7.0]
    table = (tmp_path / "README.md").read_text()
    assert "| decode | 9.00 | 9.00 | 9.00 | 8 | yes |" in table
    assert "Invalid" not in table
    assert [each["ratios"]["decode"]["median"] for each in latest(map(json.loads, lines))] == [9.0]


def test_an_invalid_result_is_shown_as_such_until_a_valid_one_comes(tmp_path: Path) -> None:
    noise = Ratio("control", (0.5, 1.0, 1.5, 0.6, 1.4), None)
    keep(result(Ratio("decode", (9.0,) * 5, goal=8.0), control=noise), folder=tmp_path, clock=ManualClock())
    assert "Invalid" in (tmp_path / "README.md").read_text()


def test_an_unknown_bench_suggests_the_nearest() -> None:
    with pytest.raises(UnknownName, match="codec") as caught:
        run("codex")
    assert caught.value.nearest == "codec"
    assert "codec" in BENCHES


def test_people_see_what_was_missed() -> None:
    shown = text(result(Ratio("decode", (2.0,) * 5, goal=8.0, meaning="bytes to Arrow")))
    assert "MISSED" in shown
    assert "bytes to Arrow" in shown


def test_a_peer_must_be_pinned() -> None:
    with pytest.raises(DeclarationError, match="not pinned"):
        peer_python("faust", ["faust-streaming"])
