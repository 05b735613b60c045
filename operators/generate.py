"""Generate: one question to LLM servers, answered in pieces and as a whole.

Pieces are lines of JSON (they may be joined and cut anywhere by who carries them): `{"text": "..."}`, and
where a server died in the middle of an answer either `{"continued": {...}}`, when the next one goes on after
what has been said, or `{"restarted": {...}}`, when it begins anew and what has been said no longer counts.
The answer is one JSON object, `Generated`. The same code serves a prompt and a conversation.
"""

import asyncio
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import msgspec

from core.clock import Clock
from core.errors import (
    DeadlineExceeded,
    InvalidInput,
    MillstreamError,
    ServerFailed,
    Unavailable,
)
from core.ids import digest
from core.telemetry.log import logger
from operators.answer_statistics import RollingStatistics, Timings
from operators.asking import Answer, Emit, Question
from operators.generate_ports import AnswerCache, Claim, PaidCalls, Usage
from operators.generate_request import Generation, Limits, parse
from operators.server_pool import Lease, ServerPool

PIPELINE = "generate"
CACHE_READ_S = 0.02
"""A cache that takes longer is passed over: an answer is never delayed for it."""
MAX_WRITES = 256
_log = logger("operators.generate")
_encode = msgspec.json.Encoder().encode


class Handover(msgspec.Struct, frozen=True, kw_only=True):
    """One server took over from another in the middle of an answer, which had `characters` by then."""

    previous: str
    server: str
    reason: str
    characters: int


class Generated(msgspec.Struct, frozen=True, kw_only=True):
    """The answer. `finish_reason` is `stop` or `length`. `degraded` where the active model did not answer, or
    a server died meanwhile, with every failure in `warnings`."""

    id: str
    model: str
    server: str
    text: str
    finish_reason: str
    usage: Usage
    statistics: Timings
    degraded: bool = False
    warnings: list[str] = []


class _Kept(msgspec.Struct):
    """What a cache keeps of an answer."""

    model: str
    server: str
    text: str
    finish_reason: str
    usage: Usage


@dataclass
class _Progress:
    """What has been said so far, whoever said it."""

    text: str = ""
    tokens: int = 0
    finish: str = ""
    usage: Usage = field(default_factory=Usage)
    first_at: float | None = None
    asked_at: float | None = None
    last_at: float = 0.0
    queue_s: float = 0.0
    slot_s: float = 0.0
    decoding_s: float = 0.0
    batch: int = 0
    tokenization_s: float | None = None
    backup: bool = False
    failures: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Keeping:
    """Where repeatable answers are kept, and for how long."""

    cache: AnswerCache
    ttl: timedelta


