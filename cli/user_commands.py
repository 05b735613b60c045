"""`millstream users`: who may log in. Passwords come from a prompt or from stdin, never from the command
line."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cli.audited import Act, audited
from cli.durations import duration
from cli.key_commands import Output
from core.errors import InvalidInput
from core.settings import settings
from gateway.people.admin import ListedUser, Operator
from schemas.headers import rfc3339

Name = Annotated[str, typer.Argument(help="The user's name, or id.")]


def register(app: typer.Typer) -> None:
    """Add the command group to `app`."""
    group = typer.Typer(help="Users of the gateway.", no_args_is_help=True)
    group.command("create")(create)
    group.command("list")(list_all)
    group.command("disable")(disable)
    group.command("enable")(enable)
    group.command("passwd")(passwd)
    group.command("reset-second-factor")(reset_second_factor)
    group.command("rotate-signing-key")(rotate_signing_key)
    app.add_typer(group, name="users")


@contextmanager
def changing(action: str, tenant: str = "") -> Iterator[Operator]:
    """One change, in the audit trail."""
    with audited(action, tenant=tenant) as act:
        yield Operator(settings(), act)


def create(
    name: Annotated[str, typer.Argument(help="What the user logs in with; no two of any tenant share it.")],
    tenant: Annotated[str, typer.Option(help="Whose user it is.")] = "default",
    role: Annotated[list[str] | None, typer.Option(help="May be repeated; `millstream roles list`.")] = None,
) -> None:
    """Make a user and print the id, alone on stdout. The password is asked for, or is the line on stdin."""
    password = _password()
    with changing("user.create", tenant) as operator:
        typer.echo(operator.create(tenant, name, password, role or ()))


def list_all(
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None,
    output: Annotated[Output, typer.Option("-o", "--output", help="How to show it.")] = Output.TABLE,
) -> None:
    """Every user, with roles and state."""
    users = Operator(settings(), Act()).list(tenant)
    if output is Output.JSON:
        typer.echo(json.dumps([_plain(user) for user in users], indent=2))
        return
    table = Table("name", "id", "tenant", "roles", "second factor", "state")
    for user in users:
        factor = "yes" if user.second_factor else "no"
        state = str(_plain(user)["state"])
        table.add_row(escape(user.name), user.id, user.tenant, ", ".join(user.roles), factor, state)
    Console().print(table)


def disable(name: Name) -> None:
    """Let a user log in no more. Gateways follow within a second, and close the sockets."""
    with changing("user.disable") as operator:
        operator.disable(name)
    typer.echo(f"disabled {name}")


def enable(name: Name) -> None:
    """Let a user log in again."""
    with changing("user.enable") as operator:
        operator.enable(name)
    typer.echo(f"enabled {name}")


def passwd(name: Name) -> None:
    """Set another password and end the user's sessions. It is asked for, or is the line on stdin."""
    password = _password()
    with changing("user.password") as operator:
        operator.set_password(name, password)
    typer.echo(f"{name} has another password")


def reset_second_factor(name: Name) -> None:
    """Take a user's second factor and recovery codes away, and end the sessions."""
    with changing("user.second-factor.reset") as operator:
        operator.reset_second_factor(name)
    typer.echo(f"{name} has no second factor")


def rotate_signing_key(
    lead: Annotated[
        str, typer.Option(help="How long the new key is published before it signs, as 60s or 1h.")
    ] = "60s",
    at_once: Annotated[
        bool, typer.Option("--at-once", help="The old key may be known: refuse now what it signed.")
    ] = False,
) -> None:
    """Let another key sign access tokens; what the old one signed goes on until it expires."""
    with changing("signing-key.rotate") as operator:
        made = operator.rotate_signing_key(timedelta(0) if at_once else duration(lead))
    typer.echo(f"key {made.id} signs from {rfc3339(made.signs_from)}")


def _password() -> str:
    """Asked for twice on a terminal; elsewhere one line of stdin."""
    if sys.stdin.isatty():
        return str(typer.prompt("Password", hide_input=True, confirmation_prompt=True))
    line = sys.stdin.readline().rstrip("\r\n")
    if not line:
        raise InvalidInput("no password on stdin", mend="pipe one line into the command")
    return line


def _plain(user: ListedUser) -> dict[str, object]:
    return {
        "id": user.id,
        "tenant": user.tenant,
        "name": user.name,
        "roles": list(user.roles),
        "second_factor": user.second_factor,
        "created_at": rfc3339(user.created_at),
        "state": "enabled" if user.disabled_at is None else "disabled",
    }
