"""The benches by name. Each is imported when it is run, so that naming them costs nothing."""

import importlib
import json as json_text
import sys
from collections.abc import Callable, Mapping

from bench.harness import BenchResult
from bench.report import keep
from core.errors import UnknownName


def _lazy(module: str) -> Callable[[], BenchResult]:
    def bench() -> BenchResult:
        found: BenchResult = importlib.import_module(module).bench()
        return found

    return bench


BENCHES: Mapping[str, Callable[[], BenchResult]] = {
    "access": _lazy("bench.access"),
    "asking": _lazy("bench.asking"),
    "codec": _lazy("bench.codec"),
    "features": _lazy("bench.features"),
    "gateway": _lazy("bench.gateway"),
    "models": _lazy("bench.models"),
    "scoring-worker": _lazy("bench.scoring_worker"),
}


def run(name: str, *, json: bool = False) -> BenchResult:
    """Run one bench, keep its result, print it. With `json` the last line of stdout is one JSON object.

    Raises UnknownName for a name that is not in `BENCHES`.
    """
    if name not in BENCHES:
        raise UnknownName("bench", name, BENCHES)
    result = BENCHES[name]()
    keep(result)
    sys.stdout.write(json_text.dumps(result.as_json()) + "\n" if json else text(result))
    sys.stdout.flush()
    return result


def text(result: BenchResult) -> str:
    """The result for people."""
    lines = [f"{result.bench}" + ("" if result.valid else "   INVALID: the machine was too noisy")]
    for ratio in result.ratios:
        goal = "" if ratio.goal is None else f"  goal {'<=' if ratio.at_most else '>='} {ratio.goal:g}"
        verdict = "" if ratio.goal is None else ("  met" if ratio.met else "  MISSED")
        spread = f"({min(ratio.per_round):.2f} to {max(ratio.per_round):.2f})"
        lines.append(f"  {ratio.name:<16}{ratio.median:8.2f} {spread}{goal}{verdict}   {ratio.meaning}")
    width = max(map(len, result.figures), default=0)
    lines += [f"  {name:<{width}} {value:12.2f}" for name, value in result.figures.items()]
    if result.control is not None:
        control = result.control
        low, high = min(control.per_round), max(control.per_round)
        lines.append(f"  A/A control {control.median:.3f} ({low:.3f} to {high:.3f})")
    lines.append("  sizes " + ", ".join(f"{name} {value}" for name, value in result.sizes.items()))
    lines.append("  versions " + ", ".join(f"{name} {value}" for name, value in result.versions.items()))
    return "\n".join(lines) + "\n"