class Generate:
    """See `operators.asking.Answerer`. On one loop; `close` waits for what is still being kept."""

    def __init__(
        self,
        pool: ServerPool,
        statistics: RollingStatistics,
        *,
        limits: Limits,
        clock: Clock,
        keeping: Keeping | None = None,
        ledger: PaidCalls | None = None,
    ) -> None:
        self.pool = pool
        self.statistics = statistics
        self._limits = limits
        self._clock = clock
        self._keeping = keeping
        self._ledger = ledger
        self._writes: set[asyncio.Task[None]] = set()

    async def answer(self, question: Question, emit: Emit) -> Answer:
        """Raises InvalidInput for a question that is not in order, UnknownName for its model, QueueFull,
        DeadlineExceeded, CircuitOpen, and ServerFailed when no server is left that could answer."""
        left_s = (question.deadline_at - self._clock.now()).total_seconds()
        try:
            if left_s <= 0:
                raise DeadlineExceeded("the deadline had passed before the question was looked at")
            async with asyncio.timeout(left_s) as limit:
                return await self._answer(question, emit)
        except TimeoutError:
            if not limit.expired():
                raise
            self.statistics.failed("deadline_exceeded")
            raise DeadlineExceeded(f"no whole answer within {left_s:.1f} s", mend="ask for less") from None
        except InvalidInput:
            raise
        except MillstreamError as error:
            self.statistics.failed(error.code)
            raise

    async def close(self) -> None:
        await asyncio.gather(*self._writes, return_exceptions=True)

    async def _answer(self, question: Question, emit: Emit) -> Answer:
        begun = self._clock.monotonic()
        asked = parse(question.body, self._limits)
        model = asked.model or self.pool.active
        self.pool.of(model)
        validated = self._clock.monotonic()
        key = asked.key(question.tenant, model)
        kept = await self._find(asked, key)
        if kept is not None:
            timings = Timings(
                validation_ms=_ms(validated - begun),
                total_ms=_ms(self._clock.monotonic() - begun),
                tokens=kept.usage.completion_tokens,
                cache_hit=True,
            )
            return await self._repeat(question, emit, kept, timings)
        claim: Claim | None = None
        if self._ledger is not None:
            found = await self._ledger.begin(question.tenant, question.id, digest(question.body))
            if isinstance(found, bytes):
                old = msgspec.json.decode(found, type=Generated)
                if question.streamed:
                    await emit(_piece({"text": old.text}))
                return Answer(200, found)
            claim = found
        progress = _Progress()
        lease = await self._through(asked, question.streamed, emit, progress, claim)
        answer = self._generated(question, lease, progress, begun, validated)
        body = _encode(answer)
        if claim is not None and self._ledger is not None:
            try:
                await self._ledger.answered(claim, body)
            except Unavailable as error:
                _log.error("a paid answer is not in the ledger", id=question.id, error=str(error))
        self.statistics.answered(answer.statistics)
        if not answer.degraded and answer.model == model:
            self._keep(asked, key, answer)
        return Answer(200, body)

    async def _through(
        self, asked: Generation, streamed: bool, emit: Emit, progress: _Progress, claim: Claim | None
    ) -> Lease:
        """Ask one server after the other until one has come to the end; its lease, which is over."""
        without: frozenset[str] = frozenset()
        previous: Lease | None = None
        error: Unavailable | None = None
        counting = asyncio.create_task(self._count(asked))
        try:
            while True:
                if error is not None and not self.pool.left(asked.model, without):
                    raise error
                lease = await self.pool.enter(asked.model, without)
                try:
                    progress.queue_s += lease.queue_s
                    progress.slot_s += lease.slot_s
                    progress.batch = progress.batch or lease.batch
                    progress.backup = lease.backup
                    if previous is not None and progress.text:
                        await self._hand_over(previous, lease, streamed, emit, progress)
                    await self._ask(asked, lease, streamed, emit, progress, claim)
                    if counting.done():
                        progress.tokenization_s = counting.result()
                    return lease
                except InvalidInput:
                    if not progress.text or previous is None:
                        raise
                    # it cannot go on after what another one said, and is asked for all of it
                    await self._anew(
                        previous, lease, "it does not continue answers", streamed, emit, progress
                    )
                except Unavailable as failed:
                    error = failed
                    progress.failures.append(f"{lease.member.server.name}: {failed.what}")
                    if claim is not None and not (isinstance(failed, ServerFailed) and failed.undone):
                        raise
                    without |= {lease.member.server.name}
                    previous = lease
                finally:
                    self.pool.leave(lease)
        finally:
            counting.cancel()

    async def _ask(
        self,
        asked: Generation,
        lease: Lease,
        streamed: bool,
        emit: Emit,
        progress: _Progress,
        claim: Claim | None,
    ) -> None:
        member = lease.member
        ticket = await member.breaker.admit()
        completion = asked.completion
        if progress.text:
            completion = completion.after(progress.text, progress.tokens)
        asked_at = self._clock.monotonic()
        progress.asked_at = progress.asked_at or asked_at
        try:
            if claim is not None and self._ledger is not None:
                await self._ledger.paying(claim)
            async with aclosing(lease.member.server.complete(completion)) as deltas:
                async for delta in deltas:
                    progress.decoding_s += delta.decoding_s
                    if delta.text:
                        progress.last_at = self._clock.monotonic()
                        if progress.first_at is None:
                            progress.first_at = progress.last_at
                        progress.text += delta.text
                        progress.tokens += 1
                        if streamed:
                            await emit(_piece({"text": delta.text}))
                    if delta.usage is not None:
                        progress.usage = progress.usage.plus(delta.usage)
                    progress.finish = delta.finish or progress.finish
        except ServerFailed as error:
            self.pool.failed(lease, error)
            await member.breaker.failed(ticket)
            if claim is not None and self._ledger is not None and error.undone:
                await self._ledger.unpaid(claim)
            whole = progress.tokens == asked.completion.max_tokens and error.kind != "garbage"
            if progress.finish or whole:
                progress.finish = progress.finish or "length"
                return  # all was said before it failed
            raise
        except InvalidInput:
            await member.breaker.abandoned(ticket)
            if claim is not None and self._ledger is not None:
                await self._ledger.unpaid(claim)
            raise
        except BaseException:
            await member.breaker.abandoned(ticket)
            raise
        self.pool.succeeded(lease)
        await member.breaker.succeeded(ticket)

    async def _hand_over(
        self, previous: Lease, lease: Lease, streamed: bool, emit: Emit, progress: _Progress
    ) -> None:
        """Say in the stream that another server goes on. Another model begins anew."""
        if lease.member.server.model != previous.member.server.model:
            await self._anew(previous, lease, progress.failures[-1], streamed, emit, progress)
        elif streamed:
            await emit(_piece({"continued": _handover(previous, lease, progress.failures[-1], progress)}))

    async def _anew(
        self, previous: Lease, lease: Lease, reason: str, streamed: bool, emit: Emit, progress: _Progress
    ) -> None:
        if streamed:
            await emit(_piece({"restarted": _handover(previous, lease, reason, progress)}))
        progress.text, progress.tokens, progress.usage = "", 0, Usage()

    async def _count(self, asked: Generation) -> float | None:
        """Seconds that a server takes to count the prompt's tokens; beside the question, not before it."""
        begun = self._clock.monotonic()
        members = self.pool.of(asked.model or self.pool.active)
        member = next((member for member in members if member.up), members[0])
        counted = await member.server.count_tokens(asked.completion.text)
        return None if counted is None else self._clock.monotonic() - begun

    async def _find(self, asked: Generation, key: str) -> _Kept | None:
        if self._keeping is None or not asked.repeatable:
            return None
        try:
            async with asyncio.timeout(CACHE_READ_S):
                found = await self._keeping.cache.get(key)
            return None if found is None else msgspec.json.decode(found, type=_Kept)
        except (MillstreamError, TimeoutError, msgspec.MsgspecError) as error:
            _log.warning("the cache of answers is passed over", error=str(error) or type(error).__name__)
            return None

    async def _repeat(self, question: Question, emit: Emit, kept: _Kept, timings: Timings) -> Answer:
        if question.streamed:
            await emit(_piece({"text": kept.text}))
        self.statistics.answered(timings)
        answer = Generated(
            id=question.id,
            model=kept.model,
            server=kept.server,
            text=kept.text,
            finish_reason=kept.finish_reason,
            usage=kept.usage,
            statistics=timings,
        )
        return Answer(200, _encode(answer))

    def _keep(self, asked: Generation, key: str, answer: Generated) -> None:
        """Kept beside the response, never before it."""
        if self._keeping is None or not asked.repeatable or len(self._writes) >= MAX_WRITES:
            return
        value = _encode(_Kept(answer.model, answer.server, answer.text, answer.finish_reason, answer.usage))
        task = asyncio.create_task(self._write(self._keeping, key, value))
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)

    async def _write(self, keeping: Keeping, key: str, value: bytes) -> None:
        try:
            await keeping.cache.put(key, value, keeping.ttl)
        except MillstreamError as error:
            _log.warning("an answer is not kept", error=str(error))

    def _generated(
        self, question: Question, lease: Lease, progress: _Progress, begun: float, validated: float
    ) -> Generated:
        now = self._clock.monotonic()
        server = lease.member.server
        first = progress.first_at if progress.first_at is not None else now
        generation_s = max(progress.last_at - first, 0.0)
        tokens = progress.usage.completion_tokens or progress.tokens
        timings = Timings(
            validation_ms=_ms(validated - begun),
            queue_wait_ms=_ms(progress.queue_s),
            slot_wait_ms=_ms(progress.slot_s),
            tokenization_ms=None if progress.tokenization_s is None else _ms(progress.tokenization_s),
            first_token_ms=_ms(first - (progress.asked_at or first)),
            generation_ms=_ms(generation_s),
            decoding_ms=_ms(progress.decoding_s),
            total_ms=_ms(now - begun),
            tokens=tokens,
            tokens_per_s=(tokens - 1) / generation_s if tokens > 1 and generation_s > 0 else None,
            batch_size=progress.batch,
        )
        return Generated(
            id=question.id,
            model=server.model,
            server=server.name,
            text=progress.text,
            finish_reason=progress.finish,
            usage=Usage(progress.usage.prompt_tokens, tokens, progress.usage.cached_tokens),
            statistics=timings,
            degraded=bool(progress.failures) or progress.backup,
            warnings=progress.failures,
        )


def _handover(previous: Lease, lease: Lease, reason: str, progress: _Progress) -> Handover:
    return Handover(
        previous=previous.member.server.name,
        server=lease.member.server.name,
        reason=reason[:300],
        characters=len(progress.text),
    )


def _piece(value: dict[str, Any]) -> bytes:
    return _encode(value) + b"\n"


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
