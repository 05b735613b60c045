"""The benchmark of the features has the ratios and goals that were set, and takes parts together rightly."""

import pytest

from bench.features import whole
from bench.features_goals import GOALS
from bench.harness import BenchResult, Ratio
from bench.registry import BENCHES
from core.errors import InternalError

AT_LEAST = {
    "read_1": 8.0,
    "read_10": 25.0,
    "read_100": 80.0,
    "coalesced_reads": 10.0,
    "write": 12.0,
    "training_set": 15.0,
    "flink_vs_faust": 25.0,
}
AT_MOST = {"training_set_vs_asof": 1.3}


def part(bench: str, names: list[str], control: tuple[float, ...] = (1.0,) * 5) -> BenchResult:
    ratios = [Ratio(name, (90.0,) * 5, GOALS[name].bound, GOALS[name].at_most) for name in names]
    return BenchResult(
        bench, ratios, {"python": "3.11"}, {"rows": len(names)}, {bench: 1.0}, Ratio("control", control, None)
    )


def parts(control: tuple[float, ...] = (1.0,) * 5) -> list[BenchResult]:
    names = list(GOALS)
    return [part("features-online", names[:5]), part("features-training", names[5:], control)]


def test_the_goals_are_those_that_were_set() -> None:
    assert {name: goal.bound for name, goal in GOALS.items() if not goal.at_most} == AT_LEAST
    assert {name: goal.bound for name, goal in GOALS.items() if goal.at_most} == AT_MOST
    assert "features" in BENCHES


def test_parts_come_together() -> None:
    found = whole(parts(), {"backfill events/s": 2.0})
    assert [ratio.name for ratio in found.ratios] == list(GOALS)
    assert found.bench == "features"
    assert found.sizes == {"online: rows": 5, "training: rows": 3}
    assert found.figures == {"features-online": 1.0, "features-training": 1.0, "backfill events/s": 2.0}
    assert found.valid
    assert {name for name, ratio in found.as_json()["ratios"].items() if not ratio["met"]} == set(AT_MOST)


def test_one_noisy_part_makes_the_whole_invalid() -> None:
    assert not whole(parts(control=(0.5, 1.0, 1.5, 0.6, 1.4)), {}).valid
    assert not whole(parts(control=(1.2,) * 5), {}).valid


def test_a_missing_ratio_or_another_goal_is_refused() -> None:
    with pytest.raises(InternalError, match="ratios"):
        whole(parts()[:1], {})
    softer = parts()
    softer[0].ratios[0] = Ratio("read_1", (30.0,) * 5, goal=4.0)
    with pytest.raises(InternalError, match="ratios"):
        whole(softer, {})
