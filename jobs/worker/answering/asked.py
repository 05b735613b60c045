"""Asked scoring: what one thread does with a batch of questions, from their records to their answers.

A record's features are read as of its own time, with itself merged in (DESIGN: a rolling feature is read as
of the request), and it is scored, decided and explained by the very step that does so on the stream. Nothing
is published and no state changes.
"""

import asyncio
import queue
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from core.clock import Clock, to_millis
from core.errors import InternalError, MillstreamError, Rejected, Unavailable
from jobs.worker.batch import Calls, count, tally
from jobs.worker.held import Service
from jobs.worker.results import Constants
from jobs.worker.routed import RoutedScoring
from jobs.worker.scoring import Scoring
from operators.asking import Answer, Question
from operators.error_rates import ErrorRates
from pipelines.plan import ScoringPlan
from schemas.avro import schema_text
from schemas.codec import RecordCodec, arrow_schema
from schemas.record import Record

_encode = msgspec.json.Encoder().encode
_TAKEN = (
    "score", "decision", "reasons", "model", "model_version", "arm", "degraded", "level", "degraded_reason",
    "feature_time", "decided_at", "model_ms", "decide_ms",
)  # fmt: skip
_KEPT = ["entity", "occurred_at", *_TAKEN]

Answers = list[Answer | Exception]


@dataclass
class Batch:
    """Questions with their records. `service` is what was asked first, `reason` why it gave no answer,
    `broken` the version that did not work, where it is known."""

    asked: Sequence[tuple[Question, Record]]
    service: Service | None = None
    reason: str = ""
    broken: str | None = None


