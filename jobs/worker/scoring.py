"""Scoring: what a worker does with a decoded batch. No Kafka here: columns in, columns out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from core.clock import Clock, to_millis
from core.telemetry.log import logger
from jobs.worker import metrics
from jobs.worker.results import Constants, Stages, no_reasons, reasons_column, result_batch
from operators.breaker import Breaker, Breaking
from operators.decide import Bands, decide
from operators.infer import FailedRow, Inferred, infer
from operators.late_features import Filled, fill_late
from operators.ports import FeatureReader, Matrix, Scorer

_LOG = logger("worker.scoring")
R = TypeVar("R")
B_contra = TypeVar("B_contra", contravariant=True)
STORE_BREAKING = Breaking(failures=1, open_for=timedelta(seconds=1))


@dataclass(frozen=True)
class Declared:
    """The parts of a plan that scoring needs."""

    pipeline: str
    entity: str
    time: str
    features: tuple[str, ...]
    bands: Bands
    batch: int
    explain: bool = True


@dataclass(frozen=True)
class Given:
    """What a model was given, features of late rows included: how many rows, and how another version is
    given the same, or some of its rows."""

    rows: int
    infer: Callable[[Scorer, Sequence[int] | None], Inferred]

    def whole(self, scorer: Scorer) -> Inferred:
        """All of it, by another version."""
        return self.infer(scorer, None)


def given_columns(batch: pa.RecordBatch) -> Given:
    """Rows that are columns."""

    def again(scorer: Scorer, rows: Sequence[int] | None) -> Inferred:
        return infer(batch if rows is None else batch.take(pa.array(rows)), scorer)

    return Given(batch.num_rows, again)


@dataclass(frozen=True)
class Scored(Generic[R]):
    """Named outputs of one batch. `rows` (ascending): the input rows that have a result, in the order of
    `results`. `failed`: the rows the model could not score, to be dead-lettered. `failed_inputs`: those of
    the rows `given` to the model that it could not score. `points` (0 to 100): its outputs on the scale of a
    sketch. `late` rows had their features read; of those `missing` could not be."""

    rows: npt.NDArray[np.int64]
    results: R
    failed: tuple[FailedRow, ...]
    points: Matrix
    given: Given
    failed_inputs: tuple[FailedRow, ...]
    model_ms: float
    late: int = 0
    missing: int = 0


class ScoringStep(Protocol[B_contra, R]):
    """What a worker does with a decoded batch, by one version of the model."""

    @property
    def declared(self) -> "Path": ...

    def step(
        self,
        batch: B_contra,
        appended_ms: npt.NDArray[np.int64],
        scorer: Scorer,
        *,
        started_ms: int,
        arm: str = "champion",
        fallback: str | None = None,
    ) -> Scored[R]:
        """See `Scoring.step`."""
        ...

    def units(self, batch: B_contra) -> tuple[pa.Array, pa.Array]:
        """Tenant and assignment unit of each row."""
        ...


class Path(Protocol):
    """What is declared of every step: its pipeline, and the column of the entity."""

    @property
    def pipeline(self) -> str: ...

    @property
    def entity(self) -> str: ...


StreamStep = ScoringStep[pa.RecordBatch, pa.RecordBatch]
"""The step of a worker of the stream: columns in, columns out."""


class Scoring:
    """Late rows get their features, the model is called once, scores become decisions, decisions reasons.

    Deterministic but for the times it records, which come from `clock`. Not safe for several threads.
    """

    def __init__(self, declared: Declared, *, clock: Clock, reader: FeatureReader | None) -> None:
        self.declared = declared
        self._clock = clock
        self._reader = reader
        self._breaker = Breaker(clock, STORE_BREAKING, name="online store")
        self._constants = Constants(declared.batch)
        self._inputs: tuple[str, pa.StringArray] = ("", pa.array([], pa.utf8()))

    def step(
        self,
        batch: pa.RecordBatch,
        appended_ms: npt.NDArray[np.int64],
        scorer: Scorer,
        *,
        started_ms: int,
        arm: str = "champion",
        fallback: str | None = None,
    ) -> Scored[pa.RecordBatch]:
        """Score a batch of enriched records that reached Kafka at `appended_ms` (epoch, one per row).

        `started_ms` is when the worker took the batch up; `fallback` says why this version answers for
        another one, where it does. Raises ModelError when the model as a whole does
        not work; then nothing was decided and the same batch can be given again.
        """
        declared, clock = self.declared, self._clock
        late = batch.column(batch.schema.get_field_index("late")).to_numpy(zero_copy_only=False).astype(bool)
        began = clock.monotonic()
        filled = fill_late(batch, late, declared.features, self._reader, self._breaker)
        given, missing = filled.batch, int(filled.missing.sum())
        inferred = infer(given, scorer)
        modelled = clock.monotonic()
        if inferred.failed:
            rows = pa.array(inferred.ok)
            filled = Filled(filled.batch.take(rows), filled.missing[inferred.ok], filled.reason)
            appended_ms = appended_ms[inferred.ok]
        scores = inferred.outputs * np.float32(100)
        decided = decide(scores, declared.bands)
        decided_at_ms = to_millis(clock.now())
        reasons = self._reasons(scorer, inferred.matrix, decided.explained)
        stages = Stages(
            enriched_ms=appended_ms,
            queue_ms=np.maximum(started_ms - appended_ms, 0).astype(np.float32),
            model_ms=(modelled - began) * 1000,
            decide_ms=(clock.monotonic() - modelled) * 1000,
            decided_at_ms=decided_at_ms,
        )
        results = result_batch(
            filled,
            entity=declared.entity,
            time=declared.time,
            pipeline=declared.pipeline,
            scorer=scorer,
            scores=scores,
            decided=decided,
            reasons=reasons,
            stages=stages,
            constants=self._constants,
            arm=arm,
            fallback=fallback,
        )
        late_rows = int(late.sum())
        self._count(decided.band, late_rows, missing)
        return Scored(
            rows=inferred.ok,
            results=results,
            failed=inferred.failed,
            points=scores,
            given=given_columns(given),
            failed_inputs=inferred.failed,
            model_ms=stages.model_ms,
            late=late_rows,
            missing=missing,
        )

    def units(self, batch: pa.RecordBatch) -> tuple[pa.Array, pa.Array]:
        """See `ScoringStep.units`."""
        return units_of(batch, self.declared.entity)

    def _reasons(self, scorer: Scorer, matrix: Matrix, explained: npt.NDArray[np.int64]) -> pa.ListArray:
        if not self.declared.explain or len(explained) == 0:
            return no_reasons(len(matrix))
        key = f"{scorer.name} {scorer.version}"
        if self._inputs[0] != key:
            self._inputs = (key, pa.array(list(scorer.inputs), pa.utf8()))
        try:
            shares = scorer.contributions(matrix[explained])
            return reasons_column(len(matrix), explained, shares, self._inputs[1])
        except Exception as error:  # a decision without its reasons is worth more than no decision
            metrics.REASONS_FAILED.labels(self.declared.pipeline).inc()
            _LOG.warning("no reasons for a batch", model=key, error=f"{type(error).__name__}: {error}")
            return no_reasons(len(matrix))

    def _count(self, band: npt.NDArray[np.int8], late: int, missing: int) -> None:
        pipeline = self.declared.pipeline
        for index, count in enumerate(np.bincount(band, minlength=len(self.declared.bands.all))):
            if count:
                decision = self.declared.bands.all[index].decision
                metrics.RECORDS.labels(pipeline, decision).inc(int(count))
        if late:
            metrics.LATE.labels(pipeline, "no_features").inc(missing)
            metrics.LATE.labels(pipeline, "live").inc(late - missing)


def units_of(batch: pa.RecordBatch, entity: str) -> tuple[pa.Array, pa.Array]:
    """Tenant and entity of each row."""
    names = batch.schema
    return batch.column(names.get_field_index("tenant")), batch.column(names.get_field_index(entity))
