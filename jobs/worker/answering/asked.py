"""Asked scoring: what one thread does with a batch of questions, from their records to their answers.

A record's features are read as of its own time, with itself merged in, and it is scored, decided and
explained as it would be on the stream (`jobs.worker.answering.asked_step`). Nothing is published and no state
changes.
"""

import asyncio
import queue
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np

from core.clock import Clock, to_millis
from core.errors import InternalError, MillstreamError, ModelUnavailable, Rejected
from features.online.rolling import Event
from jobs.worker.answering.asked_step import AskedRows, Contents
from jobs.worker.batch import Calls, count, tally
from jobs.worker.held import Service
from jobs.worker.routed import RoutedScoring
from jobs.worker.scoring import ScoringStep
from operators.asking import Answer, Question
from operators.error_rates import ErrorRates
from pipelines.plan import ScoringPlan
from schemas.avro import schema_text
from schemas.codec import RecordCodec
from schemas.record import Record

_encode = msgspec.json.Encoder().encode

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
    """Belongs to one thread. `step` makes what it scores with, of the names of the source's fields."""

    def __init__(
        self,
        plan: ScoringPlan,
        step: Callable[[Sequence[str]], ScoringStep[AskedRows, list[Contents]]],
        *,
        clock: Clock,
        rates: ErrorRates,
    ) -> None:
        if plan.source.record is None:
            raise InternalError(f"pipeline {plan.pipeline} has a source without a record")
        source: type[Record] = plan.source.record
        self._routed = RoutedScoring(step(source.__struct_fields__))
        self._clock = clock
        self._rates = rates
        self._codec: RecordCodec[Any] = RecordCodec(source, _Own(schema_text(source.spec())), "asked")
        view = plan.view
        self._entity, self._time = attrgetter(view.single_entity), attrgetter(view.time)
        self._columns = view.columns

    def score(self, batch: Batch, service: Service, given_up: threading.Event) -> Answers:
        """One answer or error per question, in order. Raises VersionBroken where a version does not work.
        Once it is `given_up` no other version is begun."""
        asked = batch.asked
        answers: Answers = [InternalError("no outcome")] * len(asked)
        rows, events, values = [], [], []
        for row, (_, record) in enumerate(asked):
            try:
                self._codec.encode(record)  # what would be refused on the stream is refused here
            except MillstreamError as error:
                answers[row] = error
                continue
            rows.append(row)
            events.append(self._event(record))
            values.append(msgspec.structs.astuple(record))
        if not rows:
            return answers
        started_ms = to_millis(self._clock.now())
        asked_ms = np.full(len(rows), started_ms, np.int64)
        calls: Calls = Counter()
        given = AskedRows(events, values)
        for part in self._routed.score(given, asked_ms, service, started_ms=started_ms):
            if given_up.is_set():
                break
            tally(calls, part.scored)
            places = rows if part.rows is None else [rows[row] for row in part.rows.tolist()]
            for failed in part.failed:
                why = failed.error
                answers[places[failed.row]] = Rejected(
                    why.what, fields={"": why.what}, where=why.where, code="not_scored"
                )
            for row, contents in zip(part.scored.rows.tolist(), part.scored.results, strict=True):
                question, record = asked[places[row]]
                answers[places[row]] = answer_of(question, record.id, contents)
        count(self._rates, calls)
        return answers

    def _event(self, record: Record) -> Event:
        columns = [getattr(record, name) for name in self._columns]
        return record.tenant, self._entity(record), record.id, to_millis(self._time(record)), columns


def answer_of(question: Question, record_id: str, contents: Contents) -> Answer:
    """The answer as JSON; with a warning where another level than the first gave it."""
    degraded = contents["degraded"]
    warning = f"answered by {contents['level']}: {contents['degraded_reason']}" if degraded else None
    head = {"id": question.id, "pipeline": question.pipeline, "record_id": record_id}
    return Answer(200, _encode(head | contents | {"warning": warning}))


def without_score(
    plan: ScoringPlan, question: Question, record: Record, decision: str, reason: str, now: datetime
) -> Answer:
    """The declared decision, where no version gave a score."""
    contents: Contents = {
        "entity": getattr(record, plan.view.single_entity),
        "occurred_at": getattr(record, plan.view.time),
        "score": None,
        "decision": decision,
        "reasons": [],
        "feature_time": None,
        "model": plan.infer.model,
        "model_version": None,
        "arm": None,
        "degraded": True,
        "level": "static",
        "degraded_reason": reason,
        "decided_at": now,
        "model_ms": 0.0,
        "decide_ms": 0.0,
    }
    return answer_of(question, record.id, contents)


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
        """As `AskedScoring.score`; cancelling gives the call up. Raises ModelUnavailable while an earlier
        one has not returned."""
        last = self._call
        if last is not None and not last.answers.done():
            if _versions(last.service) & _versions(service):
                raise ModelUnavailable(
                    "an earlier call of the model has not returned",
                    where=f"version {service.version}",
                    mend="the controller puts the version before it in service; or roll back",
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
