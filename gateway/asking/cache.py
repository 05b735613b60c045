"""Asking through the caches: in memory, then Redis, then the pipeline; where its plan allows it (`Reuse`).

Memory is asked before Redis (docs/adr/0025). Equal questions at once are asked once in a gateway; the one
who asks for all does so under an id of its own, with a deadline of its own, and who waits longer asks again.

An id that the client gave stands above the caches: its first answer is its answer, here as at the worker. So
a hit under such an id is written to the outcome store before it is given, in one round trip; while the store
is away these go to the pipeline, as they do without a cache, and only the others are answered from memory.

Kept is what the version answered that the routing names for the unit, nothing degraded, and nothing that is
not 200: not the answer of a version before it, nor of one that a worker has not replaced yet.
"""

import asyncio
import time
from datetime import timedelta
from typing import Literal, Protocol

import msgspec

from core.clock import Clock, to_millis
from core.errors import DeadlineExceeded, InternalError, Unavailable
from core.telemetry.metrics import counter, histogram
from gateway.asking.asker import Asked, Wanted
from gateway.asking.cache_control import CacheControl, cache_status
from gateway.asking.cache_key import OWN, Questions, answer_key
from gateway.asking.cache_versions import ServingVersions
from gateway.asking.pending import Pending, answer_of, late
from gateway.asking.prepare import Prepared
from operators.cache import NONE, Cached, ResponseCache
from pipelines.asking.outcomes import ANSWERED, EXPIRED, End
from schemas.catalog.models import Route

Level = Literal["memory", "redis", "collapsed", "miss", "request", "bypass", "replayed"]

_ASKED = counter(
    "gateway_cached_asks_total", "Requests that a cache may answer, by what answered", ["pipeline", "level"]
)
_TOOK = histogram("gateway_cached_ask_ms", "From checked to answered, by what answered", ["level"])
_LEVELS: dict[str, Level] = {"memory": "memory", "shared": "redis", "joined": "collapsed", "miss": "miss"}
_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode
_STATUS = 3
"""Digits of the status that stand before the kept members of an answer."""


class Asking(Protocol):
    """See `Asker`."""

    async def ask(self, asked: Asked, wanted: Wanted, *, reserved: bool = False) -> Pending: ...

    async def reserve(self, asked: Asked, wanted: Wanted) -> End | None: ...

    async def settle(self, asked: Asked, wanted: Wanted, end: End) -> tuple[End, bool]: ...


class _Made(msgspec.Struct, frozen=True):
    """What an answer says of its making."""

    model_version: str | None = None
    arm: str | None = None
    degraded: bool = False


_made = msgspec.json.Decoder(_Made).decode


class _TooShort(DeadlineExceeded):
    """Who asked for all could not wait any longer."""


class Given(msgspec.Struct, frozen=True):
    """An answer, which level gave it, and for how long it is given again (`left`; of `lasts` altogether).
    asked_s: how long the pipeline took, where this request asked it."""

    end: End
    level: Level
    lasts: timedelta
    left: timedelta = NONE
    asked_s: float | None = None

    @property
    def headers(self) -> list[tuple[str, str]]:
        if self.level == "replayed":
            return [("idempotent-replayed", "true")]
        headers = [("cache-status", cache_status(self.level, self.left))]
        if self.left:
            headers.append(("cache-control", f"private, max-age={int(self.lasts.total_seconds())}"))
            headers.append(("age", str(max(int((self.lasts - self.left).total_seconds()), 0))))
        return headers


class Question(msgspec.Struct, frozen=True):
    """A request on its way through the caches. route: None where nobody knows what would answer it. key:
    empty where nothing is looked for and nothing kept."""

    prepared: Prepared
    wanted: Wanted
    control: CacheControl
    route: Route | None
    key: str
    least: timedelta
    at: float

    @property
    def waits(self) -> bool:
        """Whether the answer is made while the asker waits; else it is only looked up."""
        return self.wanted.waits and not self.wanted.returns


