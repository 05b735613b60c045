"""Decide: a score becomes a decision by thresholds that are data.

    bands = Bands(
        (
            Band("block", "blocked", above=80),
            Band("confirm", "confirmed", below=20, explain=False),
        ),
        otherwise=Band("review", "in_review"),
    )

Both limits are exclusive: with the bands above, 80 and 20 are reviewed. A score that is missing or NaN
gets the `otherwise` band, so that a person looks at it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from core.errors import DeclarationError

MAX_BANDS = 100
Scores = npt.NDArray[np.float32] | npt.NDArray[np.float64]


@dataclass(frozen=True)
class Band:
    """A decision and the open interval of scores (`above`, `below`) that gets it.

    `status` is what the event's status becomes. `explain` says whether results of this band carry reasons;
    they cost several times the prediction, so leave them off where nobody reads them.
    """

    decision: str
    status: str
    above: float | None = None
    below: float | None = None
    explain: bool = True

    @property
    def interval(self) -> tuple[float, float]:
        """The limits, both exclusive, infinite where none is given."""
        low = -math.inf if self.above is None else float(self.above)
        high = math.inf if self.below is None else float(self.below)
        return low, high


@dataclass(frozen=True)
class Bands:
    """Bands that do not overlap, and the band of every other score. Raises DeclarationError otherwise."""

    bands: tuple[Band, ...]
    otherwise: Band

    def __post_init__(self) -> None:
        where = f"bands {', '.join(band.decision for band in self.all)}"
        if len(self.bands) > MAX_BANDS:
            raise DeclarationError(
                f"{len(self.bands)} bands",
                where=where,
                mend=f"give at most {MAX_BANDS}",
            )
        if self.otherwise.above is not None or self.otherwise.below is not None:
            raise DeclarationError(
                "the band of every other score has limits",
                where=where,
                mend="give `otherwise` no above or below",
            )
        names = [band.decision for band in self.all]
        if len(set(names)) != len(names):
            raise DeclarationError(
                "two bands share a decision",
                where=where,
                mend="name each decision once",
            )
        for band in self.bands:
            low, high = band.interval
            if not low < high or (band.above is None and band.below is None):
                raise DeclarationError(
                    f"band {band.decision!r} matches ({low}, {high})",
                    where=where,
                    mend="give `above`, `below`, or both with above < below",
                )
        for index, band in enumerate(self.bands):
            for other in self.bands[index + 1 :]:
                low = max(band.interval[0], other.interval[0])
                high = min(band.interval[1], other.interval[1])
                if low < high:
                    both = f"{band.decision!r} and {other.decision!r}"
                    raise DeclarationError(
                        f"bands {both} both match scores in ({low}, {high})",
                        where=where,
                        mend="move a limit so that they do not overlap",
                    )

    @property
    def all(self) -> tuple[Band, ...]:
        """The bands in order; the last one is `otherwise`. `Decided.band` indexes this tuple."""
        return (*self.bands, self.otherwise)

    @cached_property
    def _explained(self) -> npt.NDArray[np.bool_]:
        return np.array([band.explain for band in self.all])

    @cached_property
    def _decisions(self) -> pa.StringArray:
        return pa.array([band.decision for band in self.all], pa.utf8())

    @cached_property
    def _statuses(self) -> pa.StringArray:
        return pa.array([band.status for band in self.all], pa.utf8())


@dataclass(frozen=True)
class Decided:
    """Decisions of a batch. `band` (int8, n) indexes `bands.all`; the columns are utf8 without nulls."""

    bands: Bands
    band: npt.NDArray[np.int8]

    @property
    def decision(self) -> pa.StringArray:
        return self.bands._decisions.take(pa.array(self.band))

    @property
    def status(self) -> pa.StringArray:
        return self.bands._statuses.take(pa.array(self.band))

    @property
    def explained(self) -> npt.NDArray[np.int64]:
        """Rows whose band asks for reasons, ascending."""
        return np.flatnonzero(self.bands._explained[self.band])

    def only(self, decision: str) -> npt.NDArray[np.int64]:
        """Rows with that decision, ascending: a named output of the operator."""
        for index, band in enumerate(self.bands.all):
            if band.decision == decision:
                return np.flatnonzero(self.band == index)
        known = ", ".join(band.decision for band in self.bands.all)
        raise DeclarationError(f"no band decides {decision!r}", mend=f"known: {known}")


def decide(scores: Scores | pa.Array | Sequence[float | None], bands: Bands) -> Decided:
    """The band of every score (any float column of n rows; null and NaN mean "no score").

    Compares the scores as they are given: pass the float32 that is published, so that a reader who applies
    the same thresholds to the result comes to the same decision.
    """
    values = _column(scores)
    band = np.full(len(values), len(bands.bands), dtype=np.int8)
    for index, given in enumerate(bands.bands):
        matches = ~np.isnan(values)
        if given.above is not None:
            matches &= values > given.above
        if given.below is not None:
            matches &= values < given.below
        band[matches] = index
    return Decided(bands, band)


def _column(
    scores: Scores | pa.Array | Sequence[float | None],
) -> Scores:
    if isinstance(scores, np.ndarray):
        return scores
    array = scores if isinstance(scores, pa.Array) else pa.array(scores, pa.float64())
    column: Scores = array.to_numpy(zero_copy_only=False)
    return column
