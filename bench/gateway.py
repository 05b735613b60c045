"""The gateway, whole: publishing, asking, caches, interaction, push, the door, memory.

One module per part; each runs alone as well, with `python -m bench.gateway_publish` and so on; see there for
what is measured. Each starts services of its own.
"""

import importlib
from collections.abc import Sequence

from bench.gateway_goals import GOALS
from bench.harness import BenchResult, gathered, require_equal

PARTS = (
    "bench.gateway_publish", "bench.gateway_ask", "bench.gateway_cache", "bench.gateway_interaction",
    "bench.gateway_push", "bench.gateway_door", "bench.gateway_memory",
)  # fmt: skip


def bench() -> BenchResult:
    """Every ratio of `bench.gateway_goals`, in that order. Takes about twenty minutes."""
    return whole([importlib.import_module(part).bench() for part in PARTS])


def whole(parts: Sequence[BenchResult]) -> BenchResult:
    """Raises InternalError where the ratios and goals are not those of `bench.gateway_goals`."""
    found = [(ratio.name, ratio.goal, ratio.at_most) for part in parts for ratio in part.ratios]
    set_out = [(name, goal.bound, goal.at_most) for name, goal in GOALS.items()]
    require_equal("ratios and their goals", found, set_out)
    return gathered("gateway", parts)
