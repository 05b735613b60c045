"""The step of asked scoring: records in, answers' contents out, without columns in between.

One record of 400 columns would cost a hundred times its scoring to be made into columns and back. What it is
given, how it is decided and why is what the columnar step makes of the same record late on the stream: same
features, same matrix, same call of the model, same thresholds. A test compares them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from core.clock import Clock, from_millis, to_millis
from core.telemetry.log import logger
from features.online.rolling import Event
from jobs.worker import metrics
from jobs.worker.results import largest
from jobs.worker.scoring import STORE_BREAKING, Declared, Given, Scored
from operators.breaker import Breaker
from operators.decide import decide
from operators.infer import Inferred, infer_rows
from operators.late_features import guarded
from operators.ports import Matrix, Scorer

_LOG = logger("answering.scoring")
Contents = dict[str, Any]
Features = Sequence[Mapping[str, object]]


class EventReader(Protocol):
    """The online form of a view, for few events at a time."""

    def read_events(self, events: Sequence[Event]) -> Features:
        """The features of each event as of its own time, itself included, in their order. Raises
        `core.errors.Unavailable` while the store is away."""
        ...


@dataclass(frozen=True, slots=True)
class AskedRows:
    """Records that are asked about: as events of the view, and as values of the source's fields."""

    events: Sequence[Event]
    values: Sequence[tuple[object, ...]]

    @property
    def num_rows(self) -> int:
        return len(self.events)

    def take(self, indices: pa.Array, /) -> "AskedRows":
        rows = indices.to_pylist()
        return AskedRows([self.events[row] for row in rows], [self.values[row] for row in rows])


class AskedStep:
    """See `jobs.worker.scoring.ScoringStep`; `results` has a mapping per row. `fields`: the names of the
    values of a row. Not safe for several threads."""

    def __init__(
        self, declared: Declared, fields: Sequence[str], *, clock: Clock, reader: EventReader | None
    ) -> None:
        self.declared = declared
        self._columns = (*fields, *declared.features)
        self._clock = clock
        self._reader = reader
        self._breaker = Breaker(clock, STORE_BREAKING, name="online store")

    def step(
        self,
        batch: AskedRows,
        appended_ms: npt.NDArray[np.int64],
        scorer: Scorer,
        *,
        started_ms: int,
        arm: str = "champion",
        fallback: str | None = None,
    ) -> Scored[list[Contents]]:
        """Score the rows by one version. Raises ModelError when the model as a whole does not work."""
        del appended_ms, started_ms
        clock = self._clock
        began = clock.monotonic()
        features, reason = self._features(batch)
        given = self._given(batch, features)
        inferred = given.infer(scorer, None)
        modelled = clock.monotonic()
        scores = inferred.outputs * np.float32(100)
        decided = decide(scores, self.declared.bands)
        decided_at = from_millis(to_millis(clock.now()))
        reasons = self._reasons(scorer, inferred.matrix, decided.explained)
        usual = "live" if fallback is None else "previous_version"
        same: Contents = {
            "model": scorer.name,
            "model_version": scorer.version,
            "arm": arm,
            "degraded": features is None or fallback is not None,
            "level": "no_features" if features is None else usual,
            "degraded_reason": reason if features is None else fallback,
            "decided_at": decided_at,
            "model_ms": round((modelled - began) * 1000, 3),
            "decide_ms": round((clock.monotonic() - modelled) * 1000, 3),
        }
        bands = self.declared.bands.all
        results: list[Contents] = []
        for at, (row, band, score) in enumerate(
            zip(inferred.ok.tolist(), decided.band.tolist(), scores.tolist(), strict=True)
        ):
            occurred_at = from_millis(batch.events[row][3])
            results.append(
                {
                    "entity": batch.events[row][1],
                    "occurred_at": occurred_at,
                    "score": score,
                    "decision": bands[band].decision,
                    "reasons": reasons.get(at, []),
                    "feature_time": None if features is None else occurred_at,
                    **same,
                }
            )
        return Scored(
            rows=inferred.ok,
            results=results,
            failed=inferred.failed,
            points=scores,
            given=given,
            failed_inputs=inferred.failed,
            model_ms=same["model_ms"],
            late=batch.num_rows,
            missing=batch.num_rows if features is None else 0,
        )

    def units(self, batch: AskedRows) -> tuple[pa.Array, pa.Array]:
        """See `ScoringStep.units`."""
        tenants, entities = ([event[part] for event in batch.events] for part in (0, 1))
        return pa.array(tenants, pa.utf8()), pa.array(entities, pa.utf8())

    def _features(self, batch: AskedRows) -> tuple[Features | None, str | None]:
        reader = self._reader
        if reader is None:
            return None, "no online store is configured"
        return guarded(lambda: reader.read_events(batch.events), self._breaker)

    def _given(self, batch: AskedRows, features: Features | None) -> Given:
        names, columns = self.declared.features, self._columns
        if features is None:
            nothing = (None,) * len(names)
            rows = [(*values, *nothing) for values in batch.values]
        else:
            rows = [
                (*values, *map(found.__getitem__, names))
                for values, found in zip(batch.values, features, strict=True)
            ]

        def call(scorer: Scorer, some: Sequence[int] | None) -> Inferred:
            return infer_rows(columns, rows if some is None else [rows[row] for row in some], scorer)

        return Given(len(rows), call)

    def _reasons(
        self, scorer: Scorer, matrix: Matrix, explained: npt.NDArray[np.int64]
    ) -> dict[int, list[Contents]]:
        """By row of the matrix, of the rows that are explained."""
        if not self.declared.explain or len(explained) == 0:
            return {}
        try:
            best, shares = largest(scorer.contributions(matrix[explained]))
        except Exception as error:  # a decision without its reasons is worth more than no decision
            metrics.REASONS_FAILED.labels(self.declared.pipeline).inc()
            _LOG.warning(
                "no reasons for a batch", model=scorer.name, error=f"{type(error).__name__}: {error}"
            )
            return {}
        inputs = scorer.inputs
        return {
            row: [
                {"input": inputs[place], "contribution": share}
                for place, share in zip(places, added, strict=True)
                if share > 0
            ]
            for row, places, added in zip(explained.tolist(), best.tolist(), shares.tolist(), strict=True)
        }
