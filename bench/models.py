"""The models, whole: tree scoring and serving. One module per part; each runs alone as well, with
`python -m bench.models_trees` and so on. A part that is added to `PARTS` is measured with the others."""

import importlib

from bench.harness import BenchResult, gathered

PARTS = (
    "bench.models_trees", "bench.models_served", "bench.asking", "bench.models_guards", "bench.models_llm",
)  # fmt: skip


def bench() -> BenchResult:
    """Every ratio of every part, in their order."""
    return gathered("models", [importlib.import_module(part).bench() for part in PARTS])
