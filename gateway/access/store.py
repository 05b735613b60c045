"""Roles and policies as they are in PostgreSQL, and which tenants' have changed."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from psycopg_pool import AsyncConnectionPool

from core.errors import MillstreamError
from core.telemetry.log import logger
from gateway.access.policies import Policy, policy_of
from gateway.access.roles import Role
from gateway.people.users import ask

ALL = "*"
_log = logger("gateway.access")


@dataclass(frozen=True)
class Rules:
    """What a tenant has of its own; that of `*` are the policies of all."""

    roles: Sequence[Role]
    policies: Sequence[Policy]


class AccessSource(Protocol):
    """Where they are. All raise Unavailable."""

    async def rules(self, tenant: str) -> Rules: ...

    async def revision(self) -> int:
        """The number of the last change; 0 before any."""
        ...

    async def changed_since(self, revision: int) -> Sequence[str]:
        """The tenants whose users, roles, policies or keys have changed after that."""
        ...


class PostgresAccess:
    """The tables `roles`, `policies`, `access_revision` and `access_changes`."""

    def __init__(self, pool: AsyncConnectionPool[Any]) -> None:
        self._pool = pool

    async def rules(self, tenant: str) -> Rules:
        roles = await ask(
            self._pool, "SELECT name, permissions, parents FROM roles WHERE tenant = %s", [tenant]
        )
        documents = await ask(
            self._pool, "SELECT name, document FROM policies WHERE tenant = %s ORDER BY name", [tenant]
        )
        found = [Role(name, frozenset(may), frozenset(parents)) for name, may, parents in roles]
        return Rules(found, await asyncio.to_thread(_policies, tenant, documents))

    async def revision(self) -> int:
        rows = await ask(self._pool, "SELECT revision FROM access_revision")
        return int(rows[0][0]) if rows else 0

    async def changed_since(self, revision: int) -> Sequence[str]:
        rows = await ask(self._pool, "SELECT tenant FROM access_changes WHERE revision > %s", [revision])
        return [str(tenant) for (tenant,) in rows]


def _policies(tenant: str, documents: Sequence[Sequence[Any]]) -> list[Policy]:
    """One that this version does not understand refuses everything it may concern, and says so: a rule that
    was written to deny is never left out."""
    found = []
    for name, document in documents:
        try:
            found.append(policy_of(document, where=f"policies of {tenant}"))
        except MillstreamError as error:
            _log.error(
                "a stored policy makes no sense, so everything is denied", policy=name, error=str(error)
            )
            everything = {"name": str(name), "effect": "deny", "permissions": [ALL]}
            found.append(policy_of(everything, where=f"policies of {tenant}"))
    return found
