"""Answers of a pipeline that scores: the decision that a record would get if it were published now.

The body is one record of the pipeline's source. Its features are read as of its own time, with itself merged
in (DESIGN: a rolling feature is read as of the request), and it is scored, decided and explained by the very
step that does so on the stream. Nothing is published and no state changes.

What waits is taken in one go: while a batch is scored the next gathers, so that one poll's worth of requests
is one read of the online store and one call of the model, and a single request waits for nobody.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from core.clock import Clock, to_millis
from core.errors import InternalError, MillstreamError, ModelError, Rejected, Unavailable
from jobs.worker.answering import metrics
from jobs.worker.batch import Calls, count, tally
from jobs.worker.routed import Part, RoutedScoring
from jobs.worker.scoring import Scoring
from jobs.worker.serving import Serving
from operators.asking import Answer, Emit, Question
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


@dataclass(slots=True)
class _Waiting:
    question: Question
    record: Record
    answer: "asyncio.Future[Answer]"


class ScoringAnswerer:
    """See `operators.asking.Answerer`. Belongs to one event loop; scores in a thread of its own."""

    def __init__(
        self,
        plan: ScoringPlan,
        scoring: Scoring,
        serving: Serving,
        *,
        batch: int,
        clock: Clock,
        rates: ErrorRates,
    ) -> None:
        source, enriched = plan.source.record, plan.enriched.record
        if source is None or enriched is None:
            raise InternalError(f"pipeline {plan.pipeline} has topics without a record")
        self._plan = plan
        self._routed = RoutedScoring(scoring)
        self._serving = serving
        self._batch = batch
        self._clock = clock
        self._rates = rates
        self._decode = msgspec.json.Decoder(source).decode
        self._codec: RecordCodec[Any] = RecordCodec(source, _Own(schema_text(source.spec())), "asked")
        self._columns = arrow_schema(enriched.spec())
        self._missing = {field.type for field in self._columns if field.name not in source.spec().names}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="scoring")
        self._waiting: deque[_Waiting] = deque()
        self._running: asyncio.Task[None] | None = None

    async def answer(self, question: Question, emit: Emit) -> Answer:
        """Raises Rejected for a body that is no record of the source, or that the model cannot score, and
        Unavailable while the model does not work."""
        del emit
        record = self._record(question)
        loop = asyncio.get_running_loop()
        one = _Waiting(question, record, loop.create_future())
        self._waiting.append(one)
        if self._running is None:
            self._running = loop.create_task(self._run(), name="scoring")
        return await one.answer

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _record(self, question: Question) -> Record:
        where = f"pipeline {self._plan.pipeline}"
        try:
            record: Record = self._decode(question.body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise Rejected(
                f"the body is no {self._codec.record_type.__name__}",
                fields={"": str(error)[:300]},
                where=where,
            ) from None
        if record.tenant != question.tenant:
            raise Rejected(
                "the record is another tenant's", fields={"/tenant": "not the asker's"}, where=where
            )
        return record

    async def _run(self) -> None:
        """Batch after batch until nobody waits."""
        loop = asyncio.get_running_loop()
        try:
            while self._waiting:
                taken: list[_Waiting] = []
                while self._waiting and len(taken) < self._batch:
                    one = self._waiting.popleft()
                    if not one.answer.done():  # cancelled meanwhile
                        taken.append(one)
                if not taken:
                    continue
                metrics.BATCH.labels(self._plan.pipeline).observe(len(taken))
                try:
                    answers = await loop.run_in_executor(
                        self._thread, self._score, [(one.question, one.record) for one in taken]
                    )
                except Exception as error:
                    answers = [error] * len(taken)
                for one, answer in zip(taken, answers, strict=True):
                    if one.answer.done():
                        continue
                    if isinstance(answer, Answer):
                        one.answer.set_result(answer)
                    else:
                        one.answer.set_exception(answer)
        finally:
            self._running = None

    def _score(self, asked: Sequence[tuple[Question, Record]]) -> list[Answer | Exception]:
        """In the thread. One answer or error per question, in order."""
        answers: list[Answer | Exception] = [InternalError("no outcome")] * len(asked)
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
        calls: Calls = Counter()
        for part in self._parts(self._enriched(decoded.batch), started_ms):
            tally(calls, part.scored)
            places = rows if part.rows is None else [rows[row] for row in part.rows.tolist()]
            for failed in part.failed:
                why = failed.error
                answers[places[failed.row]] = Rejected(
                    why.what, fields={"": why.what}, where=why.where, code="not_scored"
                )
            for row, result in zip(part.scored.rows.tolist(), part.scored.results.to_pylist(), strict=True):
                question, record = asked[places[row]]
                answers[places[row]] = Answer(200, _encode(self._answer(question, record, result)))
        count(self._rates, calls)
        return answers

    def _parts(self, batch: pa.RecordBatch, started_ms: int) -> list[Part]:
        """Scored by what is in service; once more by what comes after a version that broke."""
        asked_ms = np.full(batch.num_rows, started_ms, np.int64)
        for last in (False, True):
            try:
                service = self._serving.current
                return list(self._routed.score(batch, asked_ms, service, started_ms=started_ms))
            except ModelError as error:
                self._rates.count("infer", error.code, batch.num_rows)
                if not self._serving.broke(error) or last:
                    raise Unavailable(
                        f"the model does not work: {error.what}", where=error.where, code="model_unavailable"
                    ) from error
        raise InternalError("no attempt was made")

    def _enriched(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Rows of the source as rows of the enriched topic that have no features yet."""
        rows = batch.num_rows
        given = dict(zip(batch.schema.names, batch.columns, strict=True))
        missing = {kind: pa.nulls(rows, kind) for kind in self._missing}
        given["late"] = pa.repeat(pa.scalar(True), rows)
        columns = [
            given[name] if name in given else missing[kind]
            for name, kind in zip(self._columns.names, self._columns.types, strict=True)
        ]
        return pa.RecordBatch.from_arrays(columns, schema=self._columns)

    def _answer(self, question: Question, record: Record, result: dict[str, Any]) -> dict[str, Any]:
        return {
            "id": question.id,
            "pipeline": question.pipeline,
            "record_id": record.id,
            "entity": result["entity"],
            "occurred_at": result["occurred_at"],
            **{name: result[name] for name in _TAKEN},
        }


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
