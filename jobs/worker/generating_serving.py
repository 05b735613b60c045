"""Serving of LLMs: the models of a pool of servers, as the controller of routing sees and moves them.

A version of the model `generate` is a model that servers of the settings serve. All of them are held from the
start, each probed and ready to take over; a routing says which one answers and who stands behind it. What is
deleted is asked no more until it is loaded again, or the process starts anew. Without a routing the order of
the settings counts.
"""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError as Ended
from dataclasses import dataclass
from typing import Any

from core.clock import Clock
from core.errors import UnknownName
from core.telemetry.log import logger
from operators.generate import PIPELINE
from operators.server_pool import Member, ServerPool
from operators.server_pool import State as ServerState
from pipelines.serving.fleet import Fleet
from schemas.catalog.alerts import SYSTEM_TENANT
from schemas.catalog.models import ModelState, Operation, Routing, State

_LOG = logger("generating.serving")
ANSWER_S = 5.0


@dataclass
class _Checked:
    """What came of the health check that a command asked for; `reason` where it failed."""

    command: str
    reason: str = ""


class LlmServing:
    """See `jobs.worker.control.Followed`. Its methods are called by other threads than that of the loop, on
    which everything happens."""

    def __init__(
        self, pool: ServerPool, *, clock: Clock, retries: int, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.on_change: Callable[[], None] = lambda: None
        self._pool = pool
        self._clock = clock
        self._retries = retries
        self._loop = loop
        self._routing: Routing | None = None
        self._checks: dict[str, _Checked] = {}
        self._checking: tuple[str, asyncio.Task[None]] | None = None
        self._gone: list[str] = []

    @property
    def routing(self) -> Routing | None:
        return self._routing

    def start(self, routing: Routing | None = None) -> None:
        """Servers that are away are found when they come, so this raises nothing."""
        if routing is not None:
            self.follow(routing)

    def follow(self, routing: Routing) -> None:
        """Do what a routing wants. A health check that it asks for goes on beside."""
        self._on_loop(self._follow(routing))

    def told(self, instance: str) -> list[ModelState]:
        return self._on_loop(self._told(instance)) or []

    def leaving(self, instance: str) -> list[ModelState]:
        return self._on_loop(self._leaving(instance)) or []

    def stop(self) -> None:
        """The pool ends what is under way, with its loop."""

    def _on_loop(self, work: Coroutine[Any, Any, list[ModelState] | None]) -> list[ModelState] | None:
        """Nothing where the loop has ended, or is too busy for it."""
        if self._loop.is_closed():
            work.close()
            return None
        waiting = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return waiting.result(ANSWER_S)
        except (TimeoutError, Ended):
            waiting.cancel()
            return None

    # -- on the loop --------------------------------------------------------------------------------

    async def _follow(self, routing: Routing) -> None:
        before = self._routing
        if before is not None and routing.revision <= before.revision:
            return
        self._routing = routing
        self._hold(before, routing)
        active = Fleet(routing).active
        if active is not None and active in self._pool.held:
            then = [*([routing.previous] if routing.previous else []), *routing.deprecated]
            self._pool.activate(active, then)
        operation = routing.operation
        if self._checking is not None and (operation is None or operation.command != self._checking[0]):
            self._checking[1].cancel()
            self._checking = None
        if operation is not None and operation.stage == "health_check" and self._checking is None:
            known = self._checks.get(operation.target)
            if known is None or known.command != operation.command:
                task = asyncio.create_task(self._check(operation))
                self._checking = (operation.command, task)
        self.on_change()

    def _hold(self, before: Routing | None, routing: Routing) -> None:
        """Take up again what is wanted; let go of what the routing before named and this one does not."""
        wanted = _named(routing, failed=False)
        for model in wanted:
            self._pool.take_up(model)
        if before is None:
            return
        for model in _named(before, failed=True):
            if model not in (*wanted, *routing.failed) and model in self._pool.held:
                self._pool.let_go(model)
                if model not in self._pool.held:
                    self._checks.pop(model, None)
                    self._gone.append(model)

    async def _check(self, operation: Operation) -> None:
        """The health check that an operation asks for, with its retries."""
        target, reason = operation.target, ""
        try:
            if not await self._pool.healthy(target, self._retries):
                reason = f"failed its health check {self._retries} times: {_reasons(self._pool.of(target))}"
        except UnknownName as error:
            reason = error.what
        except Exception as error:  # whatever a server makes a library raise, the one in service stays
            reason = f"{type(error).__name__}: {error}"
        if reason:
            _LOG.error("model refused, the one in service stays", model=target, reason=reason)
        self._checks[target] = _Checked(operation.command, reason[:500])
        self.on_change()

    async def _told(self, instance: str) -> list[ModelState]:
        routed = [] if self._routing is None else _named(self._routing, failed=False)
        gone, self._gone = self._gone, []
        models = dict.fromkeys((*self._pool.held, *(one for one in routed if one not in gone)))
        told = [self._state(model, instance) for model in models]
        return told + [self._left(model, instance) for model in gone if model not in models]

    async def _leaving(self, instance: str) -> list[ModelState]:
        return [self._left(model, instance) for model in self._pool.models]

    def _state(self, model: str, instance: str) -> ModelState:
        try:
            members = self._pool.of(model)
        except UnknownName as error:
            return self._record(model, instance, "failed", stage="not served", reason=error.what)
        state, stage = self._observed(model, members)
        healths = [member.health for member in members if member.health is not None]
        best = max(healths, key=lambda one: (one.score, one.tokens_per_s), default=None)
        counts = [member.counts.lately() for member in members]
        good, bad = sum(one[0] for one in counts), sum(one[1] for one in counts)
        checked = self._checks.get(model)
        reason = checked.reason if checked is not None and state == "failed" else ""
        if not reason and best is not None and best.score < 1:
            reason = _reasons(members)
        return self._record(
            model,
            instance,
            state,
            stage=stage,
            progress=_progress(members),
            checked=checked.command if checked is not None else None,
            health=best.score if best is not None and state not in ("loading", "health_check") else 0.0,
            records=good,
            errors=bad,
            latency_ms=sum(one[2] for one in counts) * 1000 / good if good else 0.0,
            tokens_per_s=best.tokens_per_s if best is not None and best.score > 0 else None,
            reason=reason,
        )

    def _observed(self, model: str, members: list[Member]) -> tuple[State, str]:
        """The state of a model and what it is doing: that of its best server."""
        routing = self._routing
        if self._pool.active == model:
            return "active", "serving" if any(member.up for member in members) else "its servers are down"
        operation = routing.operation if routing is not None else None
        checking = self._checking is not None and not self._checking[1].done()
        if checking and operation is not None and operation.target == model:
            return "health_check", _probing(members)
        checked = self._checks.get(model)
        if checked is not None and checked.reason and self._is_checked_now(checked):
            return "failed", "health check"
        if all(member.health is None for member in members):
            state = ServerState.HEALTH_CHECK
            return "loading", _probing(members) if any(one.state is state for one in members) else "waiting"
        if not any(member.up for member in members):
            tries = min(member.failures for member in members)
            if tries < self._retries:
                return "loading", f"its servers do not answer yet, try {tries} of {self._retries}"
            return "failed", "its servers are down"
        served = routing is not None and model in (routing.previous, *routing.deprecated)
        return ("deprecated", "standing by") if served else ("ready", "standing by")

    def _is_checked_now(self, checked: _Checked) -> bool:
        """Whether the operation that asked for a check is under way still: until then its result stays."""
        operation = self._routing.operation if self._routing is not None else None
        return operation is not None and operation.command == checked.command

    def _record(self, model: str, instance: str, state: State, **fields: Any) -> ModelState:
        return ModelState(
            tenant=SYSTEM_TENANT,
            id=f"{instance}:{model}",
            model=PIPELINE,
            version=model,
            instance=instance,
            pipeline=PIPELINE,
            state=state,
            revision=self._routing.revision if self._routing else 0,
            at=self._clock.now(),
            **fields,
        )

    def _left(self, model: str, instance: str) -> ModelState:
        return self._record(model, instance, "deprecated", stage="let go of", gone=True)


def _named(routing: Routing, *, failed: bool) -> list[str]:
    """Every version that a routing wants held; with `failed` those that it has given up too."""
    previous = [routing.previous] if routing.previous is not None else []
    target = [routing.operation.target] if routing.operation is not None else []
    routed = [route.version for route in routing.routes]
    given_up = routing.failed if failed else []
    return list(
        dict.fromkeys([*routed, *previous, *routing.standby, *routing.deprecated, *target, *given_up])
    )


def _progress(members: list[Member]) -> int:
    """Percent: every server that was probed counts whole, one that is being probed by what it has said."""
    done = sum(100 if member.health is not None else member.probed for member in members)
    return int(done / len(members))


def _probing(members: list[Member]) -> str:
    probed = [f"{member.server.name} at {member.probed} %" for member in members if member.probed]
    return f"probing {', '.join(probed)}" if probed else "probing its servers"


def _reasons(members: list[Member]) -> str:
    reasons = [member.health.reason for member in members if member.health and member.health.reason]
    return "; ".join(dict.fromkeys(reasons))
