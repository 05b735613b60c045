"""Error rates: by operator and code over the last 1 and 5 minutes, held against thresholds that are data."""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta

from core.clock import Clock
from core.errors import DeclarationError
from core.telemetry.metrics import gauge

ONE_MINUTE, FIVE_MINUTES = timedelta(minutes=1), timedelta(minutes=5)
BUCKET_S = 1.0
_RATE = gauge("operator_error_rate", "Share of calls that failed", ("operator", "code", "window"))


@dataclass(frozen=True)
class Threshold:
    """More than `rate` (0 to 1) of an operator's calls within `window` failed with `code` (None: with any),
    of at least `calls` calls."""

    operator: str
    rate: float
    window: timedelta = ONE_MINUTE
    code: str | None = None
    calls: int = 20
    severity: str = "high"

    def __post_init__(self) -> None:
        if not 0 <= self.rate < 1 or self.calls < 1 or self.window not in (ONE_MINUTE, FIVE_MINUTES):
            raise DeclarationError(
                f"a threshold of {self.rate} over {self.window}, {self.calls} calls",
                where=f"operator {self.operator}",
                mend="give a rate from 0 to below 1, at least 1 call, and 1 or 5 minutes",
            )


@dataclass(frozen=True)
class Breach:
    """`threshold` is passed: `failed` of `calls` calls."""

    threshold: Threshold
    calls: int
    failed: int

    @property
    def text(self) -> str:
        code = self.threshold.code or "any error"
        return (
            f"{self.failed} of {self.calls} calls of {self.threshold.operator} failed with {code} within "
            f"{self.threshold.window.total_seconds() / 60:g} min, above {self.threshold.rate:.1%}"
        )


class ErrorRates:
    """Counts in buckets of a second. Not shared between threads."""

    def __init__(self, clock: Clock, thresholds: Iterable[Threshold] = ()) -> None:
        self._clock = clock
        self._thresholds = tuple(thresholds)
        self._operators: dict[str, deque[_Bucket]] = {}
        self._told: dict[str, set[str]] = {}
        self._breached: set[Threshold] = set()

    def count(self, operator: str, code: str | None, calls: int = 1) -> None:
        """`calls` calls ended: with the error `code`, or well (None)."""
        at = int(self._clock.monotonic() / BUCKET_S)
        buckets = self._operators.setdefault(operator, deque())
        if not buckets or buckets[-1].at != at:
            buckets.append(_Bucket(at))
            oldest = at - int(FIVE_MINUTES.total_seconds() / BUCKET_S)
            while buckets[0].at <= oldest:
                buckets.popleft()
        bucket = buckets[-1]
        bucket.calls += calls
        if code is not None:
            bucket.failed[code] = bucket.failed.get(code, 0) + calls

    def rates(self, operator: str, window: timedelta) -> tuple[int, Mapping[str, int]]:
        """(calls, failed by code) of the last `window`, the running second included."""
        oldest = int(self._clock.monotonic() / BUCKET_S) - int(window.total_seconds() / BUCKET_S)
        calls, failed = 0, dict[str, int]()
        for bucket in self._operators.get(operator, ()):
            if bucket.at > oldest:
                calls += bucket.calls
                for code, count in bucket.failed.items():
                    failed[code] = failed.get(code, 0) + count
        return calls, failed

    def breaches(self) -> list[Breach]:
        """Thresholds that are passed now and were not at the last asking; one that is no longer passed can be
        told again. Sets the gauges as well. Ask every few seconds."""
        self._tell()
        found: list[Breach] = []
        for threshold in self._thresholds:
            calls, by_code = self.rates(threshold.operator, threshold.window)
            failed = sum(by_code.values()) if threshold.code is None else by_code.get(threshold.code, 0)
            if calls < threshold.calls or failed <= threshold.rate * calls:
                self._breached.discard(threshold)
            elif threshold not in self._breached:
                self._breached.add(threshold)
                found.append(Breach(threshold, calls, failed))
        return found

    def _tell(self) -> None:
        for operator, buckets in self._operators.items():
            codes = self._told.setdefault(operator, set())
            codes.update(code for bucket in buckets for code in bucket.failed)
            for window in (ONE_MINUTE, FIVE_MINUTES):
                calls, failed = self.rates(operator, window)
                for code in codes:
                    share = failed.get(code, 0) / calls if calls else 0.0
                    _RATE.labels(operator, code, f"{window.total_seconds():g}s").set(share)


class _Bucket:
    __slots__ = ("at", "calls", "failed")

    def __init__(self, at: int) -> None:
        self.at = at
        self.calls = 0
        self.failed: dict[str, int] = {}
