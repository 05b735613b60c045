"""`millstream audit list|verify|heads`: who did what, and the proof that nobody has changed what is told."""

import json as json_
import re
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from core.errors import InvalidInput
from core.settings import settings

if TYPE_CHECKING:
    from schemas.catalog.security import AuditEntry

Json = Annotated[bool, typer.Option("--json", help="for programs")]
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_SHOWN = 20


class Source(StrEnum):
    POSTGRES = "postgres"
    KAFKA = "kafka"
    BOTH = "both"


class OutcomeOption(StrEnum):
    ALLOWED = "allowed"
    DENIED = "denied"
    FAILED = "failed"


def register(app: typer.Typer) -> None:
    """Add the command group to `app`."""
    group = typer.Typer(help="The audit trail: who did what, and its proof.", no_args_is_help=True)
    group.command("list")(list_entries)
    group.command("verify")(verify)
    group.command("heads")(heads)
    app.add_typer(group, name="audit")


def list_entries(
    since: Annotated[
        str | None, typer.Option(help="an age, as 90s, 15m, 12h or 30d, or a time of RFC 3339")
    ] = None,
    tenant: Annotated[str | None, typer.Option(help="only this tenant's")] = None,
    actor: Annotated[str | None, typer.Option(help="a key's id, user:<id> or os:<uid>")] = None,
    action: Annotated[
        str | None, typer.Option(help="whole, or its beginning and *: 'POST /api/v1/models*'")
    ] = None,
    outcome: Annotated[OutcomeOption | None, typer.Option(help="how it ended")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="at most so many")] = 50,
    json: Json = False,
) -> None:
    """The newest entries first, as PostgreSQL has them."""
    from pipelines.audit.stored import Wanted, open_stored

    wanted = Wanted(_since(since), tenant, actor, action, None if outcome is None else str(outcome), limit)
    with open_stored(settings()) as stored:
        entries = stored.newest(wanted)
    if json:
        typer.echo(json_.dumps([_plain(entry) for entry in entries], indent=2))
        return
    table = Table("at", "tenant", "actor", "action", "target", "outcome", "reason", "more", box=None)
    for entry in entries:
        more = ", ".join(f"{name} {text}" for name, text in sorted(entry.detail.items()))
        cells = (
            f"{entry.at:%Y-%m-%d %H:%M:%S}", entry.tenant, entry.actor, entry.action, entry.target,
            entry.outcome, entry.reason, more,
        )  # fmt: skip
        table.add_row(*(escape(cell) for cell in cells))
    Console().print(table if entries else "no entries")


def verify(
    source: Annotated[Source, typer.Option(help="which copy of the trail")] = Source.BOTH,
    head: Annotated[
        list[str] | None, typer.Option(help="a head that was noted elsewhere: WRITER:SEQUENCE:HASH; repeated")
    ] = None,
    json: Json = False,
) -> None:
    """Prove every chain; exit with 1 and what was removed, changed, reordered, forged or cut off."""
    from pipelines.audit.proof import prove

    proof = prove(settings(), source.value, head or ())
    if json:
        typer.echo(json_.dumps(proof.plain()))
    else:
        for finding in proof.findings[:_SHOWN]:
            typer.echo(finding.text)
        left = len(proof.findings) - _SHOWN
        if left > 0:
            typer.echo(f"and {left} more; --json shows all")
        typer.echo(proof.summary)
    raise typer.Exit(1 if proof.findings else 0)


def heads(json: Json = False) -> None:
    """The last entry of every chain, to be noted where nobody who could change the trail can write."""
    from pipelines.audit.stored import open_stored

    with open_stored(settings()) as stored:
        chains = stored.check().chains.values()
    told = [f"{chain.writer}:{chain.following - 1}:{chain.hash_at(chain.following - 1)}" for chain in chains]
    typer.echo(json_.dumps(told) if json else "\n".join(told))


def _plain(entry: "AuditEntry") -> dict[str, Any]:
    from schemas.headers import rfc3339

    fields = {name: getattr(entry, name) for name in entry.spec().names}
    return fields | {"at": rfc3339(entry.at)}


def _since(text: str | None) -> datetime | None:
    if text is None:
        return None
    found = re.fullmatch(r"([0-9]{1,9})([smhd])", text, re.ASCII)
    if found is not None:
        return datetime.now(UTC) - timedelta(seconds=min(int(found[1]) * _UNITS[found[2]], 10**9))
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        raise InvalidInput(f"no time: {text[:40]!r}", mend="write 15m, 12h, 30d, or 2026-01-31T12:00:00Z")
    return at
