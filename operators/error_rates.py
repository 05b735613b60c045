"""Error rates: by operator and code over the last 1 and 5 minutes, held against thresholds that are data."""

import threading
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from core.clock import Clock
from core.errors import DeclarationError
from core.telemetry.metrics import gauge
from schemas.catalog.alerts import Severity

ONE_MINUTE, FIVE_MINUTES = timedelta(minutes=1), timedelta(minutes=5)
BUCKET_S = 1.0
_RATE = gauge("operator_error_rate", "Share of calls that failed", ("pipeline", "operator", "code", "window"))


@dataclass(frozen=True)
class Threshold:
    """More than `rate` (0 to 1) of an operator's calls within `window` failed with `code`, of at least
    `calls` calls. Code None: with any error that is not the caller's fault, of the calls without such faults.

    Passed once, it stays passed until at most `cleared` of as many calls fail, or none at all; half of `rate`
    by default.
    """

    operator: str
    rate: float
    window: timedelta = ONE_MINUTE
    code: str | None = None
    calls: int = 20
    severity: Severity = "high"
    cleared: float | None = None

    def __post_init__(self) -> None:
        sound = 0 <= self.rate < 1 and 0 <= self.clear <= self.rate
        if not sound or self.calls < 1 or self.window not in (ONE_MINUTE, FIVE_MINUTES):
            raise DeclarationError(
                f"a threshold of {self.rate} to {self.clear} over {self.window}, {self.calls} calls",
                where=f"operator {self.operator}",
                mend="give a rate from 0 to below 1, cleared at no more, at least 1 call, and 1 or 5 minutes",
            )

    @property
    def clear(self) -> float:
        return self.rate / 2 if self.cleared is None else self.cleared

    @property
    def name(self) -> str:
        """What tells it from other thresholds; a change of figures leaves it."""
        minutes = self.window // ONE_MINUTE
        return f"{self.operator}:{self.code or 'any'}:{minutes}m:{self.severity}"

    def passed(self, calls: int, failed: int, *, before: bool) -> bool:
        """Whether it is passed now; `before`: whether it was."""
        if before:
            return failed > 0 and (calls < self.calls or failed > self.clear * calls)
        return calls >= self.calls and failed > self.rate * calls


@dataclass(frozen=True)
class Standing:
    """How a threshold stands: `failed` of `calls` calls. `known`: of enough calls to say so."""

    threshold: Threshold
    passed: bool
    calls: int
    failed: int

    @property
    def known(self) -> bool:
        return self.calls >= self.threshold.calls

    @property
    def text(self) -> str:
        threshold = self.threshold
        code = threshold.code or "any error"
        limit = f"above {threshold.rate:.1%}" if self.passed else f"not above {threshold.clear:.1%} any more"
        return (
            f"{self.failed} of {self.calls} calls of {threshold.operator} failed with {code} within "
            f"{threshold.window / ONE_MINUTE:g} min, {limit}"
        )


@dataclass(frozen=True)
class Counted:
    """Calls of an operator; those that failed, and those that were the caller's fault, by code."""

    calls: int = 0
    failed: Mapping[str, int] = field(default_factory=dict)
    refused: Mapping[str, int] = field(default_factory=dict)

    def of(self, code: str | None) -> tuple[int, int]:
        """(calls, failed) as a threshold of that code counts them."""
        if code is None:
            return self.calls - sum(self.refused.values()), sum(self.failed.values())
        return self.calls, self.failed.get(code, 0) + self.refused.get(code, 0)


class ErrorRates:
    """Counts of one process, in buckets of a second. For any thread; count batches rather than records."""

    def __init__(self, pipeline: str, clock: Clock, thresholds: Iterable[Threshold] = ()) -> None:
        self._pipeline = pipeline
        self._clock = clock
        self._thresholds = tuple(thresholds)
        self._operators: dict[str, deque[_Bucket]] = {}
        self._told: dict[str, set[str]] = {}
        self._passed: set[Threshold] = set()
        self._lock = threading.Lock()

    def count(self, operator: str, code: str | None, calls: int = 1, *, refused: bool = False) -> None:
        """`calls` calls ended: with the error `code`, or well (None). refused: by the caller's fault."""
        at = int(self._clock.monotonic() / BUCKET_S)
        with self._lock:
            buckets = self._operators.get(operator)
            if buckets is None:
                buckets = self._operators[operator] = deque()
            if not buckets or buckets[-1].at != at:
                buckets.append(_Bucket(at))
                oldest = at - int(FIVE_MINUTES.total_seconds() / BUCKET_S)
                while buckets[0].at <= oldest:
                    buckets.popleft()
            bucket = buckets[-1]
            bucket.calls += calls
            if code is not None:
                codes = bucket.refused if refused else bucket.failed
                codes[code] = codes.get(code, 0) + calls

    def counted(self, operator: str, window: timedelta) -> Counted:
        """The calls of the last `window`, the running second included."""
        oldest = int(self._clock.monotonic() / BUCKET_S) - int(window.total_seconds() / BUCKET_S)
        calls, failed, refused = 0, dict[str, int](), dict[str, int]()
        with self._lock:
            for bucket in self._operators.get(operator, ()):
                if bucket.at > oldest:
                    calls += bucket.calls
                    _add(failed, bucket.failed)
                    _add(refused, bucket.refused)
        return Counted(calls, failed, refused)

    def standings(self) -> list[Standing]:
        """How every threshold stands now; sets the gauges too. Ask every few seconds, in one thread."""
        found: list[Standing] = []
        seen = {operator: self._tell(operator) for operator in list(self._operators)}
        nothing = {ONE_MINUTE: Counted(), FIVE_MINUTES: Counted()}
        for threshold in self._thresholds:
            calls, failed = seen.get(threshold.operator, nothing)[threshold.window].of(threshold.code)
            passed = threshold.passed(calls, failed, before=threshold in self._passed)
            (self._passed.add if passed else self._passed.discard)(threshold)
            found.append(Standing(threshold, passed, calls, failed))
        return found

    def _tell(self, operator: str) -> dict[timedelta, Counted]:
        codes = self._told.setdefault(operator, set())
        found = {window: self.counted(operator, window) for window in (ONE_MINUTE, FIVE_MINUTES)}
        codes.update(found[FIVE_MINUTES].failed, found[FIVE_MINUTES].refused)
        for window, counted in found.items():
            for code in codes:
                calls, failed = counted.of(code)
                share = failed / calls if calls else 0.0
                _RATE.labels(self._pipeline, operator, code, f"{window.total_seconds():g}s").set(share)
        return found


class _Bucket:
    __slots__ = ("at", "calls", "failed", "refused")

    def __init__(self, at: int) -> None:
        self.at = at
        self.calls = 0
        self.failed: dict[str, int] = {}
        self.refused: dict[str, int] = {}


def _add(to: dict[str, int], more: Mapping[str, int]) -> None:
    for code, count in more.items():
        to[code] = to.get(code, 0) + count
