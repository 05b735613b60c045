"""Routed: a batch scored by the versions in service, one call per version.

With one version it scores the whole batch in one call. With several each gets the rows of its assignment
units; one that breaks fails the batch with VersionBroken, and the same batch is given again once another
version is in its place. Rows that a version fails on are scored by the one before it where there is one.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Generic, Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from core.errors import ModelError
from jobs.worker.held import Assignments, LiveRoute, Service, VersionBroken
from jobs.worker.scoring import Scored, ScoringStep
from jobs.worker.shadows import Shadows
from operators.infer import FailedRow
from operators.late_features import MAX_REASON
from operators.ports import Matrix, Scorer

UNFIT = 0.05
"""Share of its first rows that a new version may fail on while the one before it scores them."""

Rows = npt.NDArray[np.int64]


class Cut(Protocol):
    """A batch of which some rows can be taken, in the order of their numbers."""

    @property
    def num_rows(self) -> int: ...

    def take(self, indices: pa.Array, /) -> Self: ...


B = TypeVar("B", bound=Cut)
R = TypeVar("R")


@dataclass(frozen=True)
class Part(Generic[R]):
    """What one version made of its rows of a batch. `rows` (None: all) are the batch's, in the order of the
    part; `scored.rows` and `failed` count within the part. `failed`: rows that no version can score."""

    rows: Rows | None
    scored: Scored[R]
    failed: tuple[FailedRow, ...]


class RoutedScoring(Generic[B, R]):
    """One instance per thread. Shadow versions score what the live ones were given, and nobody sees it."""

    def __init__(self, scoring: ScoringStep[B, R]) -> None:
        self.scoring = scoring
        self._assignments = Assignments()
        self._shadows = Shadows()

    def score(self, batch: B, appended_ms: Rows, service: Service, *, started_ms: int) -> Iterator[Part[R]]:
        """Every row of the batch in one part at last; see `Scoring.step`. Raises VersionBroken when a version
        does not work; then the whole batch can be given again."""
        todo = self._parts(batch, service)
        for route, rows in todo:
            part, times = (
                (batch, appended_ms) if rows is None else (batch.take(pa.array(rows)), appended_ms[rows])
            )
            scored = self._scored(part, times, route, service, started_ms)
            failed = scored.failed
            if failed and (spare := service.spare(route)) is not None:
                again = np.array([row.row for row in failed])
                reason = f"version {route.version}: {failed[0].error.what}"[:MAX_REASON]
                todo.append((replace(spare, fallback=reason), again if rows is None else rows[again]))
                failed = ()
            yield Part(rows, scored, failed)
            if service.shadows and route.fallback is None:
                given = scored.given
                self._shadows.offer(given.rows, given.whole, service.shadows)

    def _parts(self, batch: B, service: Service) -> list[tuple[LiveRoute, Rows | None]]:
        """Routes with their rows; None is every row."""
        if len(service.routes) == 1:
            return [(service.champion, None)]
        tenants, units = self.scoring.units(batch)
        return list(service.parts(tenants, units, self._assignments))

    def _scored(
        self, batch: B, appended_ms: Rows, route: LiveRoute, service: Service, started_ms: int
    ) -> Scored[R]:
        try:
            scored = self.scoring.step(
                batch,
                appended_ms,
                route.scorer,
                started_ms=started_ms,
                arm=route.arm,
                fallback=route.fallback,
            )
        except ModelError as error:
            raise broken(route, batch.num_rows, error) from error

        def again(scorer: Scorer) -> int:
            failed = [row.row for row in scored.failed_inputs]
            return len(scored.given.infer(scorer, failed).ok)

        count(route, service, scored.points, scored.failed_inputs, scored.model_ms, again)
        return scored


def broken(route: LiveRoute, rows: int, error: ModelError) -> VersionBroken:
    """What a call of so many rows that failed as a whole is raised as; counted."""
    route.meter.failed(rows)
    return VersionBroken(route.version, error.what)


def count(
    route: LiveRoute,
    service: Service,
    scores: Matrix,
    failed: Sequence[FailedRow],
    call_ms: float,
    again: Callable[[Scorer], int],
) -> None:
    """Count a call in the version's figures: its `scores` (0 to 100), the rows that failed, its time.

    Raises VersionBroken when one of a new version's first calls fails on rows that the version before it can
    score; `again` says how many of them a scorer can.
    """
    before = service.spare(route)
    if failed and before is not None and route.meter.calls < service.first_batches:
        try:
            good = again(before.scorer)
        except ModelError:
            good = 0
        total = len(scores) + len(failed)
        if good > UNFIT * total:
            what = f"fails on {good} of {total} first rows that version {before.version} can score"
            route.meter.failed(good)
            raise VersionBroken(route.version, f"{what}: {failed[0].error.what}")
    route.meter.add(scores, len(failed), call_ms)
