"""Reading the trail from PostgreSQL: the newest that fit a filter, and all of it, chain by chain."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import tuple_row

from core.clock import from_millis, to_millis
from core.errors import Unavailable
from core.settings import Settings
from pipelines.audit.table import COLUMNS, TABLE, missing_guards
from pipelines.audit.verify import CopyCheck
from schemas.catalog.security import AuditEntry

MOST = 10_000
AT_ONCE = 2_000
_NAMES = ", ".join(COLUMNS)
# times that Python has none for were not written by us: they read as another one, so that the hash tells
_READ = _NAMES.replace(
    "at, ",
    "CASE WHEN at BETWEEN '0002-01-01' AND '9998-12-31' THEN at ELSE '0002-01-01 00:00Z' END AS at, ",
    1,
)


@dataclass(frozen=True)
class Wanted:
    """Which entries; None means any. `action` may end with `*`. At most `limit`, the newest first."""

    since: datetime | None = None
    tenant: str | None = None
    actor: str | None = None
    action: str | None = None
    outcome: str | None = None
    limit: int = 50


@contextmanager
def open_stored(settings: Settings) -> "Iterator[StoredTrail]":
    """Raises Unavailable while PostgreSQL is away, or has no trail yet."""
    try:
        with psycopg.connect(settings.postgres.address, connect_timeout=3) as connection:
            yield StoredTrail(connection)
    except psycopg.errors.UndefinedTable as problem:
        raise Unavailable("there is no audit trail yet", mend="run `millstream apply`") from problem
    except psycopg.OperationalError as problem:
        raise Unavailable(
            f"PostgreSQL does not answer: {str(problem).splitlines()[0]}",
            where="the audit trail",
            mend="start it with `millstream up`",
        ) from problem


class StoredTrail:
    """One connection, in one transaction: all that is read is of one moment."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.read_only = True

    def newest(self, wanted: Wanted) -> list[AuditEntry]:
        action = None if wanted.action is None else _pattern(wanted.action)
        rows = self._connection.execute(
            f"SELECT {_READ} FROM {TABLE}"
            " WHERE (%(since)s::timestamptz IS NULL OR at >= %(since)s)"
            " AND (%(tenant)s::text IS NULL OR tenant = %(tenant)s)"
            " AND (%(actor)s::text IS NULL OR actor = %(actor)s)"
            " AND (%(action)s::text IS NULL OR action LIKE %(action)s)"
            " AND (%(outcome)s::text IS NULL OR outcome = %(outcome)s)"
            " ORDER BY at DESC, writer, sequence DESC LIMIT %(limit)s",
            {
                "since": wanted.since,
                "tenant": wanted.tenant,
                "actor": wanted.actor,
                "action": action,
                "outcome": wanted.outcome,
                "limit": min(wanted.limit, MOST),
            },
        ).fetchall()
        return [_entry(row) for row in rows]

    def check(self) -> CopyCheck:
        """Every chain, read once."""
        found = CopyCheck("postgres")
        with self._connection.cursor("audit_trail", row_factory=tuple_row) as cursor:
            cursor.itersize = AT_ONCE
            cursor.execute(f"SELECT {_READ} FROM {TABLE} ORDER BY writer, sequence")
            for row in cursor:
                found.take(_entry(row))
        return found

    def last_before(self, at: datetime) -> dict[str, int]:
        """Of each writer the sequence above its last entry before `at`."""
        rows = self._connection.execute(
            f"SELECT writer, max(sequence) + 1 FROM {TABLE} WHERE at < %s GROUP BY writer", (at,)
        ).fetchall()
        return {str(writer): int(following) for writer, following in rows}

    def missing_guards(self) -> list[str]:
        """Triggers of the table that are off or not there."""
        return missing_guards(self._connection)


def _pattern(action: str) -> str:
    """A LIKE pattern: `*` at the end stands for anything."""
    whole = action.removesuffix("*")
    escaped = whole.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return escaped + "%" if action.endswith("*") else escaped


def _entry(row: tuple[Any, ...]) -> AuditEntry:
    """As it was told: what a person may have written into the row in place of a text becomes one."""
    given = dict(zip(COLUMNS, row, strict=True))
    detail = given["detail"] if isinstance(given["detail"], dict) else {"": str(given["detail"])}
    given["detail"] = {
        str(name): text if isinstance(text, str) else repr(text) for name, text in detail.items()
    }
    at: datetime = given["at"]
    given["at"] = from_millis(to_millis(at)) if at.microsecond % 1000 == 0 else at
    return AuditEntry(**given)
