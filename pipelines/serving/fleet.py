"""Fleet: the wanted routing of one model beside what the living workers observe of its versions. Pure data.

A worker tells of every version it holds every few seconds; one that has been silent for `silent` is gone,
and with it what it told.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import msgspec

from schemas.catalog.models import ModelState, Route, Routing, State

SILENT = timedelta(seconds=6)
_FORGOTTEN = timedelta(minutes=10)
_FIRST_OF: tuple[State, ...] = ("failed", "loading", "health_check", "ready", "deprecated", "active")
Place = tuple[str, str]
"""(instance, version)"""


def model_id(model: str, version: str) -> str:
    """How a version is named in one word: `fraud:3`."""
    return f"{model}:{version}"


def split_id(id: str) -> tuple[str, str]:
    """Model and version; the version is empty where `id` names a model alone."""
    model, _, version = id.partition(":")
    return model, version


class VersionView(msgspec.Struct, frozen=True, kw_only=True):
    """One version as all living workers together see it. Counts are sums of the last minute; health, latency
    and the tokens/s of an LLM are means; `share`, `mode` and `arm` are those of its route, if it has one."""

    id: str
    model: str
    version: str
    state: State
    stage: str
    progress: int
    health: float
    instances: int
    share: float = 0.0
    mode: str | None = None
    arm: str | None = None
    rollback_target: bool = False
    records: int = 0
    errors: int = 0
    skipped: int = 0
    latency_ms: float = 0.0
    tokens_per_s: float | None = None
    scores: list[int] = []
    reason: str = ""
    observed_at: datetime | None = None


@dataclass(frozen=True)
class Fleet:
    """One model: its newest routing, and the last word of every (instance, version)."""

    routing: Routing | None = None
    states: Mapping[Place, ModelState] = field(default_factory=dict)

    def routed(self, routing: Routing) -> "Fleet":
        """With this routing, unless it is older; of two with one revision the first counts."""
        if self.routing is not None and routing.revision <= self.routing.revision:
            return self
        return replace(self, routing=routing)

    def told(self, state: ModelState) -> "Fleet":
        """With what an instance said, unless it said something newer before."""
        place = (state.instance, state.version)
        before = self.states.get(place)
        if before is not None and before.at > state.at:
            return self
        states = {key: one for key, one in self.states.items() if state.at - one.at <= _FORGOTTEN}
        if state.gone:
            states.pop(place, None)
        else:
            states[place] = state
        return replace(self, states=states)

    def living(self, now: datetime, silent: timedelta = SILENT) -> "Fleet":
        """Only what was told lately."""
        kept = {place: state for place, state in self.states.items() if now - state.at <= silent}
        return self if len(kept) == len(self.states) else replace(self, states=kept)

    @property
    def instances(self) -> set[str]:
        return {instance for instance, _ in self.states}

    @property
    def active(self) -> str | None:
        """The version with the largest live share."""
        live = [] if self.routing is None else [r for r in self.routing.routes if r.mode == "live"]
        return max(live, key=lambda route: route.share).version if live else None

    @property
    def versions(self) -> list[str]:
        """Every version that is routed, held or known to have failed; numbers in their order."""
        found = {version for _, version in self.states}
        routing = self.routing
        if routing is not None:
            found.update(route.version for route in routing.routes)
            found.update((*routing.standby, *routing.deprecated, *routing.failed))
            if routing.previous is not None:
                found.add(routing.previous)
        return sorted(found, key=lambda version: (len(version), version))

    def of(self, version: str) -> list[ModelState]:
        return [state for (_, told), state in sorted(self.states.items()) if told == version]

    def health_of(self, version: str) -> float:
        """The mean over all instances; one that does not hold the version counts as 0."""
        states = self.of(version)
        return sum(state.health for state in states) / len(self.instances) if states else 0.0

    def state_of(self, version: str) -> State | None:
        """What all instances together come to: the state that is furthest from serving. None when nobody
        knows the version."""
        told: set[State] = {state.state for state in self.of(version)}
        for state in _FIRST_OF:
            if state in told:
                return state
        routing = self.routing
        if routing is None or version not in self.versions:
            return None
        if version in routing.failed:
            return "failed"
        return "deprecated" if version in routing.deprecated else "loading"

    def view(self, version: str) -> VersionView | None:
        """None when nobody knows the version."""
        state = self.state_of(version)
        if state is None:
            return None
        told = self.of(version)
        model = told[0].model if told else self.routing.model if self.routing else ""
        route = self._route(version)
        records = sum(one.records for one in told)
        slowest = min(told, key=lambda one: one.progress, default=None)
        reasons = dict.fromkeys(one.reason for one in told if one.reason)
        rates = [one.tokens_per_s for one in told if one.tokens_per_s is not None]
        weighted = sum(one.latency_ms * max(one.records, 1) for one in told)
        return VersionView(
            id=model_id(model, version),
            model=model,
            version=version,
            state=state,
            stage=slowest.stage if slowest else "no worker tells of it",
            progress=slowest.progress if slowest else 0,
            health=round(self.health_of(version), 4) if told else 0.0,
            instances=len(told),
            share=route.share if route else 0.0,
            mode=route.mode if route else None,
            arm=route.arm if route else None,
            rollback_target=self.routing is not None and self.routing.previous == version,
            records=records,
            errors=sum(one.errors for one in told),
            skipped=sum(one.skipped for one in told),
            latency_ms=weighted / sum(max(one.records, 1) for one in told) if told else 0.0,
            tokens_per_s=sum(rates) / len(rates) if rates else None,
            scores=[sum(bucket) for bucket in zip(*(one.scores for one in told if one.scores), strict=True)],
            reason="; ".join(reasons),
            observed_at=max((one.at for one in told), default=None),
        )

    def _route(self, version: str) -> Route | None:
        routes = self.routing.routes if self.routing else []
        return next((route for route in routes if route.version == version), None)
