"""LLM servers as one thing: who may ask which of them now, which model is active, and how that is changed.

Admission is bounded by the servers' slots: a question that finds none free waits in one bounded queue, in
order, and is refused with QueueFull where that is full. Another model becomes active between two questions:
what is under way ends on its own server, and no question waits for the change.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from core.clock import Clock
from core.errors import QueueFull, ServerFailed, Unavailable, UnknownName
from core.telemetry.log import logger
from operators.call_counts import CallCounts
from operators.generate_ports import CallBreaker, Health, LanguageServer

HEALTHY = 0.8
AGAIN_S = 0.1
_log = logger("operators.server_pool")


class State(StrEnum):
    LOADING = "loading"
    HEALTH_CHECK = "health_check"
    READY = "ready"
    ACTIVE = "active"
    DEPRECATED = "deprecated"
    FAILED = "failed"


class Member:
    """One server of the pool. `up` is false from a failure until it answers again; `in_flight` are the
    answers that it is giving; `probed` is how much of the probe under way was said, in percent; `failures`
    are those of probes in succession."""

    def __init__(self, server: LanguageServer, *, slots: int, breaker: CallBreaker, clock: Clock) -> None:
        self.server = server
        self.slots = slots
        self.breaker = breaker
        self.state = State.LOADING
        self.health: Health | None = None
        self.up = True
        self.in_flight = 0
        self.probed = 0
        self.failures = 0
        self.answered_at: float | None = None
        self.counts = CallCounts(clock)


@dataclass(frozen=True)
class Wanted:
    """What a question may be answered by: servers of `model`; without one, of the active model, or with
    `backup` of the others, in their order. `without`: names of servers not to be taken."""

    model: str | None = None
    backup: bool = False
    without: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Lease:
    """A slot of a server. `batch` are the answers under way there, this one included; times in seconds:
    `queue_s` behind others, `slot_s` at the head of the queue; `at` is the clock's when it was given."""

    member: Member
    batch: int
    queue_s: float
    slot_s: float
    at: float


@dataclass(eq=False)
class _Waiter:
    wanted: Wanted
    came_at: float
    headed_at: float | None
    granted: "asyncio.Future[Member]" = field(repr=False)


