"""`millstream roles` and `millstream policies`: what users may, and when they may not."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cli.audited import Act, audited
from cli.key_commands import Output
from core.errors import InvalidInput
from core.settings import settings
from gateway.access.admin import AccessOperator, Change
from gateway.access.policies import Policy, read_policies
from gateway.principals import SCOPES

Tenant = Annotated[str, typer.Option(help="Whose role it is.")]
Role = Annotated[str, typer.Argument(help="The role's name.")]
User = Annotated[str, typer.Argument(help="The user's name, or id.")]
Permission = Annotated[str, typer.Argument(help=f"One of {', '.join(sorted(SCOPES))}.")]
File = Annotated[Path, typer.Argument(help="A TOML file of [[policy]] tables.")]
OfTenant = Annotated[str, typer.Option(help="Whose policies the file has; * for those of all tenants.")]
_MOST_BYTES = 8 * 1024 * 1024
_SIGNS = {"new": "+", "changed": "~", "removed": "-"}


def register(app: typer.Typer) -> None:
    """Add the command groups to `app`."""
    roles = typer.Typer(help="Roles: what users may.", no_args_is_help=True)
    roles.command("list")(list_roles)
    roles.command("create")(create)
    roles.command("grant")(grant)
    roles.command("revoke")(revoke)
    roles.command("assign")(assign)
    roles.command("withdraw")(withdraw)
    app.add_typer(roles, name="roles")
    policies = typer.Typer(help="Policies: what is refused, or given, for a time, a place, an amount.")
    policies.command("apply")(apply)
    policies.command("check")(check)
    policies.command("list")(list_policies)
    app.add_typer(policies, name="policies")


@contextmanager
def changing(action: str, tenant: str = "") -> Iterator[AccessOperator]:
    """One change, in the audit trail."""
    with audited(action, tenant=tenant) as act:
        yield AccessOperator(settings(), act)


def reading() -> AccessOperator:
    return AccessOperator(settings(), Act())


def list_roles(
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's, and the built-in ones.")] = None,
    output: Annotated[Output, typer.Option("-o", "--output", help="How to show it.")] = Output.TABLE,
) -> None:
    """Every role. Those of the tenant * are built in."""
    found = [
        {
            "tenant": one.tenant,
            "name": one.role.name,
            "permissions": sorted(one.role.permissions),
            "on": sorted(one.role.parents),
        }
        for one in reading().roles(tenant)
    ]
    if output is Output.JSON:
        typer.echo(json.dumps(found, indent=2))
        return
    table = Table("tenant", "name", "builds on", "permissions")
    for row in found:
        all_of_them = set(row["permissions"]) == SCOPES
        table.add_row(
            str(row["tenant"]),
            str(row["name"]),
            ", ".join(row["on"]),
            "all" if all_of_them else ", ".join(row["permissions"]),
        )
    Console().print(table)


def create(
    name: Role,
    tenant: Tenant = "default",
    permission: Annotated[list[str] | None, typer.Option(help="May be repeated.")] = None,
    on: Annotated[list[str] | None, typer.Option(help="A role whose permissions it has too.")] = None,
) -> None:
    """Make a role of a tenant's own."""
    with changing("role.create", tenant) as operator:
        operator.create_role(tenant, name, permission or (), on or ())
    typer.echo(f"role {name} of {tenant}")


def grant(name: Role, permission: Permission, tenant: Tenant = "default") -> None:
    """Let a role do something more."""
    with changing("role.grant", tenant) as operator:
        operator.grant(tenant, name, permission)
    typer.echo(f"{name} may {permission}")


def revoke(name: Role, permission: Permission, tenant: Tenant = "default") -> None:
    """Let a role do something no more. Gateways follow within a second."""
    with changing("role.revoke", tenant) as operator:
        operator.revoke(tenant, name, permission)
    typer.echo(f"{name} may no {permission}")


def assign(user: User, name: Role) -> None:
    """Give a user a role."""
    with changing("role.assign") as operator:
        operator.assign(user, name)
    typer.echo(f"{user} has the role {name}")


def withdraw(user: User, name: Role) -> None:
    """Take a role from a user. Gateways follow within a second."""
    with changing("role.withdraw") as operator:
        operator.withdraw(user, name)
    typer.echo(f"{user} has not the role {name}")


def apply(file: File, tenant: OfTenant = "default") -> None:
    """Let the policies of a file be the tenant's, all of them. Gateways follow within a second."""
    given = _read(file)
    with changing("policies.apply", tenant) as operator:
        _show(operator.apply_policies(tenant, given))


def check(file: File, tenant: OfTenant = "default") -> None:
    """Say what `apply` would change, and change nothing."""
    _show(reading().apply_policies(tenant, _read(file), dry=True))


def list_policies(
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's, and those of all.")] = None,
    output: Annotated[Output, typer.Option("-o", "--output", help="How to show it.")] = Output.TABLE,
) -> None:
    """Every policy."""
    found = reading().policies(tenant)
    if output is Output.JSON:
        typer.echo(json.dumps([{"tenant": of, **document} for of, document in found], indent=2))
        return
    table = Table("tenant", "name", "effect", "permissions", "roles", "when")
    for of, document in found:
        when = ", ".join(f"{name} {value}" for name, value in document.get("when", {}).items())
        roles = ", ".join(document.get("roles", ["everybody"]))
        permissions = ", ".join(document["permissions"])
        table.add_row(of, escape(document["name"]), document["effect"], permissions, roles, escape(when))
    Console().print(table)


def _read(file: Path) -> list[Policy]:
    try:
        if file.stat().st_size > _MOST_BYTES:
            raise InvalidInput(f"{file} is larger than {_MOST_BYTES} bytes")
        return read_policies(file.read_text(encoding="utf-8"), where=str(file))
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{file} cannot be read: {error}") from error


def _show(changes: Mapping[str, Change]) -> None:
    for name, change in changes.items():
        typer.echo(f"{_SIGNS[change]} {name}")
    typer.echo(f"{len(changes)} changed" if changes else "nothing changes")
