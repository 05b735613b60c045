"""Answers of a pipeline that scores: the decision that a record would get if it were published now.

The body is one record of the pipeline's source. What waits is taken in one go: while a batch is scored the
next gathers, so that one poll's worth of requests is one read of the online store and one call of the model,
and a single request waits for nobody.

Levels, each with its own time (`pipelines.plan.Levels`): what is in service; the version before it; and,
where the pipeline declares one, a decision without a score. The answer says which it was, why, and warns.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import msgspec

from core.clock import Clock
from core.errors import InternalError, ModelError, ModelUnavailable, Rejected, Unavailable
from features.words import span
from jobs.worker.answering import metrics
from jobs.worker.answering.asked import Answers, AskedScoring, Batch, Lane, without_score
from jobs.worker.answering.asked_step import AskedRows, Contents
from jobs.worker.held import LiveRoute, Service, VersionBroken
from jobs.worker.scoring import ScoringStep
from jobs.worker.serving import Serving
from operators.asking import Answer, Emit, Question
from operators.error_rates import ErrorRates
from operators.fallback_chain import MAX_REASON, FallbackChain, Level
from pipelines.plan import ScoringPlan
from schemas.record import Record

BROKEN_S = 0.25
"""How long serving is waited for that is told of a version that broke; putting another one in takes less."""


@dataclass(slots=True)
class _Waiting:
    question: Question
    record: Record
    answer: "asyncio.Future[Answer]"


class ScoringAnswerer:
    """See `operators.asking.Answerer`. Belongs to one event loop; each version is asked in a thread.

    `step` makes what one thread scores with, of the names of the source's fields.
    """

    def __init__(
        self,
        plan: ScoringPlan,
        step: Callable[[Sequence[str]], ScoringStep[AskedRows, list[Contents]]],
        serving: Serving,
        *,
        batch: int,
        clock: Clock,
        rates: ErrorRates,
    ) -> None:
        if plan.source.record is None:
            raise InternalError(f"pipeline {plan.pipeline} has topics without a record")
        self._plan = plan
        self._serving = serving
        self._batch = batch
        self._clock = clock
        self._rates = rates
        self._record_type = plan.source.record
        self._decode = msgspec.json.Decoder(plan.source.record).decode
        self._waiting: deque[_Waiting] = deque()
        self._running: asyncio.Task[None] | None = None
        self._telling: asyncio.Task[bool] | None = None

        def lane(name: str) -> Lane:
            return Lane(name, lambda: AskedScoring(plan, step, clock=clock, rates=rates))

        self._live, self._before = lane("scoring"), lane("scoring-before")
        levels = [
            Level("live", self._by_service, plan.levels.live),
            Level("previous_version", self._by_version_before, plan.levels.previous_version),
        ]
        if plan.levels.decision is not None:
            levels.append(Level("static", self._by_declaration, plan.levels.live))
        self._chain: FallbackChain[Batch, Answers] = FallbackChain(plan.pipeline, levels)

    async def answer(self, question: Question, emit: Emit) -> Answer:
        """Raises Rejected for a body that is no record of the source, or that the model cannot score, and
        ModelUnavailable (DeadlineExceeded where the model took too long) when no level answers."""
        del emit
        record = self._record(question)
        loop = asyncio.get_running_loop()
        one = _Waiting(question, record, loop.create_future())
        self._waiting.append(one)
        if self._running is None:
            self._running = loop.create_task(self._run(), name="scoring")
        return await one.answer

    def close(self) -> None:
        self._live.close()
        self._before.close()

    def _record(self, question: Question) -> Record:
        where = f"pipeline {self._plan.pipeline}"
        try:
            record: Record = self._decode(question.body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise Rejected(
                f"the body is no {self._record_type.__name__}", fields={"": str(error)[:300]}, where=where
            ) from None
        if record.tenant != question.tenant:
            raise Rejected(
                "the record is another tenant's", fields={"/tenant": "not the asker's"}, where=where
            )
        return record

    async def _run(self) -> None:
        """Batch after batch until nobody waits."""
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
                batch = Batch([(one.question, one.record) for one in taken])
                try:
                    answers = (await self._chain.answer(batch)).value
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

    async def _by_service(self, batch: Batch) -> Answers:
        batch.service = service = self._serving.current
        batch.reason = f"version {service.version} took longer than {span(self._plan.levels.live)}"
        return await self._asked(self._live, batch, service)

    async def _by_version_before(self, batch: Batch) -> Answers:
        """Serving may have put it in the place of one that broke already."""
        service = self._serving.current
        if service is not batch.service:
            route: LiveRoute | None = service.champion
        elif batch.broken not in (None, service.version):
            route = service.champion
        else:
            route = service.backup
        if route is None:
            raise Unavailable("there is no version before it", where=f"pipeline {self._plan.pipeline}")
        route = replace(route, fallback=route.fallback or batch.reason)
        return await self._asked(self._before, batch, Service((route,)))

    async def _by_declaration(self, batch: Batch) -> Answers:
        decision, now = self._plan.levels.decision, self._clock.now()
        if decision is None:
            raise InternalError(f"pipeline {self._plan.pipeline} declares no decision")
        return [
            without_score(self._plan, question, record, decision, batch.reason, now)
            for question, record in batch.asked
        ]

    async def _asked(self, lane: Lane, batch: Batch, service: Service) -> Answers:
        """What breaks, or takes too long, is counted, and told to what serves."""
        records = len(batch.asked)
        try:
            return await lane.score(batch, service)
        except Unavailable as error:
            self._rates.count("infer", error.code, records)
            self._because(batch, service, error.what)
            raise
        except ModelError as error:
            self._rates.count("infer", error.code, records)
            self._because(batch, service, error.what)
            if service is batch.service and isinstance(error, VersionBroken):
                batch.broken = error.version
            await self._tell(error)
            raise ModelUnavailable(f"the model does not work: {error.what}", where=error.where) from error
        except asyncio.CancelledError:
            self._rates.count("infer", "deadline_exceeded", records)
            if len(service.routes) == 1:  # so that its health falls, and another one serves
                service.champion.meter.failed(records)
            raise

    def _because(self, batch: Batch, service: Service, what: str) -> None:
        if service is batch.service:
            batch.reason = f"version {service.version}: {what}"[:MAX_REASON]

    async def _tell(self, error: ModelError) -> None:
        """Lets another version take the place of one that broke. Where one must be loaded, that goes on."""
        if self._telling is None or self._telling.done():
            self._telling = asyncio.create_task(asyncio.to_thread(self._serving.broke, error))
        await asyncio.wait({self._telling}, timeout=BROKEN_S)