class AskedScoring:
    """Belongs to one thread."""

    def __init__(self, plan: ScoringPlan, scoring: Scoring, *, clock: Clock, rates: ErrorRates) -> None:
        source, enriched = plan.source.record, plan.enriched.record
        if source is None or enriched is None:
            raise InternalError(f"pipeline {plan.pipeline} has topics without a record")
        self._routed = RoutedScoring(scoring)
        self._clock = clock
        self._rates = rates
        self._codec: RecordCodec[Any] = RecordCodec(source, _Own(schema_text(source.spec())), "asked")
        self._columns = arrow_schema(enriched.spec())
        given = arrow_schema(source.spec())
        self._kinds = list({field.type for field in self._columns if given.get_field_index(field.name) < 0})
        # of each column of the enriched topic its place in the source, or in the nulls that follow on it
        self._places = [
            place if place >= 0 else len(given) + self._kinds.index(field.type)
            for field, place in ((field, given.get_field_index(field.name)) for field in self._columns)
        ]
        self._late = self._columns.get_field_index("late")
        self._constants = Constants(scoring.declared.batch)

    def score(self, batch: Batch, service: Service, given_up: threading.Event) -> Answers:
        """One answer or error per question, in order. Raises VersionBroken where a version does not work.
        Once it is `given_up` no other version is begun."""
        asked = batch.asked
        answers: Answers = [InternalError("no outcome")] * len(asked)
        values, rows = [], []
        for row, (_, record) in enumerate(asked):
            try:
                values.append(self._codec.encode(record))
                rows.append(row)
            except MillstreamError as error:
                answers[row] = error
        if not values:
            return answers
        # the same bytes as on the stream, so the same columns: rounded and null as the stream's are
        decoded = self._codec.decode_batch(values)
        for bad in decoded.bad:
            answers[rows[bad.index]] = Rejected(bad.reason, fields={"": bad.reason}, code="invalid_record")
        rows = [rows[index] for index in decoded.kept]
        started_ms = to_millis(self._clock.now())
        asked_ms = np.full(len(rows), started_ms, np.int64)
        calls: Calls = Counter()
        parts = self._routed.score(self._enriched(decoded.batch), asked_ms, service, started_ms=started_ms)
        for part in parts:
            if given_up.is_set():
                break
            tally(calls, part.scored)
            places = rows if part.rows is None else [rows[row] for row in part.rows.tolist()]
            for failed in part.failed:
                why = failed.error
                answers[places[failed.row]] = Rejected(
                    why.what, fields={"": why.what}, where=why.where, code="not_scored"
                )
            results = part.scored.results.select(_KEPT).to_pylist()
            for row, result in zip(part.scored.rows.tolist(), results, strict=True):
                question, record = asked[places[row]]
                entity, at = result["entity"], result["occurred_at"]
                taken = {name: result[name] for name in _TAKEN}
                answers[places[row]] = answer_of(question, record.id, entity, at, taken)
        count(self._rates, calls)
        return answers

    def _enriched(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Rows of the source as rows of the enriched topic that have no features yet."""
        rows = batch.num_rows
        given = batch.columns + [self._constants.nulls(kind, rows) for kind in self._kinds]
        columns = [given[place] for place in self._places]
        columns[self._late] = self._constants.column(True, pa.bool_(), rows)
        return pa.RecordBatch.from_arrays(columns, schema=self._columns)


def answer_of(
    question: Question, record_id: str, entity: str, occurred_at: datetime, taken: dict[str, Any]
) -> Answer:
    """The answer as JSON; with a warning where another level than the first gave it."""
    warning = f"answered by {taken['level']}: {taken['degraded_reason']}" if taken["degraded"] else None
    body = {
        "id": question.id,
        "pipeline": question.pipeline,
        "record_id": record_id,
        "entity": entity,
        "occurred_at": occurred_at,
        **taken,
        "warning": warning,
    }
    return Answer(200, _encode(body))


def without_score(
    plan: ScoringPlan, question: Question, record: Record, decision: str, reason: str, now: datetime
) -> Answer:
    """The declared decision, where no version gave a score."""
    taken = dict.fromkeys(_TAKEN) | {
        "decision": decision,
        "reasons": [],
        "model": plan.infer.model,
        "degraded": True,
        "level": "static",
        "degraded_reason": reason,
        "decided_at": now,
        "model_ms": 0.0,
        "decide_ms": 0.0,
    }
    entity, at = getattr(record, plan.view.single_entity), getattr(record, plan.view.time)
    return answer_of(question, record.id, entity, at, taken)


@dataclass(frozen=True)
class _Call:
    batch: Batch
    service: Service
    given_up: threading.Event = field(default_factory=threading.Event)
    answers: "Future[Answers]" = field(default_factory=Future)


class Lane:
    """A thread that scores one batch at a time.

    A call that was given up goes on, as nothing can stop a model: until it returns the lane takes no other
    batch for the same versions, and for others it goes on in a new thread. No thread keeps a process alive.
    """

    def __init__(self, name: str, make: Callable[[], AskedScoring]) -> None:
        self._name = name
        self._make = make
        self._call: _Call | None = None
        self._open()

    async def score(self, batch: Batch, service: Service) -> Answers:
        """As `AskedScoring.score`; cancelling gives the call up. Raises Unavailable while an earlier one has
        not returned."""
        last = self._call
        if last is not None and not last.answers.done():
            if _versions(last.service) & _versions(service):
                raise Unavailable(
                    "an earlier call of the model has not returned",
                    where=f"version {service.version}",
                    mend="the controller puts the version before it in service; or roll back",
                    code="model_unavailable",
                )
            self.close()
            self._open()
        call = self._call = _Call(batch, service)
        self._calls.put(call)
        try:
            return await asyncio.shield(asyncio.wrap_future(call.answers))
        except asyncio.CancelledError:
            call.given_up.set()
            raise

    def close(self) -> None:
        self._calls.put(None)

    def _open(self) -> None:
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        arguments = (self._make(), self._calls)
        threading.Thread(target=_score, args=arguments, name=self._name, daemon=True).start()


def _score(scoring: AskedScoring, calls: "queue.SimpleQueue[_Call | None]") -> None:
    """The thread of a lane."""
    while (call := calls.get()) is not None:
        try:
            answers = scoring.score(call.batch, call.service, call.given_up)
        except BaseException as error:
            call.answers.set_exception(error)
        else:
            call.answers.set_result(answers)


def _versions(service: Service) -> set[str]:
    return {route.version for route in service.routes}


class _Own:
    """The one schema of bytes that never leave the process."""

    def __init__(self, text: str) -> None:
        self._text = text

    def id_of(self, subject: str, text: str) -> int:
        del subject, text
        return 1

    def schema(self, schema_id: int) -> str:
        del schema_id
        return self._text
