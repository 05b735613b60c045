"""Serving: the versions that a worker holds, and which of them answers.

With a routing (`follow`) this process does what the controller wants: it loads and verifies beside what is in
service (digest, signature, golden outputs, health), offers what it has between two batches, and lets go of
what nobody wants any more; a batch that was begun keeps what it was begun with. Without one, as on a fresh
installation, the registry's champion is served and its alias is followed.

A version that is refused, or breaks, never serves or stops at once: the previous one answers, and says so.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Protocol

from core.clock import Clock, SystemClock
from core.errors import MillstreamError, ModelError, Unavailable
from core.telemetry.log import logger
from jobs.worker import metrics
from jobs.worker.held import Held, LiveRoute, Service, VersionBroken
from operators.ports import Scorer
from schemas.catalog.alerts import SYSTEM_TENANT
from schemas.catalog.models import ModelState, Routing, State

_LOG = logger("worker.serving")
AGAIN_S = 0.05
CALM = 20  # records before errors count in a health score


class ModelSource(Protocol):
    """Where models come from."""

    def champion(self) -> str:
        """The version in the champion's place. Raises MillstreamError when there is none or no answer."""
        ...

    def load(self, version: str) -> Scorer:
        """That version, verified and warm. Raises ModelRefused when it does not pass."""
        ...


