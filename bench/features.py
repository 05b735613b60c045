"""The features, whole: online store, training sets, backfill, engines, freshness.

What needs no services beside it is measured before they are started, then the engines, then what is deployed.
Each part runs alone as well: `python -m bench.features_online` and so on; see there for what is measured.
"""

import statistics
from collections.abc import Mapping, Sequence

from bench import features_engines, features_online, features_training
from bench.features_backfill import backfill_figures
from bench.features_freshness import freshness_figures
from bench.features_goals import GOALS
from bench.harness import BenchResult, Ratio, quiet, require_equal


def bench() -> BenchResult:
    """Every ratio of `bench.features_goals`, in that order. Takes about twelve minutes."""
    parts = [features_online.bench(), features_training.bench()]
    figures = backfill_figures()
    parts.append(features_engines.bench())
    return gathered(parts, figures | freshness_figures())


def gathered(parts: Sequence[BenchResult], figures: Mapping[str, float]) -> BenchResult:
    """One result of several, and further figures. Its A/A control is that of the noisiest part.

    Raises InternalError where the ratios and goals are not those of `bench.features_goals`.
    """
    ratios = [ratio for part in parts for ratio in part.ratios]
    found = {ratio.name: (ratio.goal, ratio.at_most) for ratio in ratios}
    require_equal("ratios and their goals", found, {name: tuple(goal) for name, goal in GOALS.items()})
    whole = BenchResult(
        bench="features",
        ratios=ratios,
        versions={name: version for part in parts for name, version in part.versions.items()},
        sizes={f"{_short(part)}: {name}": size for part in parts for name, size in part.sizes.items()},
        control=min((part.control for part in parts if part.control is not None), key=_quietness),
    )
    for part in parts:
        whole.figures |= part.figures
    whole.figures |= figures
    return whole


def _short(part: BenchResult) -> str:
    return part.bench.removeprefix("features-")


def _quietness(control: Ratio) -> tuple[bool, float]:
    low, _, high = statistics.quantiles(control.per_round, n=4)
    return quiet(control.per_round), low - high
