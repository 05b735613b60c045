"""Chains and copies for the tests, made as writers make them."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

from pipelines.audit.entry import HEADS, Chain
from pipelines.audit.event import AuditEvent
from pipelines.audit.heads import head_text
from pipelines.audit.verify import Allowances, CopyCheck, Finding, compare
from schemas.catalog.security import AuditEntry

AT = datetime(2026, 3, 4, 10, tzinfo=UTC)


def event(number: int = 0, **changes: object) -> AuditEvent:
    given = {
        "tenant": "acme",
        "actor": f"key{number % 3}",
        "action": "POST /api/v1/models/swap",
        "outcome": "allowed",
        "at": AT + timedelta(seconds=number),
        "target": f"fraud:{number}",
        "detail": {"stage": "ended"},
    }
    return AuditEvent(**(given | changes))  # type: ignore[arg-type]


def chain(length: int = 6, kind: str = "gateway") -> list[AuditEntry]:
    """So many entries, the beginning and the end among them."""
    made = Chain(kind, host="host")
    return [made.begin(AT), *(made.add(event(n)) for n in range(length - 2)), made.end(AT)]


def witness(*chains: Sequence[AuditEntry]) -> list[AuditEntry]:
    """A chain that tells the heads of these."""
    made = Chain("audit", host="host")
    detail = {one[-1].writer: head_text(one[-1].sequence, one[-1].hash) for one in chains}
    return [made.begin(AT), made.add(AuditEvent("", made.writer, HEADS, "allowed", AT, detail=detail))]


def checked(entries: Iterable[AuditEntry], source: str = "postgres") -> CopyCheck:
    found = CopyCheck(source)
    for entry in entries:
        found.take(entry)
    return found


def findings(
    postgres: Iterable[AuditEntry] | None, kafka: Iterable[AuditEntry] | None = None, **more: object
) -> list[Finding]:
    """What comparing these copies finds."""
    copies = []
    if kafka is not None:
        copies.append(checked(kafka, "kafka"))
    if postgres is not None:
        rows = sorted(postgres, key=lambda entry: (entry.writer, entry.sequence))
        copies.append(checked(rows, "postgres"))
    return compare(copies, **more)  # type: ignore[arg-type]


def told(found: Iterable[Finding]) -> list[tuple[str, int, int, str]]:
    return [(one.kind, one.sequence, one.last, one.source) for one in found]


__all__ = ["AT", "Allowances", "chain", "checked", "event", "findings", "told", "witness"]
