"""The service levels: what is promised, what a run of the suites measured, and the table of both.

The suites in `tests/integration/levels` measure and count; this reads what they wrote and says what was met.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from rich.table import Table

from core.errors import InvalidInput
from core.structs import ready

SUITES = (
    "health", "authentication_and_keys", "breaker", "failover", "versions", "batching", "rate_limiting",
    "model_management", "endpoints", "security_middleware", "configuration", "end_to_end",
)  # fmt: skip
"""By these names they lie in `tests`."""
ALL = "all twelve"
SUCCESS = "success rate"
FAILURE = (
    "A request failed when it got no answer in its time, when its connection broke, when the answer was a "
    "5xx that its test had not provoked, or when it was another status than its test had asked for."
)


@dataclass(frozen=True)
class Level:
    """One promise. The worse end of what was measured has to hold it: p99, or p1 of what should be high."""

    name: str
    suite: str
    goal: float
    unit: str
    better: Literal["lower", "higher"] = "lower"

    @property
    def told(self) -> str:
        return f"{'<' if self.better == 'lower' else '>='} {self.goal:g} {self.unit}"

    def met(self, value: float) -> bool:
        return value < self.goal if self.better == "lower" else value >= self.goal


LEVELS = (
    Level("health", "health", 50, "ms"),
    Level("authentication", "authentication_and_keys", 100, "ms"),
    Level("breaker overhead", "breaker", 1, "ms"),
    Level("failover", "failover", 500, "ms"),
    Level("gateway failover", "failover", 500, "ms"),
    Level("inference", "endpoints", 10, "tokens/s", "higher"),
    Level(SUCCESS, ALL, 95, "%", "higher"),
)


class Measured(msgspec.Struct, frozen=True):
    """Values of one level, or of something that has none, as a suite saw them."""

    name: str
    suite: str
    unit: str
    values: list[float]


@ready
class Run(msgspec.Struct, frozen=True):
    """What the suites wrote. `failed`: a line for each request that failed, a bounded number of them."""

    measured: list[Measured]
    requests: int = 0
    failures: int = 0
    failed: list[str] = []
    suites: list[str] = []


class Row(msgspec.Struct, frozen=True):
    """One line of the table. `worst`: p99, or p1 where higher is better. `met` is null where nothing was
    measured, or where there is no goal."""

    level: str
    suite: str
    goal: str | None
    unit: str
    n: int
    median: float | None
    worst: float | None
    met: bool | None


def read(file: Path) -> Run:
    """Raises InvalidInput where the suites wrote nothing, as they do when they are cut short."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=Run)
    except (OSError, msgspec.MsgspecError) as error:
        raise InvalidInput(
            f"no measurements: {type(error).__name__}", where=str(file), mend="run all suites to their end"
        ) from None


def rows(run: Run) -> list[Row]:
    """Every level, measured or not, then what was measured beside them."""
    by_name = {one.name: one for one in run.measured}
    found = [_level(level, by_name.pop(level.name, None), run) for level in LEVELS]
    return found + [_row(one, None) for one in by_name.values()]


def missed(found: Sequence[Row]) -> list[str]:
    """Levels that were not met, or not measured at all."""
    return [row.level for row in found if row.goal is not None and not row.met]


def table(found: Sequence[Row]) -> Table:
    made = Table("level", "goal", "median", "p99", "n", "suite", "", title="Service levels of this run")
    for row in found:
        verdict = "" if row.goal is None else "met" if row.met else "missed" if row.n else "not measured"
        made.add_row(
            row.level, row.goal or "-", _figure(row.median, row.unit), _figure(row.worst, row.unit),
            str(row.n), row.suite, verdict,
        )  # fmt: skip
    return made


def document(found: Sequence[Row], run: Run, *, passed: bool) -> dict[str, Any]:
    """The same for programs."""
    return {
        "levels": found,
        "missed": missed(found),
        "suites_passed": passed,
        "suites": run.suites,
        "requests": {"sent": run.requests, "failures": run.failures, "failed": run.failed},
        "a_failure_is": FAILURE,
    }


def _level(level: Level, measured: Measured | None, run: Run) -> Row:
    if level.name == SUCCESS:
        rate = None if not run.requests else 100 * (run.requests - run.failures) / run.requests
        met = None if rate is None else level.met(rate)
        return Row(level.name, level.suite, level.told, level.unit, run.requests, rate, rate, met)
    if measured is None:
        return Row(level.name, level.suite, level.told, level.unit, 0, None, None, None)
    return _row(measured, level)


def _row(one: Measured, level: Level | None) -> Row:
    high = level is not None and level.better == "higher"
    median = float(np.percentile(one.values, 50))
    worst = float(np.percentile(one.values, 1 if high else 99, method="lower" if high else "higher"))
    met = level.met(worst) if level is not None else None
    goal = level.told if level is not None else None
    return Row(one.name, one.suite, goal, one.unit, len(one.values), median, worst, met)


def _figure(value: float | None, unit: str) -> str:
    return "-" if value is None else f"{value:.4g} {unit}"
