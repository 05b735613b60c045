"""Workers as a few rules over the routing, written apart from the real ones: an independent reading of what
a worker promises, to drive the controller's pure functions with."""

from dataclasses import dataclass, field
from datetime import timedelta

from core.clock import ManualClock
from jobs.rollout.control import champion_moved, commanded, passed
from jobs.rollout.decision import Decision, Rules
from pipelines.serving.fleet import Fleet
from schemas.catalog.alerts import Alert
from schemas.catalog.models import ModelCommand, ModelReply, ModelState, Routing

RULES = Rules()


@dataclass
class World:
    """One model. refused: versions that no worker can load; weak: those that fail once they are live."""

    refused: set[str] = field(default_factory=set)
    weak: set[str] = field(default_factory=set)
    sick: set[str] = field(default_factory=set)
    workers: list[str] = field(default_factory=lambda: ["a", "b"])
    fleet: Fleet = field(default_factory=Fleet)
    clock: ManualClock = field(default_factory=ManualClock)
    replies: list[ModelReply] = field(default_factory=list)
    alerts: list[Alert] = field(default_factory=list)
    history: list[Routing] = field(default_factory=list)
    numbers: int = 0

    @property
    def routing(self) -> Routing:
        assert self.fleet.routing is not None
        return self.fleet.routing

    def take(self, decision: Decision) -> Decision:
        if decision.routing is not None:
            self.history.append(decision.routing)
            self.fleet = self.fleet.routed(decision.routing)
        self.replies += decision.replies
        self.alerts += decision.alerts
        return decision

    def living(self) -> Fleet:
        return self.fleet.living(self.clock.now())

    def champion(self, version: str) -> Decision:
        return self.take(champion_moved(self.living(), "m", version, self.clock.now(), RULES))

    def command(self, kind: str, version: str | None = None, **more: object) -> ModelCommand:
        self.numbers += 1
        made = ModelCommand(
            tenant="system",
            id=f"c{self.numbers}",
            model="m",
            kind=kind,  # type: ignore[arg-type]
            version=version,
            sent_at=self.clock.now(),
            **more,  # type: ignore[arg-type]
        )
        self.take(commanded(self.living(), made, self.clock.now(), RULES))
        return made

    def tick(self, seconds: float = 0.1) -> Decision:
        self.clock.advance(timedelta(seconds=seconds))
        return self.take(passed(self.living(), self.clock.now(), RULES))

    def settle(self, seconds: float = 0.1) -> None:
        """Workers follow and the controller decides until nothing changes."""
        for _ in range(50):
            self.follow()
            if self.tick(seconds).routing is None:
                return
        raise AssertionError(f"the controller does not come to rest: {[r.reason for r in self.history[-6:]]}")

    def answers(self, command: ModelCommand) -> list[str]:
        return [reply.outcome for reply in self.replies if reply.id == command.id]

    def follow(self) -> None:
        """Every worker does what the routing says and tells of it."""
        for worker in self.workers:
            for state in self._states(worker):
                self.fleet = self.fleet.told(state)

    def _states(self, worker: str) -> list[ModelState]:
        routing = self.routing
        live = [r.version for r in routing.routes if r.mode == "live"]
        wanted = [
            *(r.version for r in routing.routes),
            *routing.standby,
            *routing.deprecated,
            *([routing.previous] if routing.previous else []),
        ]
        told = {version for instance, version in self.fleet.states if instance == worker}
        states = []
        for version in dict.fromkeys([*wanted, *told]):
            held = version in wanted
            broken = version in self.refused or (version in live and version in self.weak)
            if not held and version in routing.failed:
                held, broken = True, True
            state = "failed" if broken else "active" if version in live else "ready"
            if state == "ready" and version in routing.deprecated:
                state = "deprecated"
            checked = None
            operation = routing.operation
            if operation is not None and operation.target == version and operation.stage == "health_check":
                checked = operation.command
            healthy = not broken and version not in self.sick
            states.append(
                ModelState(
                    tenant="system",
                    id=f"{worker}:{version}",
                    model="m",
                    version=version,
                    instance=worker,
                    pipeline="p",
                    state=state,  # type: ignore[arg-type]
                    revision=routing.revision,
                    checked=checked,
                    health=1.0 if healthy else 0.0,
                    reason="broken" if broken else "",
                    gone=not held,
                    at=self.clock.now(),
                )
            )
        return states
