"""The features, whole: online store, training sets, backfill, engines, freshness.

What needs no services beside it is measured before they are started, then the engines, then what is deployed.
Each part runs alone as well: `python -m bench.features_online` and so on; see there for what is measured.
"""

from collections.abc import Mapping, Sequence

from bench import features_engines, features_online, features_training
from bench.features_backfill import backfill_figures
from bench.features_freshness import freshness_figures
from bench.features_goals import GOALS
from bench.harness import BenchResult, gathered, require_equal


def bench() -> BenchResult:
    """Every ratio of `bench.features_goals`, in that order. Takes about twelve minutes."""
    parts = [features_online.bench(), features_training.bench()]
    figures = backfill_figures()
    parts.append(features_engines.bench())
    return whole(parts, figures | freshness_figures())


def whole(parts: Sequence[BenchResult], figures: Mapping[str, float]) -> BenchResult:
    """Raises InternalError where the ratios and goals are not those of `bench.features_goals`."""
    ratios = [ratio for part in parts for ratio in part.ratios]
    found = {ratio.name: (ratio.goal, ratio.at_most) for ratio in ratios}
    require_equal("ratios and their goals", found, {name: tuple(goal) for name, goal in GOALS.items()})
    return gathered("features", parts, figures)
