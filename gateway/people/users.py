"""Users as the gateway reads them, and what a login changes: the steps and codes that are used up."""

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import psycopg
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from core.errors import Unavailable

NAME = re.compile(r"[a-z0-9][a-z0-9._@+-]{0,127}", re.ASCII)
_WITHIN_S, _CONNECTION_S = 2.0, 1.0


@dataclass(frozen=True)
class User:
    """A user as stored. `password` is argon2id's text, `factor` the sealed secret of a second factor."""

    id: str
    tenant: str
    name: str
    password: str
    factor: bytes | None
    disabled: bool


@dataclass(frozen=True)
class UserState:
    """What a token's holder is now."""

    tenant: str
    roles: frozenset[str]
    disabled: bool


class Users(Protocol):
    """Where users are. Every method raises Unavailable."""

    async def named(self, name: str) -> User | None: ...

    async def of(self, id: str) -> User | None: ...

    async def states(self, ids: Sequence[str]) -> Mapping[str, UserState]:
        """Of those that exist."""
        ...

    async def use_step(self, id: str, step: int) -> bool:
        """Use a step of the second factor up, and those before it; False where it was already."""
        ...

    async def use_recovery_code(self, id: str, hash: bytes) -> bool:
        """Use a recovery code up; False where it is none, or was already."""
        ...

    async def offer_factor(self, id: str, sealed: bytes) -> bool:
        """Keep a second factor that is to be confirmed; False where there is a confirmed one."""
        ...

    async def offered_factor(self, id: str) -> bytes | None: ...

    async def confirm_factor(self, id: str, sealed: bytes, step: int, codes: Sequence[bytes]) -> bool:
        """What was offered counts from now on, its step used up, with these recovery codes; False where
        something else is offered, or one is confirmed."""
        ...


class PostgresUsers:
    """The tables `users`, `recovery_codes` and `role_assignments`."""

    def __init__(self, pool: AsyncConnectionPool[Any]) -> None:
        self._pool = pool

    async def named(self, name: str) -> User | None:
        return await self._user("name", name)

    async def of(self, id: str) -> User | None:
        return await self._user("id", id)

    async def states(self, ids: Sequence[str]) -> Mapping[str, UserState]:
        rows = await self._ask(
            "SELECT id, tenant, disabled_at IS NOT NULL,"
            " ARRAY(SELECT role FROM role_assignments AS a WHERE a.user_id = u.id AND a.tenant = u.tenant)"
            " FROM users AS u WHERE id = ANY(%s)",
            [list(ids)],
        )
        return {id: UserState(tenant, frozenset(roles), disabled) for id, tenant, disabled, roles in rows}

    async def use_step(self, id: str, step: int) -> bool:
        return bool(
            await self._ask(
                "UPDATE users SET factor_step = %s WHERE id = %s AND factor_step < %s RETURNING 1",
                [step, id, step],
            )
        )

    async def use_recovery_code(self, id: str, hash: bytes) -> bool:
        return bool(
            await self._ask(
                "UPDATE recovery_codes SET used_at = now()"
                " WHERE user_id = %s AND hash = %s AND used_at IS NULL RETURNING 1",
                [id, hash],
            )
        )

    async def offer_factor(self, id: str, sealed: bytes) -> bool:
        return bool(
            await self._ask(
                "UPDATE users SET factor_pending = %s WHERE id = %s AND factor IS NULL RETURNING 1",
                [sealed, id],
            )
        )

    async def offered_factor(self, id: str) -> bytes | None:
        rows = await self._ask("SELECT factor_pending FROM users WHERE id = %s AND factor IS NULL", [id])
        return bytes(rows[0][0]) if rows and rows[0][0] is not None else None

    async def confirm_factor(self, id: str, sealed: bytes, step: int, codes: Sequence[bytes]) -> bool:
        rows = await self._ask(
            "WITH confirmed AS (UPDATE users SET factor = factor_pending, factor_pending = NULL,"
            " factor_step = %s WHERE id = %s AND factor IS NULL AND factor_pending = %s RETURNING id),"
            " forgotten AS (DELETE FROM recovery_codes USING confirmed WHERE user_id = confirmed.id),"
            " made AS (INSERT INTO recovery_codes (user_id, hash)"
            " SELECT id, unnest(%s::bytea[]) FROM confirmed)"
            " SELECT 1 FROM confirmed",
            [step, id, sealed, list(codes)],
        )
        return bool(rows)

    async def _user(self, column: str, value: str) -> User | None:
        rows = await self._ask(
            "SELECT id, tenant, name, password, factor, disabled_at IS NOT NULL"
            f" FROM users WHERE {column} = %s",
            [value],
        )
        if not rows:
            return None
        id, tenant, name, password, factor, disabled = rows[0]
        return User(id, tenant, name, password, bytes(factor) if factor is not None else None, disabled)

    async def _ask(self, statement: str, values: Sequence[Any]) -> list[Any]:
        return await ask(self._pool, statement, values)


async def ask(pool: "AsyncConnectionPool[Any]", statement: str, values: Sequence[Any] = ()) -> list[Any]:
    """The rows of a statement; none where its table was not made yet. Raises Unavailable."""
    try:
        async with asyncio.timeout(_WITHIN_S), pool.connection(timeout=_CONNECTION_S) as connection:
            rows: list[Any] = await (await connection.execute(statement, values)).fetchall()
            return rows
    except psycopg.errors.UndefinedTable:
        return []
    except (psycopg.Error, PoolTimeout, TimeoutError, OSError) as error:
        raise Unavailable(
            "users cannot be read now", code="database_unavailable", where="PostgreSQL"
        ) from error
