"""Forecasting: what a worker does with a decoded batch of feature rows. Columns in, columns out."""

from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from core.clock import Clock, to_millis
from features.feature_rows import ENTITY, SEQUENCE, WINDOW_END, WINDOW_START
from features.times import millis
from jobs.worker import metrics
from jobs.worker.held import points
from jobs.worker.scoring import Scored, given_columns, units_of
from operators.forecast import Horizon, per_horizon
from operators.infer import FailedRow, infer
from operators.ports import Matrix, Scorer
from schemas.catalog.forecasts import Expected, Forecast
from schemas.codec import arrow_schema

RESULT_SCHEMA = arrow_schema(Forecast.spec())
_TIME = pa.timestamp("ms", tz="UTC")
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class DeclaredForecast:
    """The parts of a plan that forecasting needs. every: the time from one window's end to the next one's."""

    pipeline: str
    scale: str
    horizons: tuple[Horizon, ...]
    every: timedelta
    unit: str
    entity: str = ENTITY


class Forecasting:
    """The model is called once, for every horizon of every row; a row has one result, with all its horizons.

    A row whose scale is 0 has no forecast: nothing was counted for so long that there is nothing to count in
    units of. Deterministic but for the times it records, which come from `clock`.
    """

    def __init__(self, declared: DeclaredForecast, *, clock: Clock) -> None:
        self.declared = declared
        self._clock = clock

    def step(
        self,
        batch: pa.RecordBatch,
        appended_ms: Rows,
        scorer: Scorer,
        *,
        started_ms: int,
        arm: str = "champion",
        fallback: str | None = None,
    ) -> Scored[pa.RecordBatch]:
        """As `Scoring.step`; `results` has Forecast columns. A row fails when one of its horizons does."""
        declared, clock = self.declared, self._clock
        began = clock.monotonic()
        with_scale = pc.fill_null(pc.greater(_named(batch, declared.scale), 0), False)
        able = np.flatnonzero(with_scale.to_numpy(zero_copy_only=False))
        rows = batch.take(pa.array(able))
        origins = millis(_named(rows, WINDOW_END)).to_numpy()
        asked = per_horizon(rows, origins, declared.horizons, declared.every)
        inferred = infer(asked, scorer)
        model_ms = (clock.monotonic() - began) * 1000
        width = len(declared.horizons)
        failed = {one.row // width: one.error for one in reversed(inferred.failed)}
        good = np.array([row for row in range(len(able)) if row not in failed], np.int64)
        outputs = np.full(len(able) * width, np.nan, np.float32)
        outputs[inferred.ok] = inferred.outputs
        results = self._results(
            rows.take(pa.array(good)),
            origins[good],
            outputs.reshape(len(able), width)[good],
            appended_ms[able][good],
            scorer,
            started_ms=started_ms,
            model_ms=model_ms,
            arm=arm,
            fallback=fallback,
        )
        self._count(len(good), batch.num_rows - len(able))
        return Scored(
            rows=able[good],
            results=results,
            failed=tuple(FailedRow(int(able[row]), failed[row]) for row in sorted(failed)),
            points=points(inferred.outputs, scorer),
            given=given_columns(asked),
            failed_inputs=inferred.failed,
            model_ms=model_ms,
        )

    def units(self, batch: pa.RecordBatch) -> tuple[pa.Array, pa.Array]:
        """See `ScoringStep.units`."""
        return units_of(batch, self.declared.entity)

    def _results(
        self,
        rows: pa.RecordBatch,
        origins: Rows,
        values: Matrix,
        appended_ms: Rows,
        scorer: Scorer,
        *,
        started_ms: int,
        model_ms: float,
        arm: str,
        fallback: str | None,
    ) -> pa.RecordBatch:
        """One Forecast row per row; `values` (rows, horizons)."""
        declared, count = self.declared, rows.num_rows
        constant = {
            "pipeline": declared.pipeline,
            "unit": declared.unit,
            "model": scorer.name,
            "model_version": scorer.version,
            "arm": arm,
            "degraded": fallback is not None,
            "level": "live" if fallback is None else "previous_version",
            "degraded_reason": fallback,
            "model_ms": model_ms,
        }
        columns = {name: _repeated(name, value, count) for name, value in constant.items()}
        columns |= {name: _named(rows, name) for name in ("tenant", "id", WINDOW_START, WINDOW_END, SEQUENCE)}
        columns |= {
            "entity": _named(rows, ENTITY),
            "assignment_unit": _named(rows, ENTITY),
            "expected": self._expected(origins, values),
            "features_at": pa.array(appended_ms).view(_TIME),
            "made_at": pa.array(np.full(count, to_millis(self._clock.now()), np.int64)).view(_TIME),
            "queue_ms": pa.array(np.maximum(started_ms - appended_ms, 0).astype(np.float32)),
        }
        return pa.RecordBatch.from_arrays(
            [columns[name] for name in RESULT_SCHEMA.names], schema=RESULT_SCHEMA
        )

    def _expected(self, origins: Rows, values: Matrix) -> pa.ListArray:
        horizons, every = self.declared.horizons, self.declared.every
        kind = RESULT_SCHEMA.field("expected").type
        names = pa.array([horizon.name for horizon in horizons], pa.string())
        places = pa.array(np.tile(np.arange(len(horizons)), len(origins)))

        def times(of: list[Rows]) -> pa.Array:
            return pa.array(np.stack(of, axis=1).reshape(-1)).view(_TIME)

        parts = {
            "horizon": names.take(places),
            "begins_at": times([horizon.begins(origins, every) for horizon in horizons]),
            "ends_at": times([horizon.ends(origins, every) for horizon in horizons]),
            "value": pa.array(values.reshape(-1).astype(np.float64)),
        }
        struct = pa.StructArray.from_arrays(
            [parts[name] for name in Expected.__struct_fields__], fields=list(kind.value_type)
        )
        offsets = np.arange(len(origins) + 1, dtype=np.int32) * len(horizons)
        return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), struct).cast(kind)

    def _count(self, made: int, without: int) -> None:
        for what, count in (("forecast", made), ("no_history", without)):
            if count:
                metrics.RECORDS.labels(self.declared.pipeline, what).inc(count)


def _repeated(name: str, value: object, rows: int) -> pa.Array:
    return pa.repeat(pa.scalar(value, RESULT_SCHEMA.field(name).type), rows)


def _named(batch: pa.RecordBatch, name: str) -> pa.Array:
    return batch.column(batch.schema.get_field_index(name))
