"""How every benchmark measures.

1. The results of both arms are compared first; a benchmark of unequal things raises.
2. Rounds run in the order A B B A, so that a drift of the machine falls on both arms; at least five rounds.
3. A figure is the median of the per-round ratios, with their minimum and maximum.
4. An A/A control runs the same way with one arm against itself: where its median is off 1 by more than 5 %
   or its interquartile spread is above 20 %, the machine was too noisy and the run is marked invalid.

An arm is a function that does the work once and returns how long it took, in seconds: CPU seconds of this
process (`cpu_time`), wall seconds (`wall_time`), or what it measured itself (another process, a part of it).
"""

import gc
import importlib.metadata
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from core.errors import InternalError

Measure = Callable[[], float]

ROUNDS = 5
CONTROL_OFF = 0.05
CONTROL_SPREAD = 0.20
_SHORTEST_S = 0.05


@dataclass(frozen=True)
class Ratio:
    """One ratio over the rounds. `at_most` turns the goal round: met when the median is not above it."""

    name: str
    per_round: tuple[float, ...]
    goal: float | None
    at_most: bool = False
    meaning: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.per_round)

    @property
    def met(self) -> bool:
        """Whether the median reaches the goal; a ratio without a goal is met."""
        if self.goal is None:
            return True
        return self.median <= self.goal if self.at_most else self.median >= self.goal

    def as_json(self) -> dict[str, Any]:
        return {
            "median": round(self.median, 3),
            "min": round(min(self.per_round), 3),
            "max": round(max(self.per_round), 3),
            "goal": self.goal,
            "met": self.met,
        }


@dataclass
class BenchResult:
    """What a benchmark found. `figures` are absolute numbers beside the ratios, named with their unit."""

    bench: str
    ratios: list[Ratio]
    versions: dict[str, str]
    sizes: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)
    control: Ratio | None = None

    @property
    def valid(self) -> bool:
        """False when the A/A control says that the machine was too noisy to tell."""
        return self.control is None or quiet(self.control.per_round)

    @property
    def met(self) -> bool:
        return all(ratio.met for ratio in self.ratios)

    def as_json(self) -> dict[str, Any]:
        out: dict[str, Any] = {
            "bench": self.bench,
            "versions": self.versions,
            "ratios": {ratio.name: ratio.as_json() for ratio in self.ratios},
            "meanings": {
                ratio.name: f"{ratio.meaning} (goal: at {'most' if ratio.at_most else 'least'})"
                for ratio in self.ratios
            },
            "valid": self.valid,
            "sizes": self.sizes,
            "figures": {name: round(value, 3) for name, value in self.figures.items()},
        }
        if self.control is not None:
            out["control"] = {key: self.control.as_json()[key] for key in ("median", "min", "max")}
        return out


def quiet(per_round: Sequence[float]) -> bool:
    """Whether an A/A control's ratios show a machine quiet enough."""
    if len(per_round) < 2:
        return False
    low, _, high = statistics.quantiles(per_round, n=4)
    return abs(statistics.median(per_round) - 1) <= CONTROL_OFF and high - low <= CONTROL_SPREAD


def gathered(
    bench: str, parts: Sequence[BenchResult], figures: Mapping[str, float] | None = None
) -> BenchResult:
    """One result of several parts, and further figures. Its A/A control is that of the noisiest part that has
    one; sizes are named by their part, whose name begins with that of the whole."""
    controls = [part.control for part in parts if part.control is not None]
    whole = BenchResult(
        bench=bench,
        ratios=[ratio for part in parts for ratio in part.ratios],
        versions={name: version for part in parts for name, version in part.versions.items()},
        sizes={
            f"{part.bench.removeprefix(f'{bench}-')}: {name}": size
            for part in parts
            for name, size in part.sizes.items()
        },
        control=min(controls, key=_quietness) if controls else None,
    )
    for part in parts:
        whole.figures |= part.figures
    whole.figures |= figures or {}
    return whole