class CachedAsking:
    """The questions of one pipeline. `plan` is a digest of it. Belongs to the event loop.

    question = cached.question(prepared, wanted, control)
    given = await cached.kept(question) or await cached.made(question)
    """

    def __init__(
        self,
        asked: Asked,
        *,
        plan: str,
        model: str,
        questions: Questions,
        lasts: timedelta,
        cache: ResponseCache,
        asker: Asking,
        versions: ServingVersions,
        clock: Clock,
    ) -> None:
        self._asked = asked
        self._plan = plan
        self._model = model
        self._questions = questions
        self._lasts = lasts
        self._cache = cache
        self._asker = asker
        self._versions = versions
        self._clock = clock

    def question(self, prepared: Prepared, wanted: Wanted, control: CacheControl) -> Question:
        began = time.perf_counter()
        route = self._versions.of(self._model, wanted.tenant, wanted.entity)
        key = ""
        if route is not None and not (control.no_cache and control.no_store):
            asked = self._questions.of(prepared.record)
            key = answer_key(wanted.tenant, plan=self._plan, route=route, question=asked)
        return Question(prepared, wanted, control, route, key, control.least(self._lasts), began)

    async def kept(self, question: Question) -> Given | None:
        """What memory has, at once but for the outcome store; where nobody waits for an answer to be made,
        what Redis has too. Raises Conflict, and DeadlineExceeded where only what is kept is wanted."""
        given = None
        if question.route is not None and not question.control.no_cache:
            found = self._cache.remembered(question.key, least=question.least)
            if found is None and (question.control.only_if_cached or not question.waits):
                found = await self._cache.look(question.key, least=question.least)
            if found is not None:
                given = await self._again(question, found)
        if given is None and question.control.only_if_cached:
            raise not_kept()
        return given

    async def made(self, question: Question) -> Given:
        """What Redis has, else the pipeline, for one who waits. Raises what the answerer raises, Conflict,
        QueueFull, Unavailable, DeadlineExceeded."""
        control = question.control
        if question.route is None:
            return await self._alone(question, "bypass")
        if control.no_cache:
            return await self._alone(question, "request")
        if control.no_store:
            found = await self._cache.look(question.key, least=question.least)
            given = None if found is None else await self._again(question, found)
            return given or await self._alone(question, "miss")
        if not question.prepared.fresh:
            try:
                stands = await self._asker.reserve(self._asked, question.wanted)
            except Unavailable:
                return await self._alone(question, "bypass")
            if stands is not None:
                return self._given(question, answer_of(stands), "replayed")
        return await self._together(question, question.route)

    async def _alone(self, question: Question, level: Level) -> Given:
        """Ask for this request only. The answer is kept where it was to be a newer one."""
        began = time.perf_counter()
        async with await self._asker.ask(self._asked, question.wanted) as pending:
            end = answer_of(await pending.end())
            replayed = pending.replayed
        left = NONE
        if (
            not replayed
            and level == "request"
            and not question.control.no_store
            and self._fits(question, end)
        ):
            left = self._cache.put(question.key, _kept(end))
        return self._given(
            question, end, "replayed" if replayed else level, left, time.perf_counter() - began
        )

    async def _together(self, question: Question, route: Route) -> Given:
        """Ask for all who ask the same now, or wait for who does."""
        loop, wanted = asyncio.get_running_loop(), question.wanted
        until = loop.time() + wanted.within.total_seconds()
        mine: list[tuple[End, float]] = []

        async def make() -> bytes:
            began = time.perf_counter()
            left = timedelta(seconds=until - loop.time())
            async with await self._asker.ask(
                self._asked, msgspec.structs.replace(wanted, within=left), reserved=not wanted.fresh
            ) as pending:
                try:
                    end = await pending.end()
                except DeadlineExceeded:
                    raise _TooShort("no answer within the deadline") from None
            if end.state == EXPIRED:
                raise _TooShort("no answer within the deadline")
            mine.append((answer_of(end), time.perf_counter() - began))
            return _kept(end)

        def fits(value: bytes) -> bool:
            return self._fits(question, mine[-1][0])

        while True:
            joins = self._cache.under_way(question.key)
            try:
                async with asyncio.timeout_at(until if joins else None):
                    found = await self._cache.get(question.key, make, keep=fits, least=question.least)
            except _TooShort:
                if not joins or loop.time() >= until:
                    raise late() from None
                continue
            except TimeoutError:
                raise late() from None
            if mine:
                end, took_s = mine[-1]
                return self._given(question, end, "miss", found.left, took_s)
            return await self._again(question, found) or self._given(
                question, self._end(question, found), _LEVELS[found.where], found.left
            )

    async def _again(self, question: Question, found: Cached) -> Given | None:
        """A kept answer under this request's id; where that has an answer of its own, that one. None where
        the id was given and the store that knows it is away. Raises Conflict."""
        end, replayed = self._end(question, found), False
        if not question.prepared.fresh:
            try:
                end, replayed = await self._asker.settle(self._asked, question.wanted, end)
            except Unavailable:
                return None
        level: Level = "replayed" if replayed else _LEVELS[found.where]
        return self._given(question, answer_of(end), level, found.left)

    def _end(self, question: Question, found: Cached) -> End:
        status, members = found.value[:_STATUS], found.value[_STATUS:]
        own = self._questions.own(question.prepared.record, question.prepared.id)
        body = b"{" + own + (b"," + members if members else b"") + b"}"
        return End(b"", ANSWERED, "", to_millis(self._clock.now()), 0, int(status), body, None, True)

    def _fits(self, question: Question, end: End) -> bool:
        """Whether an answer may be given again under the question's key."""
        route, made = question.route, _made(end.body)
        return (
            route is not None
            and end.status == 200
            and not made.degraded
            and (made.model_version, made.arm) == (route.version, route.arm)
        )

    def _given(
        self,
        question: Question,
        end: End,
        level: Level,
        left: timedelta = NONE,
        asked_s: float | None = None,
    ) -> Given:
        _ASKED.labels(self._asked.pipeline, level).inc()
        _TOOK.labels(level).observe((time.perf_counter() - question.at) * 1e3)
        return Given(end, level, self._lasts, left, asked_s)


def _kept(end: End) -> bytes:
    """What is kept of an answer: its status, and its members but those that are the request's own."""
    try:
        members = _members(end.body)
    except msgspec.MsgspecError as error:
        raise InternalError(f"an answer that is no JSON object: {error}") from None
    for name in OWN:
        members.pop(name, None)
    return b"%03d" % end.status + _encode(members)[1:-1]


def not_kept() -> DeadlineExceeded:
    return DeadlineExceeded(
        "no answer is kept, and only one that is was wanted (Cache-Control: only-if-cached)",
        code="not_cached",
        mend="leave only-if-cached out, so that the answer is made",
    )
