"""The controller as pure functions: the fleet of one model and an event in, a decision out.

Events are a command, a move of the registry's champion, and time passing. Nothing here reads a clock or
talks to anybody, so the same log of events gives the same routing wherever it is replayed.
"""

from collections.abc import Collection
from datetime import datetime
from difflib import get_close_matches

from msgspec.structs import replace

from jobs.rollout.aliases import noted, promised
from jobs.rollout.decision import (
    COMPATIBILITY,
    FAILOVER,
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
from jobs.rollout.operations import CHAMPION, begun, progressed, undone, unhealthy, whole_at_once
from operators.generate import PIPELINE as PROMPTS
from pipelines.serving.fleet import Fleet
from pipelines.serving.safety import swap_safety
from schemas.catalog.alerts import SYSTEM_TENANT
from schemas.catalog.models import ModelCommand, Outcome, Routing, Step


def champion_moved(fleet: Fleet, model: str, version: str, now: datetime, rules: Rules) -> Decision:
    """The registry has another champion: its first one is served, a later one is deployed to all.

    While an operation is under way nothing happens; it is for the caller to tell of the champion again.
    Without a living worker there is nobody to check it: it is routed, and the workers check it as they start.
    A champion that was moved there to say what serves (see `aliases`) is only noted.
    """
    return promised(_champion_moved(fleet, model, version, now, rules))


def _champion_moved(fleet: Fleet, model: str, version: str, now: datetime, rules: Rules) -> Decision:
    routing = fleet.routing
    if routing is None:
        return Decision(
            Routing(
                tenant=SYSTEM_TENANT,
                id=f"{model}:1",
                model=model,
                revision=1,
                routes=served_by(version),
                salt=model,
                champion=version,
                reason=f"version {version} is the registry's first champion",
                decided_at=now,
            )
        )
    if routing.operation is not None or (routing.champion == version and not routing.promoted):
        return NOTHING
    if version == active_of(routing):
        return Decision(noted(routing, version, now))
    if version in (routing.champion, *routing.promoted):
        return NOTHING  # where it was before, or where a move before the last one left it
    reason = f"version {version} is the registry's champion"
    if not fleet.instances:
        after = whole_at_once(routing, version, now, rules, reason)
    else:
        command = f"{CHAMPION}:{version}:{routing.revision + 1}"
        after = begun(routing, now, command=command, kind=CHAMPION, target=version)
    return Decision(replace(after, champion=version, promoted=[]))


def commanded(
    fleet: Fleet,
    command: ModelCommand,
    now: datetime,
    rules: Rules,
    *,
    registered: Collection[str] | None = None,
) -> Decision:
    """Do what a command says, or refuse it with the reason. `registered`: the versions in the registry, None
    when it did not answer. A command that was done before changes nothing."""
    return promised(_commanded(fleet, command, now, rules, registered))


def _commanded(
    fleet: Fleet, command: ModelCommand, now: datetime, rules: Rules, registered: Collection[str] | None
) -> Decision:
    if command.kind == "look":
        return _answered(command, "done", now, fleet.routing, "the registry is asked")
    routing = fleet.routing
    if routing is None:
        return _answered(command, "unknown", now, None, f"no model {command.model!r} is served")
    if command.id == routing.command:
        return _done_before(routing, command, now)
    expected = command.expected_revision
    if expected is not None and not routing.revision - routing.noted <= expected <= routing.revision:
        reason = f"revision {expected} was expected, it is {routing.revision}"
        return _answered(command, "conflict", now, routing, reason)
    if command.kind == "rollback":
        return _rollback(fleet, routing, command, now, rules)
    target = command.version
    if target is None:
        return _answered(command, "refused", now, routing, f"a {command.kind} names a version")
    if command.kind == "swap":
        return _swap(fleet, routing, command, target, now, rules)
    if command.kind == "remove":
        return _remove(fleet, routing, command, target, now)
    if registered is not None and target not in registered:
        close = get_close_matches(target, registered, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        return _answered(command, "unknown", now, routing, f"version {target} is not registered{hint}")
    if command.kind == "load":
        return _load(fleet, routing, command, target, now, rules)
    return _deploy(fleet, routing, command, target, now)


def passed(fleet: Fleet, now: datetime, rules: Rules) -> Decision:
    """Some time passed, or workers told something: move the operation on, fail over, give up what broke."""
    found = promised(_passed(fleet, now, rules))
    routing = fleet.routing
    if found is not NOTHING or routing is None:
        return found
    after = promised(Decision(routing)).routing  # of a controller that made no promises
    if after is None or after is routing:
        return NOTHING
    again = revised(routing, now, routing.reason, promoted=after.promoted, noted=routing.noted + 1)
    return Decision(again)


def _passed(fleet: Fleet, now: datetime, rules: Rules) -> Decision:
    routing = fleet.routing
    if routing is None:
        return NOTHING
    progress = progressed(fleet, routing, now, rules)
    if progress is not NOTHING:
        return progress
    if routing.operation is None or routing.operation.stage == "health_check":
        failover = _failed_over(fleet, routing, now, rules)
        if failover is not NOTHING:
            return failover
    return _given_up(fleet, routing, now)


def _done_before(routing: Routing, command: ModelCommand, now: datetime) -> Decision:
    """A command that comes again after a crash; its reply may not have gone out."""
    target = command.version
    if routing.operation is not None:
        return NOTHING
    if command.kind == "load":
        return Decision(None, (reply(command, "accepted", now, routing=routing, target=target),))
    served = [route.version for route in routing.routes]
    if command.kind in ("remove", "rollback") or target in served:
        return Decision(None, (reply(command, "done", now, routing=routing, target=target),))
    return _answered(command, "failed", now, routing, routing.reason)


def _swap(
    fleet: Fleet, routing: Routing, command: ModelCommand, target: str, now: datetime, rules: Rules
) -> Decision:
    report = swap_safety(fleet, routing.model, target, min_health=rules.min_health)
    if not report.safe:
        failed = "; ".join(f"{check.name}: {check.reason}" for check in report.checks if not check.passed)
        answer = reply(
            command,
            "refused",
            now,
            routing=routing,
            reason=failed,
            target=target,
            previous=report.active,
            checks=report.checks,
        )
        return Decision(None, (answer,))
    return Decision(begun(routing, now, command=command.id, kind="swap", target=target))


def _rollback(fleet: Fleet, routing: Routing, command: ModelCommand, now: datetime, rules: Rules) -> Decision:
    operation = routing.operation
    if operation is not None:
        ended = undone(routing, now, "rolled back", rules, blame=False)
        if ended.routing is None:
            return ended
        after = replace(ended.routing, command=command.id)
        answer = reply(
            command, "done", now, routing=after, target=active_of(after), previous=operation.target
        )
        return Decision(after, (*ended.replies, answer), ended.alerts)
    if routing.previous is None:
        return _answered(command, "refused", now, routing, "there is no version to go back to")
    if fleet.instances:
        return Decision(begun(routing, now, command=command.id, kind="rollback", target=routing.previous))
    before = active_of(routing)
    reason = f"rolled back to version {routing.previous}"
    after = replace(whole_at_once(routing, routing.previous, now, rules, reason), command=command.id)
    answer = reply(command, "done", now, routing=after, target=routing.previous, previous=before)
    return Decision(after, (answer,))


def _deploy(fleet: Fleet, routing: Routing, command: ModelCommand, target: str, now: datetime) -> Decision:
    strategy = command.strategy or "all"
    if routing.operation is not None:
        doing = f"a {routing.operation.kind} to version {routing.operation.target}"
        return _answered(command, "refused", now, routing, f"{doing} is in {routing.operation.stage}")
    if any(route.version == target for route in live(routing)):
        return _answered(command, "refused", now, routing, f"version {target} is active")
    if strategy == "canary" and (problem := _wrong_steps(command.steps)):
        return _answered(command, "refused", now, routing, problem)
    if command.model == PROMPTS and strategy != "all":
        reason = "an LLM answers whole questions or none: it has no shares, and no shadow"
        return _answered(command, "refused", now, routing, reason)
    if not fleet.instances:
        return _answered(command, "refused", now, routing, "no worker is alive")
    after = begun(
        routing,
        now,
        command=command.id,
        kind="deploy",
        target=target,
        strategy=strategy,
        steps=command.steps,
        experiment=command.experiment,
    )
    answer = reply(command, "accepted", now, routing=after, target=target, previous=active_of(routing))
    return Decision(after, (answer,))


def _load(
    fleet: Fleet, routing: Routing, command: ModelCommand, target: str, now: datetime, rules: Rules
) -> Decision:
    routed = [route.version for route in routing.routes]
    if target in (*routed, *routing.standby, *routing.deprecated):
        answer = reply(command, "accepted", now, routing=routing, target=target, reason="it is held already")
        return Decision(None, (answer,))
    busy = routing.operation.target if routing.operation else None
    standby = [*routing.standby, target]
    for oldest in [version for version in standby if version not in (busy, target)]:
        if len(standby) > rules.standby:
            standby.remove(oldest)
    after = revised(
        routing,
        now,
        f"load version {target}",
        standby=standby,
        failed=without(routing.failed, target),
        command=command.id,
    )
    return Decision(after, (reply(command, "accepted", now, routing=after, target=target),))


def _remove(fleet: Fleet, routing: Routing, command: ModelCommand, target: str, now: datetime) -> Decision:
    state = fleet.state_of(target)
    operation = routing.operation
    if state is None:
        return _answered(command, "unknown", now, routing, f"version {target} is not held")
    reason = ""
    if any(route.version == target for route in routing.routes):
        reason = f"version {target} is in service"
    elif target == routing.previous:
        reason = f"version {target} is where a rollback goes"
    elif operation is not None and operation.target == target:
        reason = f"version {target} is the target of a {operation.kind}"
    elif state not in ("deprecated", "failed"):
        reason = f"version {target} is {state}, not deprecated or failed"
    if reason:
        return _answered(command, "refused", now, routing, reason)
    after = revised(
        routing,
        now,
        f"version {target} removed",
        standby=without(routing.standby, target),
        deprecated=without(routing.deprecated, target),
        failed=without(routing.failed, target),
        command=command.id,
    )
    return Decision(after, (reply(command, "done", now, routing=after, target=target),))


def _failed_over(fleet: Fleet, routing: Routing, now: datetime, rules: Rules) -> Decision:
    active, backup = active_of(routing), routing.previous
    if active is None or backup is None or not unhealthy(fleet.of(active), rules):
        return NOTHING
    held = [one for one in fleet.of(backup) if one.state != "failed"]
    if not held or fleet.health_of(backup) < rules.min_health:
        return NOTHING
    broken = [one.reason for one in fleet.of(active) if one.reason]
    reason = f"version {active} is unhealthy: {'; '.join(dict.fromkeys(broken)) or 'too many errors'}"
    ended = undone(routing, now, reason, rules, blame=False)
    current = ended.routing or routing
    deprecated = without(current.deprecated, active, backup)
    after = revised(
        current,
        now,
        f"failover to version {backup}: {reason}",
        routes=[*served_by(backup), *(r for r in current.routes if r.mode == "shadow")],
        deprecated=deprecated,
        previous=deprecated[0] if deprecated else None,
        failed=without([active, *current.failed])[:KEPT_FAILED],
    )
    told = alert(after, FAILOVER, active, after.reason, now, "critical")
    return Decision(after, ended.replies, (*ended.alerts, told))


def _given_up(fleet: Fleet, routing: Routing, now: datetime) -> Decision:
    """Versions that broke and do not serve are let go of. The one that serves is told of once, and stays."""
    target = routing.operation.target if routing.operation else None
    for version in fleet.versions:
        broken = [one for one in fleet.of(version) if one.state == "failed"]
        if not broken or version in routing.failed or version == target:
            continue
        reason = "; ".join(dict.fromkeys(one.reason or "failed" for one in broken))
        kept = [r for r in routing.routes if r.mode == "live" or r.version != version]
        held = version in (*routing.standby, *routing.deprecated) or len(kept) < len(routing.routes)
        if not held and version != active_of(routing):
            continue
        deprecated = without(routing.deprecated, version)
        after = revised(
            routing,
            now,
            f"version {version} failed: {reason}",
            routes=kept,
            standby=without(routing.standby, version),
            deprecated=deprecated,
            previous=(deprecated[0] if deprecated else None)
            if version == routing.previous
            else routing.previous,
            failed=without([version, *routing.failed])[:KEPT_FAILED],
        )
        return Decision(after, alerts=(alert(after, COMPATIBILITY, version, reason, now, "high"),))
    return NOTHING


def _wrong_steps(steps: Collection[Step]) -> str:
    shares = [step.share for step in steps]
    if not shares:
        return "a canary has at least one step"
    if not all(0.0 < share < 1.0 for share in shares):
        return "a canary's shares are above 0 and below 1"
    if shares != sorted(set(shares)):
        return "a canary's shares rise"
    if not all(0.0 <= step.hold_s <= 30 * 86_400 for step in steps):
        return "a canary's steps are held for 0 s to 30 days"
    return ""


def _answered(
    command: ModelCommand, outcome: Outcome, now: datetime, routing: Routing | None, reason: str
) -> Decision:
    answer = reply(command, outcome, now, routing=routing, reason=reason, target=command.version)
    return Decision(None, (answer,))