class ServerPool:
    """`members` in the order in which they take over. The model of the first is active at the start."""

    def __init__(self, members: Sequence[Member], *, queue: int, clock: Clock) -> None:
        self.members = tuple(members)
        self.queue = queue
        self.active = members[0].server.model
        self._order = self.models
        self._let_go: set[str] = set()
        self._clock = clock
        self._waiting: list[_Waiter] = []

    # -- models and their states --------------------------------------------------------------------

    @property
    def models(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(member.server.model for member in self.members))

    @property
    def held(self) -> tuple[str, ...]:
        """The models that may be asked."""
        return tuple(model for model in self.models if model not in self._let_go)

    @property
    def queued(self) -> int:
        return len(self._waiting)

    def of(self, model: str) -> list[Member]:
        """Servers of a model that is held. Raises UnknownName."""
        found = [member for member in self.members if member.server.model == model]
        if not found or model in self._let_go:
            raise UnknownName("model", model[:100], self.held)
        return found

    async def start(self) -> None:
        """Ask every server for its health once. A server that is away does not hold up the others."""
        await asyncio.gather(*(self.examine(member) for member in self.members))

    async def examine(self, member: Member) -> Health:
        """Probe one server and remember what came of it."""
        before = member.state
        if before in (State.LOADING, State.FAILED):
            member.state = State.HEALTH_CHECK

        def heard(percent: int) -> None:
            member.probed = percent

        member.probed = 0
        try:
            health = await member.server.probe(heard)
        except BaseException:
            if member.state is State.HEALTH_CHECK:
                member.state = before
            raise
        member.health, member.probed = health, 0
        was, member.up = member.up, health.score > 0
        member.failures = 0 if member.up else member.failures + 1
        if member.server.model == self.active:
            member.state = State.ACTIVE
        elif member.up:
            member.state = State.DEPRECATED if member.state is State.DEPRECATED else State.READY
        else:
            member.state = State.FAILED
        if was != member.up:
            _log.info("server", server=member.server.name, up=member.up, reason=health.reason)
        self._dispatch()
        return health

    async def healthy(self, model: str, retries: int, least: float = HEALTHY) -> bool:
        """Whether a server of `model` scores `least` within `retries` probes; the first one warms it up too.
        Raises UnknownName."""
        for attempt in range(retries):
            if attempt:
                await asyncio.sleep(AGAIN_S * 2**attempt)
            healths = await asyncio.gather(*(self.examine(member) for member in self.of(model)))
            if any(health.score >= least for health in healths):
                return True
        return False

    async def watch(self, interval_s: float) -> None:
        """For ever: probe servers that are down, and those that have answered nobody for the interval."""
        while True:
            await asyncio.sleep(interval_s)
            now = self._clock.monotonic()
            quiet = [
                member
                for member in self.members
                if member.server.model not in self._let_go
                and member.state is not State.HEALTH_CHECK
                and (
                    not member.up
                    or (member.in_flight == 0 and now - (member.answered_at or 0.0) >= interval_s)
                )
            ]
            for found in await asyncio.gather(*map(self.examine, quiet), return_exceptions=True):
                if isinstance(found, Exception):
                    _log.error("a server could not be examined", error=f"{type(found).__name__}: {found}")

    # -- what answers ---------------------------------------------------------------------------------

    def activate(self, model: str, then: Sequence[str] = ()) -> None:
        """From the next question on `model` answers; where it cannot, those in `then`, then the others. In
        one turn of the loop, so that every question sees one active model. Raises UnknownName."""
        self.of(model)
        self._order = tuple(dict.fromkeys((*(one for one in then if one in self.models), *self.models)))
        previous, self.active = self.active, model
        for member in self.members:
            if member.server.model == model:
                member.state = State.ACTIVE
            elif member.state is State.ACTIVE:
                member.state = State.DEPRECATED if member.up else State.FAILED
        if previous != model:
            _log.info("another model is active", previous=previous, active=model)
        self._dispatch()

    def let_go(self, model: str) -> None:
        """Ask `model` no more; what is under way there ends. The active one stays."""
        if model in self.models and model != self.active:
            self._let_go.add(model)
            self._dispatch()

    def take_up(self, model: str) -> None:
        """Ask it again, once it has answered a probe."""
        if model in self._let_go:
            self._let_go.discard(model)
            for member in self.of(model):
                member.state, member.health, member.up, member.failures = State.LOADING, None, False, 0

    # -- slots --------------------------------------------------------------------------------------

    async def enter(self, wanted: Wanted | None = None) -> Lease:
        """A slot on a server that is wanted. Raises UnknownName, QueueFull, and Unavailable where no server
        is left. To be followed by `leave`, whatever happens."""
        wanted = wanted or Wanted()
        came_at = self._clock.monotonic()
        if not self._candidates(wanted):
            raise self._nobody(wanted)
        if not self._waiting:
            member = self._free(wanted)
            if member is not None:
                member.in_flight += 1
                return Lease(member, member.in_flight, 0.0, 0.0, came_at)
        if len(self._waiting) >= self.queue:
            raise QueueFull(
                f"{self.queue} questions wait for a slot already",
                mend="try again later, or give the servers more slots",
                retry_after_s=1.0,
            )
        future: asyncio.Future[Member] = asyncio.get_running_loop().create_future()
        waiter = _Waiter(wanted, came_at, None if self._waiting else came_at, future)
        self._waiting.append(waiter)
        self._dispatch()  # those before it may wait for servers of another model
        try:
            member = await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                self._release(future.result())  # granted and cancelled in the same turn
            raise
        finally:
            self._forget(waiter)
        now = self._clock.monotonic()
        headed_at = waiter.headed_at if waiter.headed_at is not None else now
        return Lease(member, member.in_flight, headed_at - came_at, now - headed_at, now)

    def leave(self, lease: Lease) -> None:
        self._release(lease.member)

    def failed(self, lease: Lease, error: ServerFailed) -> None:
        """Let others be asked before this server, until it answers a probe. One that is busy or refuses is
        not ill."""
        if error.kind == "busy":
            return
        lease.member.counts.failed()
        if error.kind != "refused" and lease.member.up:
            lease.member.up = False
            _log.warning("server failed", server=lease.member.server.name, error=error.what)

    def succeeded(self, lease: Lease) -> None:
        now = self._clock.monotonic()
        lease.member.up = True
        lease.member.answered_at = now
        lease.member.counts.succeeded(now - lease.at)

    def left(self, wanted: Wanted) -> bool:
        """Whether there is a server to go to."""
        return bool(self._candidates(wanted))

    # -- inside -------------------------------------------------------------------------------------

    def _candidates(self, wanted: Wanted) -> list[Member]:
        """Servers of the one model to go to: those that are up, or where none is and no other model could
        answer, all of them."""
        if wanted.model is not None:
            return self._best(self.of(wanted.model), wanted)
        others = [one for one in self._order if one not in self._let_go and one != self.active]
        backups = [self._up(self.of(model), wanted) for model in others]
        first_backup = next((found for found in backups if found), [])
        if wanted.backup:
            return first_backup
        active = self._best(self.of(self.active), wanted)
        return [] if first_backup and active and not active[0].up else active

    def _best(self, members: Sequence[Member], wanted: Wanted) -> list[Member]:
        serving = [
            member
            for member in members
            if member.server.name not in wanted.without
            and member.state in (State.ACTIVE, State.READY, State.DEPRECATED)
        ]
        return [member for member in serving if member.up] or serving

    def _up(self, members: Sequence[Member], wanted: Wanted) -> list[Member]:
        return [member for member in self._best(members, wanted) if member.up]

    def _nobody(self, wanted: Wanted) -> Unavailable:
        model = "another model" if wanted.backup else f"model {wanted.model or self.active!r}"
        return Unavailable(f"no server of {model} is left", code="no_server", retry_after_s=5.0)

    def _free(self, wanted: Wanted) -> Member | None:
        """The candidate with the smallest share of its slots in use, or None when all are."""
        free = [member for member in self._candidates(wanted) if member.in_flight < member.slots]
        return min(free, key=lambda member: member.in_flight / member.slots, default=None)

    def _release(self, member: Member) -> None:
        member.in_flight -= 1
        self._dispatch()

    def _dispatch(self) -> None:
        """Free slots to those who wait, in their order; who has nobody left to wait for is told so."""
        for waiter in list(self._waiting):
            if waiter.granted.done():
                continue
            try:
                candidates = self._candidates(waiter.wanted)
            except UnknownName as error:  # it was let go of meanwhile
                waiter.granted.set_exception(error)
                continue
            if not candidates:
                waiter.granted.set_exception(self._nobody(waiter.wanted))
                continue
            member = self._free(waiter.wanted)
            if member is not None:
                member.in_flight += 1
                waiter.granted.set_result(member)
                self._forget(waiter)

    def _forget(self, waiter: _Waiter) -> None:
        if waiter in self._waiting:
            self._waiting.remove(waiter)
        if self._waiting and self._waiting[0].headed_at is None:
            self._waiting[0].headed_at = self._clock.monotonic()
