"""What the controller's pure functions take and give: rules, a decision, the next revision."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import msgspec

from pipelines.serving.fleet import Fleet
from schemas.catalog.alerts import SYSTEM_TENANT, Alert, Severity
from schemas.catalog.models import Check, ModelCommand, ModelReply, Operation, Outcome, Route, Routing

COMPATIBILITY = "model_compatibility"
FAILOVER = "model_failover"
KEPT_FAILED = 10


@dataclass(frozen=True)
class Rules:
    """Thresholds. `kept`: deprecated versions that stay loaded; `standby`: loaded ones that do not serve yet,
    of more the oldest is let go of.
    An active version is unhealthy below `min_health`, or above `max_error_rate` once `min_records` were
    seen. `patience`: the longest health check, and the longest wait for workers to follow."""

    min_health: float = 0.8
    max_error_rate: float = 0.05
    min_records: int = 100
    kept: int = 2
    standby: int = 4
    patience: timedelta = timedelta(seconds=60)


@dataclass(frozen=True)
class Decision:
    """What follows from an event: a new routing (None: it stays), replies and alerts, to be published in this
    order: the routing is the state, so what it does not show yet is decided again after a crash."""

    routing: Routing | None = None
    replies: tuple[ModelReply, ...] = ()
    alerts: tuple[Alert, ...] = ()


NOTHING = Decision()


def revised(routing: Routing, now: datetime, reason: str, **changes: Any) -> Routing:
    """The next revision."""
    revision = routing.revision + 1
    return msgspec.structs.replace(
        routing,
        id=f"{routing.model}:{revision}",
        revision=revision,
        decided_at=now,
        reason=reason,
        **{"noted": 0, **changes},
    )


def served_by(version: str) -> list[Route]:
    """All of it on one version."""
    return [Route(version)]


def live(routing: Routing) -> list[Route]:
    return [route for route in routing.routes if route.mode == "live"]


def active_of(routing: Routing) -> str | None:
    return Fleet(routing).active


def without(versions: Iterable[str], *gone: str | None) -> list[str]:
    return [version for version in dict.fromkeys(versions) if version not in gone]


def reply(
    command: ModelCommand | Operation,
    outcome: Outcome,
    now: datetime,
    *,
    routing: Routing | None,
    model: str = "",
    reason: str = "",
    target: str | None = None,
    previous: str | None = None,
    checks: Iterable[Check] = (),
) -> ModelReply:
    """The answer to a command, or to the command that began an operation."""
    operation = isinstance(command, Operation)
    began = command.started_at if isinstance(command, Operation) else command.sent_at
    whole = outcome in ("done", "failed")
    return ModelReply(
        tenant=SYSTEM_TENANT,
        id=command.command if isinstance(command, Operation) else command.id,
        model=command.model if isinstance(command, ModelCommand) else model,
        kind=command.kind,
        outcome=outcome,
        revision=routing.revision if routing else 0,
        previous=previous,
        target=target,
        duration_ms=max((now - began) / timedelta(milliseconds=1), 0.0) if operation and whole else None,
        reason=reason,
        checks=list(checks),
        answered_at=now,
    )


def alert(routing: Routing, kind: str, version: str, text: str, now: datetime, severity: Severity) -> Alert:
    """About one version; the same kind for the same version is the same alert again."""
    subject = f"{routing.model}:{version}"
    return Alert(
        tenant=SYSTEM_TENANT,
        id=f"{kind}:{subject}:{routing.revision}",
        severity=severity,
        kind=kind,
        source="rollout",
        subject=subject,
        text=text,
        deduplication_key=f"{kind}:{subject}",
        raised_at=now,
    )