def _quietness(control: Ratio) -> tuple[bool, float]:
    low, _, high = statistics.quantiles(control.per_round, n=4)
    return quiet(control.per_round), low - high


def cpu_time(work: Callable[[], Any], *, times: int = 1) -> Measure:
    """CPU seconds of this process, all threads, for `times` runs of the work, per run."""
    return _timed(work, time.process_time, times)


def wall_time(work: Callable[[], Any], *, times: int = 1) -> Measure:
    """Wall seconds for `times` runs of the work, per run."""
    return _timed(work, time.perf_counter, times)


@contextmanager
def awake() -> Iterator[None]:
    """No core goes to sleep: on each a loop runs that takes only the time that nobody wants.

    A core of a virtual machine that sleeps takes 30 to 50 us to wake up, a multiple of what a read over
    loopback takes by itself, and it does so at both ends. Servers that are used do not sleep.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    loops = [subprocess.Popen([sys.executable, "-c", _AWAKE, str(core)]) for core in cores]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


_AWAKE = """
import os, sys
os.sched_setaffinity(0, {int(sys.argv[1])})
os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
while os.getppid() != 1:
    for _ in range(1_000_000):
        pass
"""


def repeats(work: Callable[[], Any], *, at_least_s: float = _SHORTEST_S, at_most: int = 10_000) -> int:
    """How often to repeat the work so that one measurement lasts long enough for the clock."""
    work()
    times = 1
    while times < at_most:
        begun = time.perf_counter()
        for _ in range(times):
            work()
        took = time.perf_counter() - begun
        if took >= at_least_s:
            break
        times = min(at_most, max(times * 2, int(times * at_least_s / max(took, 1e-9)) + 1))
    return times


def compare(
    name: str,
    *,
    numerator: Measure,
    denominator: Measure,
    goal: float | None,
    at_most: bool = False,
    rounds: int = ROUNDS,
    meaning: str = "",
) -> Ratio:
    """Seconds of `numerator` over seconds of `denominator`, round by round, each in the order A B B A.

    For "so many times faster than the peer" the peer is the numerator; for "at most so much above the bare
    model" the model is the denominator and `at_most` is set.
    """
    found = []
    numerator()
    denominator()
    for _ in range(max(rounds, ROUNDS)):
        a1 = numerator()
        b1 = denominator()
        b2 = denominator()
        a2 = numerator()
        found.append((a1 + a2) / (b1 + b2))
    return Ratio(name, tuple(found), goal, at_most, meaning)


def control(measure: Measure, *, rounds: int = ROUNDS * 2) -> Ratio:
    """The A/A control: the same arm in both places. Short, so with twice the rounds."""
    return compare("control", numerator=measure, denominator=measure, goal=None, rounds=rounds)


def require_equal(what: str, ours: Any, theirs: Any) -> None:
    """Stop the benchmark when the arms do not give the same result."""
    if ours != theirs:
        raise InternalError(
            f"the arms of the benchmark differ: {what}",
            where=f"ours {str(ours)[:300]} | theirs {str(theirs)[:300]}",
            mend="mend the benchmark or the code before measuring anything",
        )


def versions(packages: Iterable[str], **more: str) -> dict[str, str]:
    """Versions of Python, of these packages, and of the machine."""
    out = {"python": platform.python_version()}
    for package in packages:
        try:
            out[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            out[package] = "missing"
    out["cores"] = str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    return {**out, **more}


def _timed(work: Callable[[], Any], clock: Callable[[], float], times: int) -> Measure:
    def measure() -> float:
        enabled = gc.isenabled()
        gc.collect()
        gc.disable()
        try:
            begun = clock()
            for _ in range(times):
                work()
            return (clock() - begun) / times
        finally:
            if enabled:
                gc.enable()

    return measure


def typical(measure: Measure, count: int = ROUNDS) -> float:
    """The median of a few measurements, in seconds; for the absolute figures beside the ratios."""
    return statistics.median(measure() for _ in range(count))


def per_record(seconds: float, records: int) -> float:
    """Microseconds a record."""
    return seconds / records * 1e6
