"""Works: the requests that are being answered, each once, whoever asks how often.

What is taken up ends in one of four ways: answered, failed, expired at its deadline, or cancelled when the
last who asked has left. The end is stored before it is sent, and the first final one stands, so that a
repeat of an id, here or at another worker, is answered alike. While the store is away this worker's own
memory stands in for it: a repeat that another worker answered is then worked again.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from core.clock import Clock, to_millis
from core.errors import Conflict, DeadlineExceeded, InvalidInput, MillstreamError, Unavailable
from core.ids import new_id
from core.telemetry.log import logger
from jobs.worker.answering import metrics
from jobs.worker.answering.frames import Frames
from jobs.worker.answering.progress import Place
from jobs.worker.answering.replies import Replies
from operators.asking import Answerer, Question
from operators.error_rates import ErrorRates
from pipelines.asking.addresses import Address
from pipelines.asking.outcomes import (
    ANSWERED,
    CANCELLED,
    EXPIRED,
    End,
    InMemoryOutcomes,
    OutcomeStore,
    Standing,
    digest_of,
    failed,
)
from schemas.catalog.asking import Ask, State
from schemas.keys import key_of

_LOG = logger("answering")


class Asked(msgspec.Struct, frozen=True):
    """A message of the requests topic. address: None where it holds none that can be answered to."""

    ask: Ask
    address: Address | None
    place: Place
    appended_ms: int


@dataclass(slots=True)
class _Seat:
    """One who asked. `gone`: has left, and is not answered."""

    place: Place
    address: Address | None
    gone: bool = False


@dataclass(slots=True)
class _Work:
    ask: Ask
    digest: bytes
    attempt: str
    seats: list[_Seat] = field(default_factory=list)
    pieces: list[bytes] = field(default_factory=list)
    answering: bool = False
    deserted: bool = False
    ending: bool = False
    deadline: asyncio.Timeout | None = None
    task: "asyncio.Task[None] | None" = None

    @property
    def wanted(self) -> bool:
        return any(not seat.gone for seat in self.seats)

    @property
    def waiting(self) -> list[Address]:
        """Where pieces go."""
        return [
            seat.address
            for seat in self.seats
            if not seat.gone and seat.address is not None and seat.address.partition is not None
        ]


@dataclass(frozen=True)
class Rules:
    """ordered: requests about one entity are answered one after the other, in the order they came.
    looks_first: an earlier end is looked for before a request is worked. Where working twice costs little it
    is worked at once: the store's first end stands all the same, and is what everybody is answered."""

    pipeline: str
    frame_s: float = 0.03
    ordered: bool = False
    looks_first: bool = True


