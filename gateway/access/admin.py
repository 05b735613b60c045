"""What an operator does with roles and policies, beside the gateways: `millstream roles`, `millstream
policies`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from core.errors import Conflict, InvalidInput, Rejected, UnknownName
from gateway.access.policies import Policy
from gateway.access.roles import BUILT_IN, NAME, RESERVED, Role
from gateway.access.store import ALL
from gateway.keys import TENANT
from gateway.people.admin import Connection, Operator, connected, require_role
from gateway.principals import SCOPES, USER

Change = Literal["new", "changed", "removed"]


@dataclass(frozen=True)
class ListedRole:
    """A role of a tenant; a built-in one is every tenant's."""

    tenant: str
    role: Role


class AccessOperator(Operator):
    """Raises Unavailable while PostgreSQL is away."""

    def create_role(
        self, tenant: str, name: str, permissions: Sequence[str], parents: Sequence[str] = ()
    ) -> None:
        """A role of the tenant's own. Raises InvalidInput, UnknownName, Conflict where it is there."""
        if not TENANT.fullmatch(tenant):
            raise InvalidInput(f"tenant name {tenant!r}", mend="letters, digits, dots, dashes, underscores")
        if not NAME.fullmatch(name) or name in RESERVED:
            raise InvalidInput(
                f"role name {name!r}",
                mend=f"up to 63 of a-z, 0-9 and -; none of {', '.join(sorted(RESERVED))}",
            )
        for permission in permissions:
            _require_permission(permission)
        with self.changing(tenant) as connection:
            for parent in parents:
                require_role(connection, tenant, parent)
            made = connection.execute(
                "INSERT INTO roles VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING RETURNING 1",
                (tenant, name, sorted(set(permissions)), sorted(set(parents))),
            ).fetchone()
            if made is None:
                raise Conflict(f"there is a role {name!r}", mend="`millstream roles grant` adds to it")
        self.told("role.create", tenant, f"role:{name}", permissions=",".join(sorted(permissions)))

    def grant(self, tenant: str, role: str, permission: str) -> None:
        """Let a role of the tenant's own do something more; again is harmless."""
        _require_permission(permission)
        self._alter(tenant, role, "array_append(array_remove(permissions, %s), %s)", permission, permission)
        self.told("role.grant", tenant, f"role:{role}", permission=permission)

    def revoke(self, tenant: str, role: str, permission: str) -> None:
        """Let it do that no more; again is harmless."""
        _require_permission(permission)
        self._alter(tenant, role, "array_remove(permissions, %s)", permission)
        self.told("role.revoke", tenant, f"role:{role}", permission=permission)

    def assign(self, user: str, role: str) -> None:
        """Give a user a role of the user's tenant."""
        with connected(self._settings) as connection:
            _, tenant = self.user(connection, user)
        with self.changing(tenant) as connection:
            id, _ = self.user(connection, user)
            require_role(connection, tenant, role)
            connection.execute(
                "INSERT INTO role_assignments VALUES (%s, %s, %s) ON CONFLICT DO NOTHING", (tenant, id, role)
            )
        self.told("role.assign", tenant, f"{USER}{id}", role=role)

    def withdraw(self, user: str, role: str) -> None:
        """Take a role from a user; again is harmless."""
        with connected(self._settings) as connection:
            id, tenant = self.user(connection, user)
        with self.changing(tenant) as connection:
            connection.execute("DELETE FROM role_assignments WHERE user_id = %s AND role = %s", (id, role))
        self.told("role.withdraw", tenant, f"{USER}{id}", role=role)

    def roles(self, tenant: str | None = None) -> Sequence[ListedRole]:
        """The built-in ones, then those of tenants."""
        with connected(self._settings) as connection:
            rows = connection.execute(
                "SELECT tenant, name, permissions, parents FROM roles"
                " WHERE %s::text IS NULL OR tenant = %s ORDER BY tenant, name",
                (tenant, tenant),
            ).fetchall()
        own = [ListedRole(of, Role(name, frozenset(may), frozenset(on))) for of, name, may, on in rows]
        return [*(ListedRole(ALL, role) for role in BUILT_IN.values()), *own]

    def apply_policies(
        self, tenant: str, policies: Sequence[Policy], *, dry: bool = False
    ) -> Mapping[str, Change]:
        """Let these be the tenant's policies, all of them; what changes by that. Raises UnknownName for a
        role that the tenant has not."""
        if tenant != ALL and not TENANT.fullmatch(tenant):
            raise InvalidInput(f"tenant name {tenant!r}", mend="a tenant, or * for all")
        wanted = {policy.name: policy.document() for policy in policies}
        with connected(self._settings) as connection:
            _require_roles(connection, tenant, policies)
            changes = _changes(self._stored(connection, tenant), wanted)
        if dry or not changes:
            return changes
        with self.changing(tenant) as connection:
            gone = [name for name, change in changes.items() if change == "removed"]
            connection.execute("DELETE FROM policies WHERE tenant = %s AND name = ANY(%s)", (tenant, gone))
            kept = [name for name, change in changes.items() if change != "removed"]
            connection.execute(
                "INSERT INTO policies SELECT %s, * FROM unnest(%s::text[], %s::text[]::jsonb[])"
                " ON CONFLICT (tenant, name) DO UPDATE SET document = EXCLUDED.document",
                (tenant, kept, [json.dumps(wanted[name]) for name in kept]),
            )
        listed = list(changes.values())
        self.told(
            "policies.apply",
            tenant,
            f"policies:{tenant}",
            new=str(listed.count("new")),
            changed=str(listed.count("changed")),
            removed=str(listed.count("removed")),
        )
        return changes

    def policies(self, tenant: str | None = None) -> Sequence[tuple[str, Mapping[str, Any]]]:
        """Tenant and document of each."""
        with connected(self._settings) as connection:
            rows = connection.execute(
                "SELECT tenant, document FROM policies"
                " WHERE %s::text IS NULL OR tenant IN (%s, '*') ORDER BY tenant, name",
                (tenant, tenant),
            ).fetchall()
        return [(of, document) for of, document in rows]

    def _stored(self, connection: Connection, tenant: str) -> dict[str, Any]:
        rows = connection.execute("SELECT name, document FROM policies WHERE tenant = %s", (tenant,))
        return {str(name): document for name, document in rows}

    def _alter(self, tenant: str, role: str, permissions: str, *values: str) -> None:
        if role in BUILT_IN:
            raise Rejected(
                f"{role!r} is built in and the same for every tenant",
                fields={"": "a role of the tenant's own"},
                mend="make one that builds on it: `millstream roles create NAME --on ROLE`",
            )
        with self.changing(tenant) as connection:
            require_role(connection, tenant, role)
            connection.execute(
                f"UPDATE roles SET permissions = {permissions} WHERE tenant = %s AND name = %s",
                (*values, tenant, role),
            )


def _require_roles(connection: Connection, tenant: str, policies: Sequence[Policy]) -> None:
    """Policies of all tenants may name roles that only some have."""
    if tenant == ALL:
        return
    for policy in policies:
        for role in sorted((policy.roles or frozenset()) - RESERVED):
            require_role(connection, tenant, role)


def _changes(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Change]:
    found: dict[str, Change] = dict.fromkeys(stored.keys() - wanted.keys(), "removed")
    for name, document in wanted.items():
        plain = json.loads(json.dumps(document))
        if name not in stored:
            found[name] = "new"
        elif stored[name] != plain:
            found[name] = "changed"
    return dict(sorted(found.items()))


def _require_permission(permission: str) -> None:
    if permission not in SCOPES:
        raise UnknownName("permission", permission, SCOPES)
