"""Whether a swap is safe now: five checks over the fleet, each with its reason. Pure."""

from collections.abc import Sequence

import msgspec

from pipelines.serving.fleet import Fleet
from schemas.catalog.models import Check

MIN_HEALTH = 0.8
SERVABLE = ("ready", "deprecated")


class SafetyReport(msgspec.Struct, frozen=True, kw_only=True):
    """`safe` when every check passed."""

    model: str
    target: str
    active: str | None
    revision: int
    safe: bool
    checks: list[Check]


def swap_safety(fleet: Fleet, model: str, target: str, *, min_health: float = MIN_HEALTH) -> SafetyReport:
    """The report of swapping to `target`; `fleet` holds living workers only."""
    checks = [
        _exists_and_ready(fleet, target),
        _no_concurrent_operation(fleet),
        _system_health(fleet),
        _health_score(fleet, target, min_health),
        _differs(fleet, target),
    ]
    return SafetyReport(
        model=model,
        target=target,
        active=fleet.active,
        revision=fleet.routing.revision if fleet.routing else 0,
        safe=all(check.passed for check in checks),
        checks=checks,
    )


def failed_checks(checks: Sequence[Check]) -> list[Check]:
    return [check for check in checks if not check.passed]


def _exists_and_ready(fleet: Fleet, target: str) -> Check:
    name = "exists_and_ready"
    state = fleet.state_of(target)
    if state is None:
        return Check(name, False, f"version {target} is not loaded by any worker")
    missing = len(fleet.instances) - len(fleet.of(target))
    if state == "active":  # the fifth check says so
        return Check(name, True, "it is serving")
    if state not in SERVABLE:
        return Check(name, False, f"version {target} is {state}")
    if missing or not fleet.instances:
        return Check(name, False, f"{missing} of {len(fleet.instances)} workers do not hold version {target}")
    return Check(name, True, f"{state} on {len(fleet.instances)} workers")


def _no_concurrent_operation(fleet: Fleet) -> Check:
    name = "no_concurrent_operation"
    under_way = fleet.routing.operation if fleet.routing else None
    if under_way is None:
        return Check(name, True, "nothing is under way")
    return Check(name, False, f"a {under_way.kind} to version {under_way.target} is in {under_way.stage}")


def _system_health(fleet: Fleet) -> Check:
    name = "system_health"
    if fleet.routing is None:
        return Check(name, False, "the model has no routing yet")
    if not fleet.instances:
        return Check(name, False, "no worker is alive")
    followed = [
        max((s.revision for (one, _), s in fleet.states.items() if one == instance), default=0)
        for instance in fleet.instances
    ]
    behind = sum(revision < fleet.routing.revision for revision in followed)
    if behind:
        reason = f"{behind} of {len(followed)} workers do not follow revision {fleet.routing.revision} yet"
        return Check(name, False, reason)
    return Check(name, True, f"{len(followed)} workers follow revision {fleet.routing.revision}")


def _health_score(fleet: Fleet, target: str, least: float) -> Check:
    found = fleet.health_of(target)
    return Check("health_score", found >= least, f"{found:.2f}, at least {least:.2f} is asked for")


def _differs(fleet: Fleet, target: str) -> Check:
    same = fleet.active == target
    return Check("target_differs", not same, f"version {fleet.active or 'none'} is active")
