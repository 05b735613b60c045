"""An operation from its beginning to its end: begun, checked, activated, held (a canary), ended or undone.

    health_check ── every worker checked ──> shadow: done
         │                                   canary: hold ── last step held ──> activating
         │ failed, or not in time            all: activating ── every worker serves it ──> done
         v                                        │ failed
       undone: the version in service stays  <────┘

All pure: a routing and what was observed in, a decision out.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec

from jobs.rollout.decision import (
    COMPATIBILITY,
    KEPT_FAILED,
    NOTHING,
    Decision,
    Rules,
    active_of,
    alert,
    live,
    reply,
    revised,
    served_by,
    without,
)
from pipelines.serving.fleet import Fleet
from schemas.catalog.models import ModelState, Operation, Route, Routing, Step, Strategy

CHAMPION = "champion"
"""The kind of an operation that the registry began, not a command: nobody waits for its reply."""
_CHECKED = ("ready", "deprecated")


def begun(
    routing: Routing,
    now: datetime,
    *,
    command: str,
    kind: str,
    target: str,
    strategy: Strategy = "all",
    steps: Sequence[Step] = (),
    experiment: str | None = None,
) -> Routing:
    """Ask the workers to load the target beside what serves, and to check its health. What the registry began
    is no command: the last one stays known by its id."""
    held = [route.version for route in routing.routes] + routing.deprecated
    operation = Operation(
        command=command,
        kind=kind,
        target=target,
        strategy=strategy,
        stage="health_check",
        started_at=now,
        stage_at=now,
        experiment=experiment,
        steps=list(steps),
    )
    return revised(
        routing,
        now,
        f"{kind} to version {target}: health check",
        standby=routing.standby if target in held else without([*routing.standby, target]),
        failed=without(routing.failed, target),
        operation=operation,
        command=routing.command if kind == CHAMPION else command,
    )


def progressed(fleet: Fleet, routing: Routing, now: datetime, rules: Rules) -> Decision:
    """What time and the workers' states make of the operation under way."""
    operation = routing.operation
    if operation is None:
        return NOTHING
    told = fleet.of(operation.target)
    broken = [one for one in told if one.state == "failed" and one.revision >= routing.revision]
    if operation.stage == "health_check":
        return _checked(fleet, routing, operation, broken, now, rules)
    if broken:
        return undone(routing, now, _reasons(broken), rules, blame=True)
    if operation.stage == "hold":
        if unhealthy(told, rules):
            return undone(routing, now, f"health {fleet.health_of(operation.target):.2f}", rules, blame=True)
        return _held(fleet, routing, operation, now, rules)
    following = [one for one in told if one.state == "active" and one.revision >= routing.revision]
    if len(following) < len(fleet.instances) and now - operation.stage_at <= rules.patience:
        return NOTHING
    return _ended(routing, operation, now, f"serving on {len(following)} of {len(fleet.instances)} workers")


def undone(routing: Routing, now: datetime, reason: str, rules: Rules, *, blame: bool) -> Decision:
    """End the operation with the version in service that was there before. With `blame` the target has failed
    and an alert says so; without, it stays loaded."""
    operation = routing.operation
    if operation is None:
        return NOTHING
    target, served = operation.target, operation.stage != "health_check"
    back = routing.previous if served else active_of(routing)
    gone = target if served or blame else None
    deprecated = without(routing.deprecated, gone, back)
    if served and not blame:
        deprecated = [target, *deprecated][: rules.kept]
    previous = routing.previous
    if served or previous == gone:
        previous = deprecated[0] if deprecated else None
    shadows = [r for r in routing.routes if r.mode == "shadow" and r.version not in (back, gone)]
    after = revised(
        routing,
        now,
        f"{operation.kind} to version {target} undone: {reason}",
        routes=routing.routes if back is None else [*served_by(back), *shadows],
        operation=None,
        experiment=None if served else routing.experiment,
        standby=without(routing.standby, gone)[-rules.standby :],
        deprecated=deprecated,
        previous=previous,
        failed=without([target, *routing.failed])[:KEPT_FAILED] if blame else routing.failed,
    )
    alerts = (alert(after, COMPATIBILITY, target, reason, now, "high"),) if blame else ()
    if operation.kind == CHAMPION:
        return Decision(after, alerts=alerts)
    answer = reply(
        operation,
        "failed",
        now,
        routing=after,
        model=routing.model,
        reason=reason,
        target=target,
        previous=back,
    )
    return Decision(after, (answer,), alerts)


def activated(routing: Routing, now: datetime, rules: Rules) -> Routing:
    """The routing after a passed health check."""
    operation = routing.operation
    if operation is None:
        return routing
    target = operation.target
    if operation.strategy == "shadow":
        return revised(
            routing,
            now,
            f"version {target} in shadow",
            routes=[*live(routing), Route(target, 1.0, "shadow", "shadow")],
            standby=without(routing.standby, target),
            deprecated=without(routing.deprecated, target),
            previous=None if routing.previous == target else routing.previous,
            experiment=operation.experiment,
            operation=None,
        )
    if operation.strategy == "canary" and operation.steps and active_of(routing) is not None:
        return _canary(routing, operation, 0, now)
    return _whole(routing, operation, now, rules)


