"""Held: one loaded version with its figures, and `Service`, what a batch is scored by. No threads here."""

import math
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from core.errors import ModelError
from operators.ports import Matrix, Scorer
from pipelines.serving.assignment import place_of, unit_key
from schemas.catalog.models import BUCKETS, State

WINDOW_S = 60.0
_SCALE = np.float32(BUCKETS / 100)
_CACHED = 200_000
Told = Callable[[int, int], None]


class VersionBroken(ModelError):
    """A version does not work, as a whole or on its first live batches; another one may."""

    default_code = "version_broken"

    def __init__(self, version: str, what: str) -> None:
        super().__init__(what, where=f"version {version}", mend="the version before it takes over")
        self.version = version


@dataclass(frozen=True)
class Figures:
    """Sums since a version was loaded. `buckets`: records per step of the score."""

    records: int = 0
    errors: int = 0
    calls: int = 0
    call_ms: float = 0.0
    skipped: int = 0
    buckets: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(BUCKETS + 1, np.int64))

    def since(self, before: "Figures") -> "Figures":
        return Figures(
            self.records - before.records,
            self.errors - before.errors,
            self.calls - before.calls,
            self.call_ms - before.call_ms,
            self.skipped - before.skipped,
            self.buckets - before.buckets,
        )

    @property
    def scores(self) -> list[int]:
        """The sketch: the last bucket has the scores of exactly 100 too."""
        counts = self.buckets[:BUCKETS].copy()
        counts[-1] += self.buckets[BUCKETS]
        return [int(count) for count in counts]


def _nobody(records: int, errors: int) -> None:
    return


class Meter:
    """Counts what one version does: a few additions per batch. Written by one thread, read by any. `told` of
    the records that were scored and those that failed, call by call."""

    def __init__(self, told: Told | None = None) -> None:
        self._told = told or _nobody
        self.records = self.errors = self.calls = self.skipped = 0
        self.call_ms = 0.0
        self._buckets = np.zeros(BUCKETS + 1, np.int64)
        self._past: deque[tuple[float, Figures]] = deque([(0.0, Figures())])

    def add(self, scores: Matrix, errors: int, call_ms: float) -> None:
        """One call: the `points` of the rows that were scored."""
        self.records += len(scores)
        self.errors += errors
        self.calls += 1
        self.call_ms += call_ms
        self._told(len(scores), errors)
        if len(scores):
            self._buckets += np.bincount((scores * _SCALE).astype(np.int64), minlength=BUCKETS + 1)

    def failed(self, records: int) -> None:
        """Records that a call failed on as a whole, or that nobody waited for."""
        self.errors += records
        self._told(0, records)

    def lately(self, monotonic_s: float) -> Figures:
        """Of the last minute; to be asked every few seconds, by one thread."""
        now = Figures(self.records, self.errors, self.calls, self.call_ms, self.skipped, self._buckets.copy())
        past = self._past
        while len(past) > 1 and past[1][0] <= monotonic_s - WINDOW_S:
            past.popleft()
        found = now.since(past[0][1])
        if monotonic_s - past[-1][0] >= 1.0:
            past.append((monotonic_s, now))
        return found


def points(outputs: Matrix, scorer: Scorer) -> Matrix:
    """Outputs of a model on the scale of the figures, 0 to 100 over its range. Of a quantity, of which nobody
    knows a greatest, 5 for each doubling of itself and 1, so that a step of the sketch is a doubling."""
    low, high = scorer.output_range
    if (low, high) == (0.0, 1.0):
        return outputs * np.float32(100)
    if low >= 0.0 and high > 2.0**BUCKETS:
        doublings: Matrix = np.log2(outputs + np.float32(1))
        seen: Matrix = np.minimum(doublings * np.float32(100 / BUCKETS), np.float32(100))
        return seen
    scaled: Matrix = np.clip((outputs - low) / (high - low) * 100, 0, 100).astype(np.float32)
    return scaled


class Held:
    """A version in this process. `lock` is taken by whoever uses the scorer while it is not live, and by
    what makes it live, so that two threads never score with it."""

    def __init__(self, version: str, told: Told | None = None) -> None:
        self.version = version
        self.scorer: Scorer | None = None
        self.meter = Meter(told)
        self.lock = threading.Lock()
        self.live = False
        self.state: State = "loading"
        self.stage = "waiting"
        self.progress = 0
        self.checked: str | None = None
        self.reason = ""

    @property
    def usable(self) -> bool:
        return self.scorer is not None and self.state != "failed"


@dataclass(frozen=True)
class LiveRoute:
    """A version in service. `fallback` says why it answers for another one, where it does."""

    version: str
    scorer: Scorer
    meter: Meter
    share: float = 1.0
    arm: str = "champion"
    fallback: str | None = None


@dataclass(frozen=True)
class Service:
    """What a batch is scored by; never changes, so that a batch has one answer whatever happens meanwhile.

    `routes`: the champion first. `backup`: what answers where the champion breaks. `shadows`: versions that
    see every batch and answer nobody.
    """

    routes: tuple[LiveRoute, ...]
    backup: LiveRoute | None = None
    shadows: tuple[Held, ...] = ()
    salt: str = ""
    first_batches: int = 0

    @property
    def champion(self) -> LiveRoute:
        return self.routes[0]

    @property
    def name(self) -> str:
        return self.champion.scorer.name

    @property
    def version(self) -> str:
        return self.champion.version

    def spare(self, route: LiveRoute) -> LiveRoute | None:
        """What answers for the rows that a route fails on: the version before, for a canary the champion."""
        if route.fallback is not None:
            return None
        return self.backup if route is self.champion else self.champion

    def parts(
        self, tenants: pa.Array, units: pa.Array, cache: "Assignments"
    ) -> list[tuple[LiveRoute, npt.NDArray[np.int64]]]:
        """The routes that have rows, each with its rows, ascending. Equal (tenant, unit), equal route."""
        places = cache.places(self.salt, tenants, units)
        found = [
            (route, np.flatnonzero((places >= low) & (places < high))) for route, low, high in self._bands()
        ]
        return [(route, rows) for route, rows in found if len(rows)]

    def route_of(self, tenant: str, unit: str) -> LiveRoute:
        """The route of one assignment unit; the same that `parts` gives it."""
        if len(self.routes) == 1:
            return self.champion
        place = place_of(self.salt, unit_key(tenant, unit))
        return next(route for route, low, high in self._bands() if low <= place < high)

    def _bands(self) -> list[tuple[LiveRoute, float, float]]:
        """Where each route's units stand. The champion comes last, so that a share that grows keeps the units
        that it has."""
        bands = []
        low = 0.0
        for route in self.routes[1:]:
            bands.append((route, low, low + route.share))
            low += route.share
        return [*bands, (self.champion, low, math.inf)]


class Assignments:
    """Where an assignment unit stands in [0, 1): a hash of salt, tenant and unit, remembered."""

    def __init__(self) -> None:
        self._salt = ""
        self._known: dict[str, float] = {}

    def places(self, salt: str, tenants: pa.Array, units: pa.Array) -> npt.NDArray[np.float64]:
        if salt != self._salt or len(self._known) > _CACHED:
            self._salt, self._known = salt, {}
        known = self._known
        out = np.empty(len(units), np.float64)
        for row, (tenant, unit) in enumerate(zip(tenants.to_pylist(), units.to_pylist(), strict=True)):
            key = unit_key(tenant, unit)
            place = known.get(key)
            if place is None:
                place = known[key] = place_of(salt, key)
            out[row] = place
        return out
