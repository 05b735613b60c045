"""Generate: one question to LLM servers, answered in pieces and as a whole.

Pieces are lines of JSON (they may be joined and cut anywhere by who carries them): `{"text": "..."}`, the
first with `model`, and where a server died in the middle of an answer either `{"continued": {...}}`, when the
next one goes on after what has been said, or `{"restarted": {...}}`, when it begins anew and what has been
said no longer counts. The answer is one JSON object, `Generated`. The same code serves a prompt and a
conversation.

A question that names no model goes through a fallback chain: the active model, the others, an answer given to
the same question before, a declared text. One that names a model is answered by that or not at all.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta

import msgspec
from msgspec.structs import replace

from core.clock import Clock
from core.errors import Conflict, DeadlineExceeded, InvalidInput, MillstreamError, Unavailable
from core.ids import digest
from core.telemetry.log import logger
from operators.answer_statistics import RollingStatistics, Timings
from operators.asking import Answer, Emit, Question
from operators.cache import ResponseCache
from operators.fallback_chain import FallbackChain, Level
from operators.generate_answer import (
    BACKUP,
    EARLIER,
    LIVE,
    STATIC,
    Asked,
    Generated,
    Handover,
    Progress,
    Said,
    ms,
    piece,
    said_by,
    timings_of,
)
from operators.generate_calls import ServerCalls
from operators.generate_flight import Flight
from operators.generate_ports import Claim, PaidCalls, Usage
from operators.generate_request import Generation, Limits, parse
from operators.server_pool import ServerPool, Wanted

PIPELINE = "generate"
CACHE_READ_S = 0.02
"""A shared cache that takes longer is passed over: an answer is never delayed for it."""
_log = logger("operators.generate")
_encode = msgspec.json.Encoder().encode
_said = msgspec.json.Decoder(Said).decode


@dataclass(frozen=True)
class Levels:
    """The times of the fallback chain's levels, and the text of the last one, which there is only where it is
    declared."""

    live: timedelta = timedelta(seconds=60)
    backup: timedelta = timedelta(seconds=60)
    earlier: timedelta = timedelta(milliseconds=100)
    static: str | None = None


@dataclass(frozen=True)
class Kept:
    """Where repeatable answers are kept: `answers` under the model that gave them, and `earlier` ones, which
    live longer, under the question alone, to stand in where no model answers."""

    answers: ResponseCache
    earlier: ResponseCache


class Generate:
    """See `operators.asking.Answerer`. On one loop; `close` waits for what is still being kept."""

    def __init__(
        self,
        pool: ServerPool,
        statistics: RollingStatistics,
        *,
        limits: Limits,
        clock: Clock,
        kept: Kept | None = None,
        ledger: PaidCalls | None = None,
        levels: Levels | None = None,
    ) -> None:
        self.pool = pool
        self.statistics = statistics
        self._limits = limits
        self._clock = clock
        self._kept = kept
        self._ledger = ledger
        self._calls = ServerCalls(pool, clock=clock, ledger=ledger)
        self._levels = levels or Levels()
        self._chain = FallbackChain(PIPELINE, self._declared())
        self._flights: dict[str, Flight] = {}

    async def answer(self, question: Question, emit: Emit) -> Answer:
        """Raises InvalidInput for a question that is not in order, UnknownName for its model, QueueFull,
        DeadlineExceeded, CircuitOpen, and ServerFailed when nobody is left that could answer."""
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
        if self._kept is not None:
            await self._kept.answers.settled()
            await self._kept.earlier.settled()

    async def _answer(self, question: Question, emit: Emit) -> Answer:
        begun = self._clock.monotonic()
        generation = parse(question.body, self._limits)
        model = generation.model or self.pool.active
        self.pool.of(model)
        validated = self._clock.monotonic()
        made: list[Generated] = []

        async def make(emit: Emit, streamed: bool) -> Generated:
            answer = await self._made(question, generation, emit, streamed, begun, validated)
            made.append(answer)
            return answer

        if self._kept is None or not generation.repeatable:
            return Answer(200, _encode(await make(emit, question.streamed)))
        said: Said | None = None
        key = generation.key(question.tenant, model)
        while said is None:
            said = await self._together(self._kept, key, model, emit if question.streamed else None, make)
        if made:
            return Answer(200, _encode(made[0]))
        timings = Timings(
            validation_ms=ms(validated - begun),
            total_ms=ms(self._clock.monotonic() - begun),
            tokens=said.usage.completion_tokens,
            cache_hit=True,
        )
        self.statistics.answered(timings)
        return Answer(200, _encode(_generated(question.id, said, timings)))

    async def _together(
        self,
        kept: Kept,
        key: str,
        model: str,
        emit: Emit | None,
        make: Callable[[Emit, bool], Awaitable[Generated]],
    ) -> Said | None:
        """The answer that is kept, or that another one who asks the same is being given, or else made; None
        where the other one's was refused for its own sake, so that this one is to be tried again."""
        flight = self._flights.setdefault(key, Flight())
        led = False

        async def lead() -> bytes:
            nonlocal led
            led = True
            try:
                answer = await make(flight.emit, True)
            finally:
                self._landed(key, flight)
            flight.degraded = answer.degraded or answer.model != model
            return _encode(_said_of(answer))

        flight.waiting += 1
        making = asyncio.ensure_future(kept.answers.get(key, lead, keep=lambda value: not flight.degraded))
        making.add_done_callback(lambda ended: flight.wake())
        try:
            heard = await flight.follow(making, emit)
            said = _said(making.result().value)
        except Conflict:  # of the ledger, for the id of who led
            if led:
                raise
            return None
        finally:
            flight.waiting -= 1
            if not flight.waiting:
                self._landed(key, flight)
            making.cancel()
        if emit is not None and not heard:
            await emit(piece({"text": said.text, "model": said.model}))
        return said

    def _landed(self, key: str, flight: Flight) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]

    async def _made(
        self,
        question: Question,
        generation: Generation,
        emit: Emit,
        streamed: bool,
        begun: float,
        validated: float,
    ) -> Generated:
        """An answer by the chain, or by the model that was named; through the ledger where it costs money."""
        claim: Claim | None = None
        if self._ledger is not None:
            found = await self._ledger.begin(question.tenant, question.id, digest(question.body))
            if isinstance(found, bytes):
                old = msgspec.json.decode(found, type=Generated)
                if streamed:
                    await emit(piece({"text": old.text, "model": old.model}))
                return old
            claim = found
        progress = Progress()
        asked = Asked(generation, generation.key(question.tenant, ""), streamed, emit, progress, claim)
        code = ""
        if generation.model is not None:
            lease = await self._calls.through(asked, Wanted(generation.model))
            said = said_by(lease, progress, LIVE)
        else:
            fallen = await self._chain.answer(asked)
            said = fallen.value
            if fallen.warning is not None:
                said = replace(said, degraded=True, warnings=[*said.warnings, fallen.warning])
                code = fallen.passed[0].code
        now = self._clock.monotonic()
        timings = timings_of(progress, said, begun=begun, validated=validated, now=now)
        answer = _generated(question.id, said, timings)
        if said.level in (EARLIER, STATIC):  # it stands in for an answer that was not given
            self.statistics.failed(code)
        else:
            self.statistics.answered(timings)
            if claim is not None and self._ledger is not None:
                try:
                    await self._ledger.answered(claim, _encode(answer))
                except Unavailable as error:
                    _log.error("a paid answer is not in the ledger", id=question.id, error=str(error))
        if self._kept is not None and generation.repeatable and not said.degraded:
            self._kept.earlier.put(asked.key, _encode(said))
        return answer

    # -- the levels of the chain --------------------------------------------------------------------

    def _declared(self) -> list[Level[Asked, Said]]:
        own = self._levels
        levels = [Level(LIVE, self._live, own.live), Level(BACKUP, self._backup, own.backup)]
        if self._kept is not None:
            levels.append(Level(EARLIER, self._earlier, own.earlier))
        if own.static is not None:
            levels.append(Level(STATIC, self._static, own.earlier))
        return levels

    async def _live(self, asked: Asked) -> Said:
        asked.progress.until = self._clock.monotonic() + self._levels.live.total_seconds()
        lease = await self._calls.through(asked, Wanted())
        return said_by(lease, asked.progress, LIVE)

    async def _backup(self, asked: Asked) -> Said:
        asked.progress.until = self._clock.monotonic() + self._levels.backup.total_seconds()
        lease = await self._calls.through(asked, Wanted(backup=True))
        return said_by(lease, asked.progress, BACKUP)

    async def _earlier(self, asked: Asked) -> Said:
        """What was answered to the same question before, by whichever model."""
        found = None
        if self._kept is not None and asked.generation.repeatable:
            found = await self._kept.earlier.find(asked.key)
        if found is None:
            raise Unavailable("the question was not answered before", code="no_earlier_answer")
        return await self._stand_in(asked, replace(_said(found), level=EARLIER))

    async def _static(self, asked: Asked) -> Said:
        text = self._levels.static or ""
        said = Said(model=STATIC, server="", text=text, finish_reason="stop", usage=Usage(), level=STATIC)
        return await self._stand_in(asked, said)

    async def _stand_in(self, asked: Asked, said: Said) -> Said:
        progress = asked.progress
        if progress.text and progress.previous is not None:
            server = progress.previous.member.server.name
            reason = progress.failures[-1] if progress.failures else "it took too long"
            begun = Handover(previous=server, server="", reason=reason[:300], characters=len(progress.text))
            await asked.say({"restarted": begun})
        await asked.say({"text": said.text, "model": said.model})
        return replace(said, warnings=list(progress.failures))


def _said_of(answer: Generated) -> Said:
    return Said(**{name: getattr(answer, name) for name in Said.__struct_fields__})


def _generated(id: str, said: Said, timings: Timings) -> Generated:
    fields = {name: getattr(said, name) for name in Said.__struct_fields__}
    return Generated(id=id, statistics=timings, **fields)
