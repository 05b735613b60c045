"""LLM servers as one thing: who may ask which of them now, which model is active, and how that is changed.

Admission is bounded by the servers' slots: a question that finds none free waits in one bounded queue, in
order, and is refused with QueueFull where that is full. A swap makes another model active between two
questions: what is under way ends on its own server, and no question waits for the swap.
"""

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum

from core.clock import Clock
from core.errors import InvalidInput, ModelRefused, QueueFull, ServerFailed, Unavailable, UnknownName
from core.telemetry.log import logger
from operators.generate_ports import CallBreaker, Health, LanguageServer

HEALTHY = 0.8
DRAIN_S = 60.0
_log = logger("operators.server_pool")


class State(StrEnum):
    LOADING = "loading"
    HEALTH_CHECK = "health_check"
    READY = "ready"
    ACTIVE = "active"
    DEPRECATED = "deprecated"
    FAILED = "failed"


_SERVING = (State.ACTIVE, State.READY, State.DEPRECATED)


class Member:
    """One server of the pool. `up` is false from a failure until it answers again; `in_flight` are the
    answers that it is giving."""

    def __init__(self, server: LanguageServer, *, slots: int, breaker: CallBreaker) -> None:
        self.server = server
        self.slots = slots
        self.breaker = breaker
        self.state = State.LOADING
        self.health: Health | None = None
        self.up = True
        self.in_flight = 0
        self.answered_at: float | None = None


@dataclass(frozen=True)
class Lease:
    """A slot of a server. `batch` are the answers under way there, this one included; times in seconds:
    `queue_s` behind others, `slot_s` at the head of the queue. `backup`: another model was active when it was
    given, and none of its servers was to be had."""

    member: Member
    batch: int
    queue_s: float
    slot_s: float
    backup: bool


@dataclass(frozen=True)
class Check:
    """One condition for a swap. `reason` says why it does not hold."""

    name: str
    passed: bool
    reason: str = ""


@dataclass(frozen=True)
class Swapped:
    """`seconds` from the begin of the swap until the target was active; `drained_s` until nothing was under
    way on the previous model any more."""

    previous: str
    target: str
    seconds: float
    drained_s: float


class SwapRefused(InvalidInput):
    """The swap is not safe; nothing was changed. `checks` has every condition."""

    default_code = "swap_refused"

    def __init__(self, target: str, checks: Sequence[Check]) -> None:
        failed = [f"{check.name}: {check.reason}" for check in checks if not check.passed]
        super().__init__(f"the swap to {target!r} is not safe", where="; ".join(failed))
        self.checks = tuple(checks)


@dataclass(eq=False)
class _Waiter:
    model: str | None
    without: frozenset[str]
    came_at: float
    headed_at: float | None
    granted: "asyncio.Future[tuple[Member, bool]]" = field(repr=False)


