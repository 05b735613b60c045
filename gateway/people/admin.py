"""What an operator does with users, beside the gateways: `millstream users`. Every change is told to the
trail and followed by the gateways within a second."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import psycopg
import redis.asyncio

from core.clock import Clock, SystemClock
from core.errors import Conflict, InvalidInput, Unavailable, UnknownName
from core.ids import new_id
from core.settings import Settings
from gateway.access.roles import BUILT_IN
from gateway.audit.event import AuditEvent, AuditTrail
from gateway.keys import TENANT
from gateway.people import passwords, signing
from gateway.people.sessions import Sessions
from gateway.people.users import NAME
from gateway.people.vault import Vault
from gateway.principals import USER
from pipelines.people_tables import changed
from pipelines.tables import create_tables

OPERATOR = "operator"
_CONNECT_TIMEOUT_S = 5
Connection = psycopg.Connection[Any]


@dataclass(frozen=True)
class ListedUser:
    """A user without secrets."""

    id: str
    tenant: str
    name: str
    roles: Sequence[str]
    second_factor: bool
    created_at: datetime
    disabled_at: datetime | None


class Operator:
    """One who may reach PostgreSQL, and so may do everything. All raise Unavailable while it is away."""

    def __init__(self, settings: Settings, trail: AuditTrail, *, clock: Clock | None = None) -> None:
        self._settings = settings
        self._trail = trail
        self._clock = clock or SystemClock()

    def create(self, tenant: str, name: str, password: str, roles: Sequence[str] = ()) -> str:
        """Make a user; its id. Raises InvalidInput for a bad name, Rejected for a bad password, UnknownName
        for a role, Conflict where somebody has the name."""
        name = name.lower()
        if not TENANT.fullmatch(tenant):
            raise InvalidInput(f"tenant name {tenant!r}", mend="letters, digits, dots, dashes, underscores")
        if not NAME.fullmatch(name):
            raise InvalidInput(f"user name {name!r}", mend="up to 128 of a-z, 0-9 and . _ @ + -")
        hashed = passwords.hasher(self._settings.people).hash(passwords.checked(password, name))
        id = new_id()
        with self.changing(tenant) as connection:
            for role in roles:
                require_role(connection, tenant, role)
            made = connection.execute(
                "INSERT INTO users (id, tenant, name, password, created_at) VALUES (%s, %s, %s, %s, %s)"
                " ON CONFLICT (name) DO NOTHING RETURNING 1",
                (id, tenant, name, hashed, self._clock.now()),
            ).fetchone()
            if made is None:
                raise Conflict(f"somebody is called {name!r} already", mend="take another name")
            for role in sorted(set(roles)):
                connection.execute("INSERT INTO role_assignments VALUES (%s, %s, %s)", (tenant, id, role))
        self.told("user.create", tenant, f"{USER}{id}", roles=",".join(sorted(roles)))
        return id

    def list(self, tenant: str | None = None) -> Sequence[ListedUser]:
        """By tenant and name."""
        with connected(self._settings) as connection:
            rows = connection.execute(
                "SELECT id, tenant, name, factor IS NOT NULL, created_at, disabled_at,"
                " ARRAY(SELECT role FROM role_assignments AS a WHERE a.user_id = u.id ORDER BY role)"
                " FROM users AS u WHERE %s::text IS NULL OR tenant = %s ORDER BY tenant, name",
                (tenant, tenant),
            ).fetchall()
        return [
            ListedUser(id, of, name, roles, factor, created_at, disabled_at)
            for id, of, name, factor, created_at, disabled_at, roles in rows
        ]

    def disable(self, name: str) -> None:
        """The user cannot log in, and every session ends. Again is harmless."""
        self._change(name, "user.disable", "disabled_at = coalesce(disabled_at, now())")

    def enable(self, name: str) -> None:
        self._change(name, "user.enable", "disabled_at = NULL")

    def set_password(self, name: str, password: str) -> None:
        """Another password; every session ends."""
        hashed = passwords.hasher(self._settings.people).hash(passwords.checked(password, name))
        self._change(name, "user.password", "password = %s", hashed)

    def reset_second_factor(self, name: str) -> None:
        """Take the second factor and its recovery codes away; every session ends."""
        self._change(name, "user.second-factor.reset", "factor = NULL, factor_pending = NULL")

    def rotate_signing_key(self, lead: timedelta) -> signing.SigningKey:
        """See `signing.rotate`."""
        people = self._settings.people
        lasts = timedelta(seconds=people.access_s + 2 * people.skew_s)
        with connected(self._settings) as connection:
            made = signing.rotate(
                connection, Vault(people.secret), now=self._clock.now(), lead=lead, lasts=lasts
            )
        self.told("signing-key.rotate", "", f"signing-key:{made.id}", at_once=str(not lead).lower())
        return made

    def user(self, connection: Connection, name: str) -> tuple[str, str]:
        """Id and tenant of a user, by name or id. Raises UnknownName."""
        row = connection.execute(
            "SELECT id, tenant FROM users WHERE name = %s OR id = %s FOR UPDATE", (name.lower(), name)
        ).fetchone()
        if row is None:
            known = connection.execute("SELECT name FROM users LIMIT 1000").fetchall()
            raise UnknownName("user", name[:128], [str(one) for (one,) in known])
        return str(row[0]), str(row[1])

    def told(self, action: str, tenant: str, target: str, **detail: str) -> None:
        self._trail.note(
            AuditEvent(
                tenant=tenant,
                actor=OPERATOR,
                action=action,
                outcome="allowed",
                at=self._clock.now(),
                target=target,
                detail={name: value for name, value in detail.items() if value},
            )
        )

    @contextmanager
    def changing(self, tenant: str) -> Iterator[Connection]:
        """One transaction, of which the gateways are told."""
        with connected(self._settings) as connection, connection.transaction():
            yield connection
            changed(connection, tenant)

    def _change(self, name: str, action: str, assignment: str, *values: str) -> None:
        with connected(self._settings) as connection, connection.transaction():
            id, tenant = self.user(connection, name)
            connection.execute(f"UPDATE users SET {assignment} WHERE id = %s", (*values, id))
            if action == "user.second-factor.reset":
                connection.execute("DELETE FROM recovery_codes WHERE user_id = %s", (id,))
            changed(connection, tenant)
        if action != "user.enable":
            asyncio.run(self._end_sessions(id))
        self.told(action, tenant, f"{USER}{id}")

    async def _end_sessions(self, user: str) -> None:
        client = redis.asyncio.Redis.from_url(self._settings.redis.address, socket_connect_timeout=2.0)
        try:
            await Sessions(client, self._settings.people, self._clock).end_all(user)
        finally:
            await client.aclose()


def require_role(connection: Connection, tenant: str, role: str) -> None:
    """Raises UnknownName."""
    own = connection.execute("SELECT name FROM roles WHERE tenant = %s", (tenant,)).fetchall()
    known = [*BUILT_IN, *(str(name) for (name,) in own)]
    if role not in known:
        raise UnknownName("role", role[:80], known)


@contextmanager
def connected(settings: Settings) -> Iterator[Connection]:
    """A connection to tables that are there. Raises Unavailable."""
    try:
        connection: Connection = psycopg.connect(
            settings.postgres.address, autocommit=True, connect_timeout=_CONNECT_TIMEOUT_S
        )
    except psycopg.OperationalError as error:
        raise Unavailable(
            "PostgreSQL is away", where="users", mend="start it with `millstream up --only postgres`"
        ) from error
    with connection:
        create_tables(connection)
        yield connection