def whole_at_once(routing: Routing, target: str, now: datetime, rules: Rules, reason: str) -> Routing:
    """All of it on `target`, the version before it deprecated; no operation."""
    before = active_of(routing)
    served = [route.version for route in live(routing) if route.version not in (before, target)]
    deprecated = without([*([before] if before else []), *served, *routing.deprecated], target)[: rules.kept]
    return revised(
        routing,
        now,
        reason,
        routes=[
            *served_by(target),
            *(r for r in routing.routes if r.mode == "shadow" and r.version != target),
        ],
        standby=without(routing.standby, target),
        deprecated=deprecated,
        previous=before if before != target else routing.previous,
        failed=without(routing.failed, target),
        operation=None,
    )


def _checked(
    fleet: Fleet,
    routing: Routing,
    operation: Operation,
    broken: Sequence[ModelState],
    now: datetime,
    rules: Rules,
) -> Decision:
    told = [one for one in fleet.of(operation.target) if one.checked == operation.command]
    broken = [*broken, *(one for one in told if one.state == "failed")]
    if broken:
        return undone(routing, now, _reasons(broken), rules, blame=True)
    good = {one.instance for one in told if one.state in _CHECKED}
    if fleet.instances and good >= fleet.instances:
        health = fleet.health_of(operation.target)
        if health < rules.min_health:
            return undone(routing, now, f"health {health:.2f}, not {rules.min_health:.2f}", rules, blame=True)
        return _announced(routing, activated(routing, now, rules), operation, now)
    if now - operation.stage_at > rules.patience:
        left = sorted(fleet.instances - good)
        missing = ", ".join(left) if left else "no worker is alive"
        return undone(routing, now, f"no health check in {rules.patience}: {missing}", rules, blame=False)
    return NOTHING


def _announced(before: Routing, after: Routing, operation: Operation, now: datetime) -> Decision:
    """A shadow is done when it is routed; the others when workers serve them."""
    if after.operation is not None or operation.kind == CHAMPION:
        return Decision(after)
    answer = reply(
        operation,
        "done",
        now,
        routing=after,
        model=before.model,
        target=operation.target,
        previous=active_of(before),
    )
    return Decision(after, (answer,))


def _canary(routing: Routing, operation: Operation, step: int, now: datetime) -> Routing:
    share, champion = operation.steps[step].share, active_of(routing)
    if step:
        champion = next(route.version for route in routing.routes if route.arm == "champion")
    shadows = [r for r in routing.routes if r.mode == "shadow" and r.version != operation.target]
    routes = [Route(champion or "", 1.0 - share), Route(operation.target, share, "live", "canary"), *shadows]
    return revised(
        routing,
        now,
        f"canary: version {operation.target} at {share:.0%}",
        routes=routes,
        standby=without(routing.standby, operation.target),
        deprecated=without(routing.deprecated, operation.target),
        previous=champion,
        salt=operation.command,
        experiment=operation.experiment,
        operation=msgspec.structs.replace(operation, stage="hold", step=step, stage_at=now),
    )


def _held(fleet: Fleet, routing: Routing, operation: Operation, now: datetime, rules: Rules) -> Decision:
    champion = routing.previous
    if champion is not None and unhealthy(fleet.of(champion), rules):
        return Decision(_whole(routing, operation, now, rules))
    if now - operation.stage_at < timedelta(seconds=operation.steps[operation.step].hold_s):
        return NOTHING
    if operation.step + 1 < len(operation.steps):
        return Decision(_canary(routing, operation, operation.step + 1, now))
    return Decision(_whole(routing, operation, now, rules))


def _whole(routing: Routing, operation: Operation, now: datetime, rules: Rules) -> Routing:
    champion = next((r.version for r in live(routing) if r.arm == "champion"), active_of(routing))
    settled = msgspec.structs.replace(
        routing, routes=[r for r in routing.routes if r.mode == "shadow" or r.version == champion]
    )
    after = whole_at_once(settled, operation.target, now, rules, f"version {operation.target} serves")
    stage = msgspec.structs.replace(operation, stage="activating", stage_at=now)
    return msgspec.structs.replace(after, operation=stage, experiment=operation.experiment)


def _ended(routing: Routing, operation: Operation, now: datetime, reason: str) -> Decision:
    after = revised(routing, now, reason, operation=None, experiment=None)
    if operation.kind == CHAMPION:
        return Decision(after)
    answer = reply(
        operation,
        "done",
        now,
        routing=after,
        model=routing.model,
        reason=reason,
        target=operation.target,
        previous=routing.previous,
    )
    return Decision(after, (answer,))


def unhealthy(told: Sequence[ModelState], rules: Rules) -> bool:
    """Over the workers that serve a version or have given it up; one that still loads it says nothing."""
    settled = [one for one in told if one.state in ("active", "failed")]
    if not settled:
        return False
    if sum(one.health for one in settled) / len(settled) < rules.min_health:
        return True
    errors, records = sum(one.errors for one in settled), sum(one.records for one in settled)
    seen = errors + records
    return seen >= rules.min_records and errors / seen > rules.max_error_rate


def _reasons(broken: Sequence[ModelState]) -> str:
    return "; ".join(dict.fromkeys(one.reason or "failed" for one in broken))