class Serving:
    """`current` and `broke` are called by the loop, everything else by one other thread."""

    def __init__(
        self,
        source: ModelSource,
        *,
        pipeline: str,
        model: str = "",
        every_s: float = 2.0,
        retries: int = 3,
        first_batches: int = 3,
        clock: Clock | None = None,
    ) -> None:
        self._source = source
        self._pipeline = pipeline
        self._model = model
        self._every_s = every_s
        self._retries = retries
        self._first_batches = first_batches
        self._clock = clock or SystemClock()
        self._stop = threading.Event()
        self._lock = threading.RLock()
        self._service: Service | None = None
        self._held: dict[str, Held] = {}
        self._gone: list[str] = []
        self._routing: Routing | None = None
        self._asked = ""
        self._refused = ""
        self.on_change: Callable[[], None] = lambda: None

    @property
    def current(self) -> Service:
        """What is in service; raises ModelError before `start`."""
        if self._service is None:
            raise ModelError("no model is in service", mend="start serving first")
        return self._service

    @property
    def routing(self) -> Routing | None:
        """The one that is followed."""
        return self._routing

    @property
    def versions(self) -> list[str]:
        """Those that are held here."""
        return list(self._held)

    def start(self, routing: Routing | None = None) -> None:
        """Serve what the routing wants, or without one the champion; raises what the source raises when
        nothing can be served. Without one the champion is followed in the background, until there is one."""
        if routing is not None:
            if self._service is None:  # it did not get far the last time
                self._routing, self._held = None, {}
            self.follow(routing)
            _ = self.current
            return
        self._take(self._source.champion())
        threading.Thread(target=self._watch, name="follow-champion", daemon=True).start()

    def stop(self) -> None:
        self._stop.set()

    def refresh(self, *, again: bool = False) -> bool:
        """Ask for the champion once; True when a model went into service. Never raises: the previous model
        stays. `again` loads it even where it is in service or was refused; for a model that broke."""
        with self._lock:
            return self._routing is None and self._refresh(again)

    def follow(self, routing: Routing) -> None:
        """Do what a routing wants. Never raises: what cannot be done is told as the state of its version."""
        if self._routing is not None and routing.revision <= self._routing.revision:
            return
        wanted = _wanted(routing)
        with self._lock:
            self._routing = routing
            self._let_go(wanted)
            for version in wanted:
                held = self._held.get(version)
                if held is None or (held.state == "failed" and held.stage == "given up"):
                    self._held[version] = self._new(version)
        for version in wanted:  # what serves comes first
            self._load(self._held[version])
        operation = routing.operation
        if operation is not None and operation.stage == "health_check":
            self._check(self._held[operation.target], operation.command)
        with self._lock:
            self._install()
        self.on_change()

    def broke(self, error: ModelError) -> bool:
        """A version in service does not work: True when another one serves from now on."""
        with self._lock:
            service = self.current
            if self._routing is None:
                self._refresh(again=True)
                return False
            version = error.version if isinstance(error, VersionBroken) else service.version
            held = self._held.get(version)
            answering = [*service.routes, *([service.backup] if service.backup else [])]
            if held is None or version not in [route.version for route in answering]:
                return True  # what broke does not serve any more
            held.state, held.stage, held.reason = "failed", "in service", error.what[:500]
            metrics.MODEL_REFUSED.labels(self._pipeline).inc()
            _LOG.error("a version in service broke", version=version, error=error.what)
            self._install()
            self.on_change()
            if self.current is not service:
                metrics.FAILOVERS.labels(self._pipeline).inc()
                return True
            self._again(held)
            return False

    def told(self, instance: str) -> list[ModelState]:
        """The state of every version that is held, and of those let go of since the last call."""
        with self._lock:
            now, gone = self._clock.now(), self._gone
            self._gone = []
            told = [self._state(held, instance, now) for held in self._held.values()]
            told += [self._left(version, instance, now) for version in gone if version not in self._held]
            return told

    def leaving(self, instance: str) -> list[ModelState]:
        """What is told last: nothing is held here any more."""
        with self._lock:
            return [self._left(version, instance, self._clock.now()) for version in self._held]

    def _again(self, held: Held) -> None:
        """Load the one version there is once more; what cannot be loaded is tried with the next call."""
        try:
            held.scorer = self._source.load(held.version)
        except MillstreamError as error:
            held.reason = error.what
            return
        held.state, held.reason = "ready", ""
        self._install()

    def _refresh(self, again: bool) -> bool:
        try:
            version = self._source.champion()
        except MillstreamError as error:
            _LOG.warning("the champion is not known, the model in service stays", error=error.what)
            return False
        if not again and version in (self._asked, self._refused):
            return False
        try:
            self._take(version)
        except MillstreamError as error:
            self._refused = version
            metrics.MODEL_REFUSED.labels(self._pipeline).inc()
            _LOG.error("model refused, the one in service stays", version=version, error=str(error))
            return False
        return True

    def _take(self, version: str) -> None:
        held = self._new(version)
        held.scorer = self._source.load(version)
        held.state, held.stage, held.progress, held.live = "active", "serving", 100, True
        with self._lock:
            self._gone += [other for other in self._held if other != version]
            self._forget(*(other for other in self._held if other != version))
            self._held = {version: held}
            self._serve(Service((LiveRoute(version, held.scorer, held.meter),)))
            self._asked, self._refused = version, ""
        self.on_change()

    def _watch(self) -> None:
        while self._routing is None and not self._stop.wait(self._every_s):
            self.refresh()

    def _load(self, held: Held) -> None:
        if held.scorer is not None or held.state == "failed":
            return
        self._at(held, "loading", "reading and verifying", 10)
        try:
            held.scorer = self._loaded(held.version)
        except Exception as error:  # whatever a file makes a library raise, the one in service stays
            self._failed(held, error)
            return
        self._at(held, "health_check", "scoring its golden rows", 80)
        try:
            self._healthy(held)
        except Exception as error:
            self._failed(held, error)
            return
        self._at(held, "ready", "loaded", 100)

    def _loaded(self, version: str) -> Scorer:
        """Tried again only where the store is away; a version that was refused would be refused again."""
        for attempt in range(1, self._retries):
            try:
                return self._source.load(version)
            except Unavailable:
                time.sleep(AGAIN_S * 2**attempt)
        return self._source.load(version)

    def _check(self, held: Held, command: str) -> None:
        """The health check that an operation asks for; done once per command."""
        if held.checked == command:
            return
        if held.usable:
            try:
                self._healthy(held)
            except Exception as error:
                self._failed(held, error)
        held.checked = command

    def _healthy(self, held: Held) -> None:
        for attempt in range(1, self._retries + 1):
            with held.lock:
                if held.live or held.scorer is None:
                    return  # it is being used; its errors speak for it
                try:
                    held.scorer.check()
                    return
                except Exception as error:
                    if attempt == self._retries:
                        raise
                    _LOG.warning(
                        "health check failed", version=held.version, attempt=attempt, error=f"{error}"
                    )
            time.sleep(AGAIN_S * 2**attempt)

    def _at(self, held: Held, state: State, stage: str, progress: int) -> None:
        held.state, held.stage, held.progress = state, stage, progress
        self.on_change()

    def _failed(self, held: Held, error: Exception) -> None:
        what = error.what if isinstance(error, MillstreamError) else f"{type(error).__name__}: {error}"
        with self._lock:
            held.state, held.reason, held.scorer = "failed", what[:500], None
        metrics.MODEL_REFUSED.labels(self._pipeline).inc()
        _LOG.error("version refused, the one in service stays", version=held.version, error=str(error))
        self.on_change()

    def _let_go(self, wanted: list[str]) -> None:
        routing = self._routing
        for version in [v for v in self._held if v not in wanted]:
            held = self._held[version]
            if held.state == "failed" and routing is not None and version in routing.failed:
                held.stage, held.scorer, held.live = "given up", None, False
                continue
            if held.live:
                continue  # until `_install` has put another one in its place
            del self._held[version]
            self._gone.append(version)
            self._forget(version)

    def _install(self) -> None:
        """Offer what the routing wants, of what is there."""
        routing = self._routing
        if routing is None:
            return
        live = [route for route in routing.routes if route.mode == "live"]
        there = {v: held for v, held in self._held.items() if held.usable}
        routes = [self._route(there[r.version], r.share, r.arm) for r in live if r.version in there]
        backup = self._backup(routing, there, live[0].version)
        if live[0].version not in there:
            broken = self._held.get(live[0].version)
            reason = f"version {live[0].version}: {broken.reason if broken else 'not there'}"
            if backup is None:
                _LOG.error("nothing that is wanted can serve, what is in service stays", reason=reason)
                return
            answering = replace(self._route(backup, 1.0, "champion"), fallback=reason[:300])
            routes = [answering, *(route for route in routes if route.version != backup.version)]
            backup = None
        spare = self._route(backup, 1.0, "champion") if backup else None
        self._serve(
            Service(
                tuple(routes),
                spare if len(routes) == 1 else None,
                tuple(
                    self._held[route.version]
                    for route in routing.routes
                    if route.mode == "shadow" and self._held[route.version].usable
                ),
                routing.salt,
                self._first_batches,
            )
        )
        self._let_go(_wanted(routing))

    def _serve(self, service: Service) -> None:
        before = self._service
        used = {route.version for route in service.routes}
        for held in self._held.values():
            if held.version in used:
                with held.lock:
                    held.live = True
                    held.state, held.stage, held.progress = "active", "serving", 100
        self._service = service
        for held in self._held.values():
            if held.version not in used:
                held.live = False
        for version in {route.version for route in before.routes} - used if before else ():
            metrics.VERSION_SHARE.remove(self._pipeline, version)
        for route in service.routes:
            metrics.VERSION_SHARE.labels(self._pipeline, route.version).set(route.share)
        if before is None or before.version != service.version:
            metrics.MODEL_SWAPPED.labels(self._pipeline).inc()
            _LOG.info("model in service", model=service.name, version=service.version)

    def _new(self, version: str) -> Held:
        scored, failed = (
            metrics.VERSION_RECORDS.labels(self._pipeline, version, outcome)
            for outcome in ("scored", "failed")
        )

        def told(records: int, errors: int) -> None:
            scored.inc(records)
            failed.inc(errors)

        return Held(version, told)

    def _forget(self, *versions: str) -> None:
        """Metrics of versions that are not held any more, so that there are no more of them than versions."""
        for version in versions:
            for outcome in ("scored", "failed"):
                metrics.VERSION_RECORDS.remove(self._pipeline, version, outcome)

    def _backup(self, routing: Routing, there: dict[str, Held], champion: str) -> Held | None:
        """The version before the champion, or one that serves beside it."""
        previous = [] if routing.previous is None else [routing.previous]
        for version in (*previous, *routing.deprecated, *(route.version for route in routing.routes)):
            if version in there and version != champion:
                return there[version]
        return None

    def _route(self, held: Held, share: float, arm: str) -> LiveRoute:
        if held.scorer is None:
            raise ModelError(f"version {held.version} is not loaded")
        return LiveRoute(held.version, held.scorer, held.meter, share, arm)

    def _state(self, held: Held, instance: str, now: datetime) -> ModelState:
        routing = self._routing
        figures = held.meter.lately(self._clock.monotonic())
        state, stage = held.state, held.stage
        if state in ("ready", "active", "deprecated") and not held.live:
            served = routing is not None and held.version in (routing.previous, *routing.deprecated)
            shadow = routing is not None and any(
                route.version == held.version and route.mode == "shadow" for route in routing.routes
            )
            state, stage = ("deprecated", "standing by") if served else ("ready", stage)
            stage = "shadow" if shadow else "loaded" if stage == "serving" else stage
        seen = figures.records + figures.errors
        healthy = 1.0 if seen < CALM else 1.0 - figures.errors / seen
        return ModelState(
            tenant=SYSTEM_TENANT,
            id=f"{instance}:{held.version}",
            model=self._model,
            version=held.version,
            instance=instance,
            pipeline=self._pipeline,
            state=state,
            stage=stage,
            progress=held.progress,
            revision=routing.revision if routing else 0,
            checked=held.checked,
            health=healthy if held.usable and held.state not in ("loading", "health_check") else 0.0,
            records=figures.records,
            errors=figures.errors,
            latency_ms=figures.call_ms / figures.calls if figures.calls else 0.0,
            skipped=figures.skipped,
            scores=figures.scores,
            reason=held.reason,
            at=now,
        )

    def _left(self, version: str, instance: str, now: datetime) -> ModelState:
        return ModelState(
            tenant=SYSTEM_TENANT,
            id=f"{instance}:{version}",
            model=self._model,
            version=version,
            instance=instance,
            pipeline=self._pipeline,
            state="deprecated",
            stage="unloaded",
            revision=self._routing.revision if self._routing else 0,
            gone=True,
            at=now,
        )


def _wanted(routing: Routing) -> list[str]:
    """Every version that is to be held; those in service first."""
    live = sorted(routing.routes, key=lambda route: (route.mode != "live", -route.share))
    previous = [routing.previous] if routing.previous is not None else []
    target = [routing.operation.target] if routing.operation is not None else []
    versions = [*(r.version for r in live), *previous, *routing.standby, *routing.deprecated, *target]
    return list(dict.fromkeys(versions))
