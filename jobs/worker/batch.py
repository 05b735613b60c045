"""Batch: from wire bytes to wire bytes. Decode, drop repeats, score, encode; nothing leaves from here.

With one version in service it scores the whole batch in one call. With several each gets the rows of its
assignment units, one call per version; one that breaks fails the batch with VersionBroken, and the same batch
is given again once another version is in its place. Rows that a version fails on are scored by the one before
it where there is one, and are dead-lettered where that fails too.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from core.clock import Clock, to_millis
from core.errors import ModelError
from jobs.worker import metrics
from jobs.worker.held import Assignments, LiveRoute, Service, VersionBroken
from jobs.worker.inputs import Inputs
from jobs.worker.scoring import Scored, Scoring
from jobs.worker.shadows import Shadows
from operators.dedupe import Dedupe, record_keys
from operators.fallback import MAX_REASON
from operators.infer import infer
from schemas.codec import RecordCodec
from schemas.dead_letters import Stage


@dataclass(frozen=True)
class Refused:
    """A message to be dead-lettered: its index in the inputs, at which stage, and why."""

    index: int
    stage: Stage
    code: str
    reason: str


@dataclass(frozen=True)
class Outputs:
    """What a batch came to. `values[i]` is the result of input `indexes[i]`; `keys` are the ids that have an
    outcome now. An input that is in neither `indexes` nor `refused` repeats an id that had one before."""

    indexes: list[int]
    values: Sequence[bytes]
    refused: list[Refused]
    keys: list[str]
    started_ms: int
    oldest_queue_ms: float = 0.0
    repeats: int = 0


UNFIT = 0.05
"""Share of its first rows that a new version may fail on while the one before it scores them."""


def refusal(stage: Stage, code: str, reason: str) -> Outputs:
    """The outputs of a batch of one message that cannot be handled."""
    return Outputs([], [], [Refused(0, stage, code, reason)], [], 0)


class BatchWork:
    """Works a batch without side effects but for the online store's reads; safe to try again."""

    def __init__(
        self,
        *,
        decoder: RecordCodec[Any],
        encoder: RecordCodec[Any],
        dedupe: Dedupe,
        scoring: Scoring,
        clock: Clock,
    ) -> None:
        self.dedupe = dedupe
        self.scoring = scoring
        self._decoder = decoder
        self._encoder = encoder
        self._clock = clock
        self._assignments = Assignments()
        self._shadows = Shadows()

    def work(self, inputs: Inputs, service: Service) -> Outputs:
        """Raises Unavailable (registry away) or VersionBroken (a version does not work) when nothing can be
        said of the batch now; the same inputs can then be given again."""
        started_ms = to_millis(self._clock.now())
        decoded = self._decoder.decode_batch(inputs.values)
        refused = [Refused(int(bad.index), "decode", bad.code, bad.reason) for bad in decoded.bad]
        batch = decoded.batch
        if batch.num_rows == 0:
            return Outputs([], [], refused, [], started_ms)
        keys = record_keys(batch)
        first = self.dedupe.first(keys)
        repeats = len(keys) - len(first)
        origin = decoded.kept
        if repeats:
            if len(first) == 0:
                return Outputs([], [], refused, [], started_ms, repeats=repeats)
            batch, origin = batch.take(pa.array(first)), origin[first]
            keys = [keys[row] for row in first]
        appended = inputs.appended_ms[origin] if len(origin) != len(inputs) else inputs.appended_ms
        indexes: list[int] = []
        values: list[bytes] = []
        parts = self._parts(batch, service)
        for route, rows in parts:
            part, times, places = (
                (batch, appended, origin) if rows is None else _rows(rows, batch, appended, origin)
            )
            scored = self._scored(part, times, route, service, started_ms)
            if scored.failed and (spare := service.spare(route)) is not None:
                again = np.array([failed.row for failed in scored.failed])
                reason = f"version {route.version}: {scored.failed[0].error.what}"[:MAX_REASON]
                parts.append((replace(spare, fallback=reason), again if rows is None else rows[again]))
            else:
                for failed in scored.failed:
                    code, what = failed.error.code, failed.error.what
                    refused.append(Refused(int(places[failed.row]), "model", code, what))
            answered = places if len(scored.rows) == len(places) else places[scored.rows]
            encoded = self._encoder.encode_batch(scored.results)
            indexes = indexes + answered.tolist() if indexes else answered.tolist()
            values = values + encoded if values else encoded
            if service.shadows and route.fallback is None:
                self._shadows.offer(scored.inputs, service.shadows)
        return Outputs(
            indexes=indexes,
            values=values,
            refused=refused,
            keys=keys,
            started_ms=started_ms,
            oldest_queue_ms=float(max(started_ms - int(appended.min()), 0)),
            repeats=repeats,
        )

    def _parts(
        self, batch: pa.RecordBatch, service: Service
    ) -> list[tuple[LiveRoute, npt.NDArray[np.int64] | None]]:
        """Routes with their rows; None is every row."""
        if len(service.routes) == 1:
            return [(service.champion, None)]
        units = batch.column(batch.schema.get_field_index(self.scoring.declared.entity))
        tenants = batch.column(batch.schema.get_field_index("tenant"))
        return list(service.parts(tenants, units, self._assignments))

    def _scored(
        self,
        batch: pa.RecordBatch,
        appended: npt.NDArray[np.int64],
        route: LiveRoute,
        service: Service,
        started_ms: int,
    ) -> Scored:
        try:
            scored = self.scoring.step(
                batch, appended, route.scorer, started_ms=started_ms, arm=route.arm, fallback=route.fallback
            )
        except ModelError as error:
            route.meter.errors += batch.num_rows
            raise VersionBroken(route.version, error.what) from error
        if scored.failed and route.meter.calls < service.first_batches:
            self._require_fit(scored, route, service)
        route.meter.add(scored.scores, len(scored.failed), scored.model_ms)
        return scored

    def _require_fit(self, scored: Scored, route: LiveRoute, service: Service) -> None:
        """Raise VersionBroken when the version before it scores what a new one fails on."""
        before = service.spare(route)
        if before is None:
            return
        failed = scored.inputs.take(pa.array([row.row for row in scored.failed]))
        try:
            good = len(infer(failed, before.scorer).ok)
        except ModelError:
            return
        if good > UNFIT * scored.inputs.num_rows:
            total = scored.inputs.num_rows
            what = f"fails on {good} of {total} first rows that version {before.version} can score"
            route.meter.errors += good
            raise VersionBroken(route.version, f"{what}: {scored.failed[0].error.what}")

    def done(self, outputs: Outputs) -> None:
        """The outputs were handed to Kafka: their ids are remembered from now on."""
        pipeline = self.scoring.declared.pipeline
        if outputs.keys:
            self.dedupe.remember(outputs.keys, outputs.started_ms)
        metrics.REMEMBERED.labels(pipeline).set(len(self.dedupe))
        if outputs.repeats:
            metrics.REPEATS.labels(pipeline).inc(outputs.repeats)
        if outputs.values:
            metrics.QUEUE_MS.labels(pipeline).observe(outputs.oldest_queue_ms)


def _rows(
    rows: npt.NDArray[np.int64],
    batch: pa.RecordBatch,
    appended: npt.NDArray[np.int64],
    origin: npt.NDArray[np.int64],
) -> tuple[pa.RecordBatch, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    return batch.take(pa.array(rows)), appended[rows], origin[rows]