class ServerPool:
    """`members` in the order in which they take over. The model of the first is active at the start."""

    def __init__(self, members: Sequence[Member], *, queue: int, clock: Clock) -> None:
        self.members = tuple(members)
        self.queue = queue
        self.active = members[0].server.model
        self.previous: str | None = None
        self._clock = clock
        self._waiting: list[_Waiter] = []
        self._swapping = False
        self._ended = asyncio.Event()

    # -- models and their states --------------------------------------------------------------------

    @property
    def models(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(member.server.model for member in self.members))

    @property
    def queued(self) -> int:
        return len(self._waiting)

    def of(self, model: str) -> list[Member]:
        """Servers of a model. Raises UnknownName."""
        found = [member for member in self.members if member.server.model == model]
        if not found:
            raise UnknownName("model", model[:100], self.models)
        return found

    async def start(self) -> None:
        """Ask every server for its health once. A server that is away does not hold up the others."""
        await asyncio.gather(*(self.examine(member) for member in self.members))
        for member in self.members:
            if member.server.model == self.active:
                member.state = State.ACTIVE

    async def examine(self, member: Member) -> Health:
        """Probe one server and remember what came of it."""
        if member.state in (State.LOADING, State.FAILED):
            member.state = State.HEALTH_CHECK
        health = member.health = await member.server.probe()
        was, member.up = member.up, health.score > 0
        if member.state is State.HEALTH_CHECK:
            member.state = State.READY if health.score > 0 else State.FAILED
        if was != member.up:
            _log.info("server", server=member.server.name, up=member.up, reason=health.reason)
        self._dispatch()
        return health

    async def watch(self, interval_s: float) -> None:
        """For ever: probe servers that are down, and those that have answered nobody for the interval."""
        while True:
            await asyncio.sleep(interval_s)
            now = self._clock.monotonic()
            quiet = [
                member
                for member in self.members
                if not member.up
                or member.state in (State.LOADING, State.FAILED)
                or (member.in_flight == 0 and now - (member.answered_at or 0.0) >= interval_s)
            ]
            await asyncio.gather(*(self.examine(member) for member in quiet))

    # -- slots --------------------------------------------------------------------------------------

    async def enter(self, model: str | None = None, without: frozenset[str] = frozenset()) -> Lease:
        """A slot on a server of `model`; without one, of the active model, else of the next in order.

        `without`: names of servers not to be taken. Raises UnknownName, QueueFull, and Unavailable where no
        server is left. To be followed by `leave`, whatever happens.
        """
        came_at = self._clock.monotonic()
        if not self._candidates(model, without):
            raise Unavailable(
                f"no server of model {model or self.active!r} is left", code="no_server", retry_after_s=5.0
            )
        if not self._waiting:
            member = self._free(model, without)
            if member is not None:
                member.in_flight += 1
                return Lease(member, member.in_flight, 0.0, 0.0, self._backup(model, member))
        if len(self._waiting) >= self.queue:
            raise QueueFull(
                f"{self.queue} questions wait for a slot already",
                mend="try again later, or give the servers more slots",
                retry_after_s=1.0,
            )
        future: asyncio.Future[tuple[Member, bool]] = asyncio.get_running_loop().create_future()
        waiter = _Waiter(model, without, came_at, None if self._waiting else came_at, future)
        self._waiting.append(waiter)
        try:
            member, backup = await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                self._release(future.result()[0])  # granted and cancelled in the same turn
            raise
        finally:
            self._forget(waiter)
        now = self._clock.monotonic()
        headed_at = waiter.headed_at if waiter.headed_at is not None else now
        return Lease(member, member.in_flight, headed_at - came_at, now - headed_at, backup)

    def leave(self, lease: Lease) -> None:
        self._release(lease.member)

    def failed(self, lease: Lease, error: ServerFailed) -> None:
        """Let others be asked before this server, until it answers a probe."""
        if error.kind not in ("busy", "refused") and lease.member.up:
            lease.member.up = False
            _log.warning("server failed", server=lease.member.server.name, error=error.what)

    def succeeded(self, lease: Lease) -> None:
        lease.member.up = True
        lease.member.answered_at = self._clock.monotonic()

    def left(self, model: str | None, without: frozenset[str]) -> bool:
        """Whether there is a server to go to."""
        return bool(self._candidates(model, without))

    # -- swapping -----------------------------------------------------------------------------------

    def safety(self, target: str) -> tuple[Check, ...]:
        """Whether `target` may become active now. Raises UnknownName."""
        members = self.of(target)
        ready = [member for member in members if member.state in _SERVING]
        score = max((member.health.score for member in members if member.health), default=0.0)
        queued = len(self._waiting)
        return (
            _check("exists_and_ready", ready, f"its servers are {', '.join(m.state for m in members)}"),
            _check("no_concurrent_operation", not self._swapping, "another swap is under way"),
            _check("system_health", queued < self.queue, f"{queued} questions wait for a slot"),
            _check("health_score", score >= HEALTHY, f"{score:.2f}, at least {HEALTHY} is wanted"),
            _check("target_differs", target != self.active, "it is active already"),
        )

    async def swap(self, target: str, *, retries: int = 3, drain_s: float = DRAIN_S) -> Swapped:
        """Make `target` the active model, and wait until nothing is under way on the previous one any more,
        at most `drain_s`.

        Raises UnknownName, SwapRefused with every check, and ModelRefused when no server of it passes the
        health check in `retries` attempts: the old model is active still.
        """
        checks = self.safety(target)
        if not all(check.passed for check in checks):
            raise SwapRefused(target, checks)
        self._swapping = True
        begun = self._clock.monotonic()
        try:
            healthy = await self._healthy(self.of(target), retries)
            if not healthy:
                raise ModelRefused(
                    f"model {target!r} failed its health check {retries} times",
                    where="; ".join(m.health.reason or "" for m in self.of(target) if m.health),
                    mend="see the server's log; the model that was active is active still",
                    code="health_check_failed",
                )
            previous = self.active
            self._move(target, healthy)
            seconds = self._clock.monotonic() - begun
            old = self.of(previous)
            with suppress(TimeoutError):
                async with asyncio.timeout(drain_s):
                    await self._drained(old)
            return Swapped(previous, target, seconds, self._clock.monotonic() - begun)
        finally:
            self._swapping = False

    async def rollback(self) -> Swapped:
        """Back to the model that was active before. Raises SwapRefused where there is none."""
        if self.previous is None:
            raise SwapRefused("previous", [Check("has_previous", False, "nothing was swapped yet")])
        return await self.swap(self.previous)

    # -- inside -------------------------------------------------------------------------------------

    async def _healthy(self, members: Iterable[Member], retries: int) -> list[Member]:
        """Those that score enough within `retries` probes. The first probe also warms up."""
        found = []
        for member in members:
            for _ in range(retries):
                if (await self.examine(member)).score >= HEALTHY:
                    found.append(member)
                    break
            else:
                member.state = State.FAILED
        return found

    def _move(self, target: str, healthy: Iterable[Member]) -> None:
        """In one turn of the loop, so that every question sees one active model."""
        for member in self.members:
            if member.state is State.ACTIVE:
                member.state = State.DEPRECATED
        for member in healthy:
            member.state = State.ACTIVE
        self.previous, self.active = self.active, target
        _log.info("model swapped", previous=self.previous, active=target)
        self._dispatch()

    async def _drained(self, members: Sequence[Member]) -> None:
        while any(member.in_flight for member in members):
            self._ended.clear()
            await self._ended.wait()

    def _candidates(self, model: str | None, without: frozenset[str]) -> list[Member]:
        """Servers to go to: of the model that is named, else of the active one, else of the first in order
        that has any; those that are up, or all where none is."""
        serving = [
            member
            for member in (self.members if model is None else self.of(model))
            if member.state in _SERVING and member.server.name not in without
        ]
        serving.sort(key=lambda member: (not member.up, member.server.model != self.active))
        if not serving:
            return []
        best = serving[0]
        return [m for m in serving if m.up == best.up and m.server.model == best.server.model]

    def _free(self, model: str | None, without: frozenset[str]) -> Member | None:
        """The candidate with the smallest share of its slots in use, or None when all are."""
        free = [m for m in self._candidates(model, without) if m.in_flight < m.slots]
        return min(free, key=lambda member: member.in_flight / member.slots, default=None)

    def _backup(self, model: str | None, member: Member) -> bool:
        return model is None and member.server.model != self.active

    def _release(self, member: Member) -> None:
        member.in_flight -= 1
        self._ended.set()
        self._dispatch()

    def _dispatch(self) -> None:
        """Free slots to those who wait, in their order."""
        for waiter in list(self._waiting):
            if waiter.granted.done():
                continue
            member = self._free(waiter.model, waiter.without)
            if member is not None:
                member.in_flight += 1
                waiter.granted.set_result((member, self._backup(waiter.model, member)))
                self._forget(waiter)

    def _forget(self, waiter: _Waiter) -> None:
        if waiter in self._waiting:
            self._waiting.remove(waiter)
        if self._waiting and self._waiting[0].headed_at is None:
            self._waiting[0].headed_at = self._clock.monotonic()


def _check(name: str, passed: object, reason: str) -> Check:
    return Check(name, True) if passed else Check(name, False, reason)
