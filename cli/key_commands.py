"""`millstream keys create|list|rotate|revoke`: who may call the gateway."""

import json
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from cli.audited import audited
from cli.durations import duration as _duration
from core.settings import settings
from gateway.keys import Key, create_key, list_keys, public_id, revoke_key, rotate_key
from gateway.principals import SCOPES
from schemas.headers import rfc3339


class Output(StrEnum):
    TABLE = "table"
    JSON = "json"


def register(app: typer.Typer) -> None:
    """Add the command group to `app`."""
    group = typer.Typer(help="API keys of the gateway.", no_args_is_help=True)
    group.command("create")(create)
    group.command("list")(list_all)
    group.command("rotate")(rotate)
    group.command("revoke")(revoke)
    app.add_typer(group, name="keys")


def create(
    tenant: Annotated[str, typer.Option(help="Whose key it is.")] = "default",
    name: Annotated[str, typer.Option(help="A note for the list.")] = "",
    scope: Annotated[
        list[str] | None, typer.Option(help=f"May be repeated: {', '.join(sorted(SCOPES))}. Default: all.")
    ] = None,
    expires_in: Annotated[
        str | None, typer.Option(help="Time to live, as 12h or 30d. Default: none.")
    ] = None,
) -> None:
    """Make a key and print it, alone on stdout. It is shown this once and kept nowhere."""
    lifetime = _duration(expires_in) if expires_in is not None else None
    with audited("keys.create", tenant=tenant) as act:
        text = create_key(settings(), tenant, name=name, scopes=scope, expires_in=lifetime)
        act.target = public_id(text)
        act.detail["scopes"] = " ".join(sorted(scope or ("all",)))
    typer.echo(text)


def list_all(
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None,
    output: Annotated[Output, typer.Option("-o", "--output", help="How to show it.")] = Output.TABLE,
) -> None:
    """Every key without its secret, newest first."""
    keys = list_keys(settings(), tenant)
    if output is Output.JSON:
        typer.echo(json.dumps([_plain(key) for key in keys], indent=2))
        return
    table = Table(
        Column("id", no_wrap=True, min_width=12), "tenant", "name", "scopes", "expires", "last used", "state"
    )
    for key in keys:
        scopes = "all" if key.scopes == SCOPES else ", ".join(sorted(key.scopes))
        times = (f"{at:%Y-%m-%d %H:%M}" if at else "-" for at in (key.expires_at, key.last_used_at))
        table.add_row(key.id, key.tenant, escape(key.name), scopes, *times, str(_plain(key)["state"]))
    Console().print(table)


def rotate(
    key: Annotated[str, typer.Argument(help="The key's id, or the whole key.")],
    overlap: Annotated[str, typer.Option(help="How long the old key still works, as 0s, 12h or 7d.")] = "24h",
) -> None:
    """Make a key that may do the same and print it, alone on stdout; the old one ends after the overlap."""
    with audited("keys.rotate", target=public_id(key)) as act:
        text, old = rotate_key(settings(), key, overlap=_duration(overlap, least=0))
        act.tenant, act.detail["replaced_by"] = old.tenant, public_id(text)
    until = rfc3339(old.expires_at) if old.expires_at else "for ever"
    typer.echo(f"key {old.id} of {old.tenant} works until {until}", err=True)
    typer.echo(text)


def revoke(
    key: Annotated[str, typer.Argument(help="The key's id, or the whole key.")],
) -> None:
    """End a key now. Gateways follow within a second and close its sockets."""
    with audited("keys.revoke", target=public_id(key)) as act:
        revoked = revoke_key(settings(), key)
        act.tenant = revoked.tenant
    typer.echo(f"revoked {revoked.id} of {revoked.tenant}")


def _plain(key: Key) -> dict[str, object]:
    if key.revoked_at is not None:
        state = "revoked"
    else:
        good = "replaced" if key.replaced_by else "valid"
        state = good if key.valid_at(datetime.now(UTC)) else "expired"
    return {
        "id": key.id,
        "tenant": key.tenant,
        "name": key.name,
        "scopes": sorted(key.scopes),
        "created_at": rfc3339(key.created_at),
        "expires_at": rfc3339(key.expires_at) if key.expires_at else None,
        "revoked_at": rfc3339(key.revoked_at) if key.revoked_at else None,
        "last_used_at": rfc3339(key.last_used_at) if key.last_used_at else None,
        "replaced_by": key.replaced_by,
        "state": state,
    }
