"""The models, whole: tree scoring and serving. One module per part; each runs alone as well, with
`python -m bench.models_trees` and so on. A part that is added to `PARTS` is measured with the others."""

import importlib
import statistics
from collections.abc import Sequence

from bench.harness import BenchResult, Ratio, quiet

PARTS = (
    "bench.models_trees", "bench.models_served", "bench.asking", "bench.models_guards", "bench.models_llm",
)  # fmt: skip


def bench() -> BenchResult:
    """Every ratio of every part, in their order."""
    return gathered([importlib.import_module(part).bench() for part in PARTS])


def gathered(parts: Sequence[BenchResult]) -> BenchResult:
    """One result of several; its A/A control is that of the noisiest part that has one."""
    controls = [part.control for part in parts if part.control is not None]
    whole = BenchResult(
        bench="models",
        ratios=[ratio for part in parts for ratio in part.ratios],
        versions={name: version for part in parts for name, version in part.versions.items()},
        sizes={
            f"{part.bench.removeprefix('models-')}: {name}": size
            for part in parts
            for name, size in part.sizes.items()
        },
        control=min(controls, key=_quietness) if controls else None,
    )
    for part in parts:
        whole.figures |= part.figures
    return whole


def _quietness(control: Ratio) -> tuple[bool, float]:
    low, _, high = statistics.quantiles(control.per_round, n=4)
    return quiet(control.per_round), low - high