class Works:
    """Belongs to one event loop. `done` is told each place that has ended, from any thread."""

    def __init__(
        self,
        answerer: Answerer,
        replies: Replies,
        *,
        store: OutcomeStore,
        recent: InMemoryOutcomes,
        rules: Rules,
        clock: Clock,
        rates: ErrorRates,
        done: Callable[[Place], None],
    ) -> None:
        self._answerer = answerer
        self._replies = replies
        self._store = store
        self._recent = recent
        self._rules = rules
        self._clock = clock
        self._rates = rates
        self._done = done
        self._works: dict[tuple[str, str], _Work] = {}
        self._lines: dict[str, asyncio.Task[None]] = {}
        self._aside: set[asyncio.Task[None]] = set()

    def take(self, batch: Sequence[Asked]) -> None:
        """Take up what one poll brought, in its order. A request that is cancelled in the same batch is not
        begun."""
        left = {one.address.correlation_id for one in batch if one.ask.kind == "cancel" and one.address}
        now_ms = to_millis(self._clock.now())
        for one in batch:
            if one.ask.kind == "cancel":
                self._leave(one)
                continue
            metrics.QUEUE_MS.labels(self._rules.pipeline).observe(max(now_ms - one.appended_ms, 0))
            self._take(one, gone=one.address is not None and one.address.correlation_id in left)
        metrics.WORKING.labels(self._rules.pipeline).set(len(self._works))

    async def idle(self, timeout_s: float) -> None:
        """Wait until nothing is under way, at most so long."""
        tasks = {work.task for work in self._works.values() if work.task} | self._aside
        if tasks:
            await asyncio.wait(tasks, timeout=timeout_s)

    def abandon(self) -> None:
        """Stop everything without ending it: whoever has the partitions next begins anew."""
        for task in [work.task for work in self._works.values() if work.task] + list(self._aside):
            task.cancel()

    def _take(self, one: Asked, *, gone: bool) -> None:
        ask, digest = one.ask, digest_of(one.ask.pipeline, one.ask.body)
        work = self._works.get((ask.tenant, ask.id))
        if work is not None and work.digest != digest:
            end = failed(digest, _conflict(ask.id), attempt="", pieces=0, at_ms=to_millis(self._clock.now()))
            self._apart(self._reply(ask, _Seat(one.place, one.address), end))
        elif work is not None and not gone:
            metrics.REPEATED.labels(self._rules.pipeline).inc()
            work.seats.append(_Seat(one.place, one.address))
            self._prolong(work, ask)
            if work.pieces and ask.streamed and one.address is not None:
                self._replies.pieces([one.address], ask.tenant, ask.id, work.attempt, 0, list(work.pieces))
        elif work is not None:
            self._done(one.place)
        else:
            work = _Work(ask, digest, new_id(), [_Seat(one.place, one.address, gone)])
            self._works[ask.tenant, ask.id] = work
            work.task = asyncio.get_running_loop().create_task(self._whole(work, self._line(work)))
            if self._rules.ordered:
                self._lines[key_of(ask.tenant, ask.entity)] = work.task

    def _line(self, work: _Work) -> "asyncio.Task[None] | None":
        """The task to wait for first, where order is asked for."""
        if not self._rules.ordered:
            return None
        return self._lines.get(key_of(work.ask.tenant, work.ask.entity))

    def _prolong(self, work: _Work, ask: Ask) -> None:
        """A repeat may wait longer than the first who asked."""
        if work.deadline is None or work.deadline.expired() or work.ending:
            return
        until = asyncio.get_running_loop().time() + self._left_s(ask)
        if (work.deadline.when() or 0.0) < until:
            work.deadline.reschedule(until)

    def _leave(self, one: Asked) -> None:
        """Who asked has left. The work stops when nobody else waits."""
        work = self._works.get((one.ask.tenant, one.ask.id))
        if work is not None and one.address is not None:
            for seat in work.seats:
                if seat.address is not None and seat.address.correlation_id == one.address.correlation_id:
                    seat.gone = True
            # before and after it is answered nothing is broken off: it is seen when it comes to that
            if work.answering and not work.deserted and not work.wanted and work.task is not None:
                work.deserted = True
                work.task.cancel()
        self._done(one.place)

    async def _whole(self, work: _Work, before: "asyncio.Task[None] | None") -> None:
        """One request, from taken up to handed to Kafka."""
        began = self._clock.monotonic()
        ask, key = work.ask, (work.ask.tenant, work.ask.id)
        try:
            end = await self._ended(work, before)
            for seat in work.seats:  # grows while repeats come
                await self._reply(ask, seat, end)
            metrics.ENDED.labels(self._rules.pipeline, end.state).inc()
            metrics.WORK_MS.labels(self._rules.pipeline).observe((self._clock.monotonic() - began) * 1000)
        finally:
            self._works.pop(key, None)
            if self._rules.ordered:
                line = key_of(ask.tenant, ask.entity)
                if self._lines.get(line) is work.task:
                    del self._lines[line]

    async def _ended(self, work: _Work, before: "asyncio.Task[None] | None") -> End:
        """The end that stands: an earlier one, or that of the work now."""
        ask = work.ask
        earlier = await self._read(work)
        if earlier.end is not None and earlier.end.final:
            work.ending = True
            metrics.REPEATED.labels(self._rules.pipeline).inc()
            if earlier.end.digest != work.digest:
                return self._failed(work, _conflict(ask.id), 0)
            if ask.streamed and earlier.pieces:
                pieces = list(earlier.pieces)
                self._replies.pieces(work.waiting, ask.tenant, ask.id, earlier.end.attempt, 0, pieces)
            return earlier.end
        if ask.streamed or earlier.end is not None:
            await self._tell(self._recent.begin(ask.tenant, ask.id), self._store.begin(ask.tenant, ask.id))
        frames = Frames(
            lambda number, pieces: self._frame(work, number, pieces), interval_s=self._rules.frame_s
        )
        end = await self._worked(work, frames, before)
        self._count(end)
        work.ending = True
        frames.flush()
        end = msgspec.structs.replace(end, pieces=frames.sent)
        try:
            stands = await self._store.end(ask.tenant, ask.id, end)
        except Unavailable:
            metrics.STORE_AWAY.labels(self._rules.pipeline).inc()
            stands = end
        if stands.digest != work.digest:
            return self._failed(work, _conflict(ask.id), 0)
        return await self._recent.end(ask.tenant, ask.id, stands)

    async def _worked(self, work: _Work, frames: Frames, before: "asyncio.Task[None] | None") -> End:
        """Answer, until the deadline, or until nobody waits."""
        ask = work.ask
        question = Question(ask.tenant, ask.id, ask.pipeline, ask.body, ask.deadline_at, ask.streamed)
        task = asyncio.current_task()
        loop = asyncio.get_running_loop()
        while True:
            if not work.wanted:
                return self._end(work, CANCELLED)
            left_s = self._left_s(ask)
            if left_s <= 0:
                return self._end(work, EXPIRED)
            work.answering = True
            try:
                async with asyncio.timeout_at(loop.time() + left_s) as work.deadline:
                    if before is not None:
                        await asyncio.wait({before})
                    answer = await self._answerer.answer(question, frames.add)
            except TimeoutError as error:
                if work.deadline is not None and work.deadline.expired():
                    return self._end(work, EXPIRED)
                return self._failed(work, error, frames.sent)
            except asyncio.CancelledError:
                if not work.deserted or task is None:
                    raise  # abandoned
                work.deserted = False
                task.uncancel()  # asked for again meanwhile, or cancelled: the loop decides
            except Exception as error:
                return self._failed(work, error, frames.sent)
            else:
                return msgspec.structs.replace(
                    self._end(work, ANSWERED), status=answer.status, body=answer.body, final=True
                )
            finally:
                work.answering = False

    def _count(self, end: End) -> None:
        """What was worked, not what was answered from the store; one that nobody waited for is no call."""
        if end.state == ANSWERED:
            self._rates.count("answer", None)
        elif end.state == EXPIRED:
            self._rates.count("answer", DeadlineExceeded.default_code)
        elif end.failure is not None:
            refused = InvalidInput.__name__ in end.failure.kinds
            self._rates.count("answer", end.failure.code, refused=refused)

    def _frame(self, work: _Work, number: int, pieces: list[bytes]) -> None:
        """Sent at once, stored on the side: who comes back later reads the store."""
        ask = work.ask
        work.pieces += pieces
        self._replies.pieces(work.waiting, ask.tenant, ask.id, work.attempt, number, pieces)
        self._apart(
            self._tell(
                self._recent.add(ask.tenant, ask.id, pieces), self._store.add(ask.tenant, ask.id, pieces)
            )
        )

    async def _read(self, work: _Work) -> Standing:
        """What is known of the request, here or in the store."""
        ask = work.ask
        after = -1 if ask.streamed else None
        here = await self._recent.read(ask.tenant, ask.id, after=after)
        if here.end is not None and here.end.final:
            return here
        if not self._rules.looks_first and not ask.streamed:
            return here
        try:
            return await self._store.read(ask.tenant, ask.id, after=after)
        except Unavailable:
            metrics.STORE_AWAY.labels(self._rules.pipeline).inc()
            return here

    async def _tell(self, here: Awaitable[None], store: Awaitable[None]) -> None:
        await here
        try:
            await store
        except Unavailable:
            metrics.STORE_AWAY.labels(self._rules.pipeline).inc()

    async def _reply(self, ask: Ask, seat: _Seat, end: End) -> None:
        """The end to one who asked; its place is done when Kafka has it."""
        place = seat.place
        if seat.address is None or seat.gone:
            self._done(place)
        else:
            await self._replies.end(seat.address, ask.tenant, ask.id, end, lambda: self._done(place))

    def _apart(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._aside.add(task)
        task.add_done_callback(self._aside.discard)

    def _end(self, work: _Work, state: State) -> End:
        return End(work.digest, state, work.attempt, to_millis(self._clock.now()))

    def _failed(self, work: _Work, error: BaseException, pieces: int) -> End:
        if not isinstance(error, MillstreamError):
            _LOG.error("a request failed", id=work.ask.id, error=repr(error), exc_info=error)
        at_ms = to_millis(self._clock.now())
        return failed(work.digest, error, attempt=work.attempt, pieces=pieces, at_ms=at_ms)

    def _left_s(self, ask: Ask) -> float:
        return (ask.deadline_at - self._clock.now()).total_seconds()


def _conflict(id: str) -> Conflict:
    return Conflict(
        f"request {id!r} was sent before with other content", mend="give another request another key"
    )
