"""Batch: from wire bytes to wire bytes. Decode, drop repeats, score, encode; nothing leaves from here."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pyarrow as pa

from core.clock import Clock, to_millis
from core.errors import MillstreamError, ModelError
from jobs.worker import metrics
from jobs.worker.held import Service
from jobs.worker.inputs import Inputs
from jobs.worker.routed import RoutedScoring
from jobs.worker.scoring import Scored, StreamStep
from operators.dedupe import Dedupe, record_keys
from operators.error_rates import ErrorRates
from schemas.codec import RecordCodec
from schemas.dead_letters import Stage

R = TypeVar("R")
Calls = Counter[tuple[str, str | None]]
NO_FEATURES = "no_features"


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
    outcome now. An input that is in neither `indexes` nor `refused` repeats an id that had one before.
    `calls` are what error rates count: (operator, code or None) and how many."""

    indexes: list[int]
    values: Sequence[bytes]
    refused: list[Refused]
    keys: list[str]
    started_ms: int
    oldest_queue_ms: float = 0.0
    repeats: int = 0
    calls: Calls = field(default_factory=Counter)


def refusal(stage: Stage, code: str, reason: str) -> Outputs:
    """The outputs of a batch of one message that cannot be handled."""
    return Outputs([], [], [Refused(0, stage, code, reason)], [], 0, calls=Counter({(stage, code): 1}))


def tally(calls: Calls, scored: Scored[R]) -> None:
    """What one scored part adds to the calls of its operators."""
    calls["infer", None] += len(scored.rows)
    for failed in scored.failed:
        calls["infer", failed.error.code] += 1
    if scored.late:
        calls["features", None] += scored.late - scored.missing
        calls["features", NO_FEATURES] += scored.missing


def count(rates: ErrorRates, calls: Calls) -> None:
    """Hand over what was tallied: a few calls per batch."""
    for (operator, code), number in calls.items():
        if number:
            rates.count(operator, code, number)


class BatchWork:
    """Works a batch without side effects but for the online store's reads; safe to try again."""

    def __init__(
        self,
        *,
        decoder: RecordCodec[Any],
        encoder: RecordCodec[Any],
        dedupe: Dedupe,
        scoring: StreamStep,
        clock: Clock,
        rates: ErrorRates,
    ) -> None:
        self.dedupe = dedupe
        self.scoring = scoring
        self._decoder = decoder
        self._encoder = encoder
        self._clock = clock
        self._rates = rates
        self._routed = RoutedScoring(scoring)

    def work(self, inputs: Inputs, service: Service) -> Outputs:
        """Raises Unavailable (registry away) or VersionBroken (a version does not work) when nothing can be
        said of the batch now; the same inputs can then be given again."""
        started_ms = to_millis(self._clock.now())
        decoded = self._decoder.decode_batch(inputs.values)
        refused = [Refused(int(bad.index), "decode", bad.code, bad.reason) for bad in decoded.bad]
        batch = decoded.batch
        calls: Calls = Counter(("decode", bad.code) for bad in refused)
        if batch.num_rows == 0:
            return Outputs([], [], refused, [], started_ms, calls=calls)
        calls["decode", None] = batch.num_rows
        keys = record_keys(batch)
        first = self.dedupe.first(keys)
        repeats = len(keys) - len(first)
        origin = decoded.kept
        if repeats:
            if len(first) == 0:
                return Outputs([], [], refused, [], started_ms, repeats=repeats, calls=calls)
            batch, origin = batch.take(pa.array(first)), origin[first]
            keys = [keys[row] for row in first]
        appended = inputs.appended_ms[origin] if len(origin) != len(inputs) else inputs.appended_ms
        indexes: list[int] = []
        values: list[bytes] = []
        for part in self._routed.score(batch, appended, service, started_ms=started_ms):
            places = origin if part.rows is None else origin[part.rows]
            for failed in part.failed:
                code, what = failed.error.code, failed.error.what
                refused.append(Refused(int(places[failed.row]), "model", code, what))
            tally(calls, part.scored)
            rows = part.scored.rows
            answered = (places if len(rows) == len(places) else places[rows]).tolist()
            encoded = self._encoder.encode_batch(part.scored.results)
            indexes = indexes + answered if indexes else answered
            values = values + encoded if values else encoded
        return Outputs(
            indexes=indexes,
            values=values,
            refused=refused,
            keys=keys,
            started_ms=started_ms,
            oldest_queue_ms=float(max(started_ms - int(appended.min()), 0)),
            repeats=repeats,
            calls=calls,
        )

    def failed(self, error: MillstreamError, records: int) -> None:
        """Nothing could be said of a batch; it is held back, or given again."""
        self._rates.count("infer" if isinstance(error, ModelError) else "decode", error.code, records)

    def done(self, outputs: Outputs) -> None:
        """The outputs were handed to Kafka: their ids are remembered from now on."""
        pipeline = self.scoring.declared.pipeline
        count(self._rates, outputs.calls)
        if outputs.keys:
            self.dedupe.remember(outputs.keys, outputs.started_ms)
        metrics.REMEMBERED.labels(pipeline).set(len(self.dedupe))
        if outputs.repeats:
            metrics.REPEATS.labels(pipeline).inc(outputs.repeats)
        if outputs.values:
            metrics.QUEUE_MS.labels(pipeline).observe(outputs.oldest_queue_ms)
