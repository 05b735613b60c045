"""The trail's table, for who copies to it."""

import json
from collections.abc import Sequence

from jobs.writer.postgres import PostgresConnection
from pipelines.audit.table import INSERT, TABLE, create_audit_table, row_of
from schemas.catalog.security import AuditEntry

_RECENT = f"""
SELECT DISTINCT ON (writer) writer, sequence, hash FROM {TABLE}
WHERE writer IN (
    SELECT writer FROM {TABLE} WHERE at > now() - interval '1 day'
    GROUP BY writer ORDER BY max(at) DESC LIMIT %s
)
ORDER BY writer, sequence DESC
"""


class PostgresAuditStore(PostgresConnection):
    """For one thread; see `PostgresConnection`."""

    def store(self, entries: Sequence[AuditEntry]) -> None:
        """Keep those that are not there yet; what is there stays. Durable when it returns. Raises
        Unavailable, or BadRecord for what PostgreSQL cannot take."""
        rows = [row_of(one, json.dumps(one.detail)) for one in _in_order(entries)]
        if rows:
            with self._open() as connection:
                connection.execute(INSERT, [list(column) for column in zip(*rows, strict=True)])

    def recent(self, most: int) -> dict[str, tuple[int, str]]:
        """Sequence and hash of the last entry of the chains that grew in the last day, at most so many."""
        with self._open() as connection:
            rows = connection.execute(_RECENT, (most,)).fetchall()
        return {str(writer): (int(sequence), str(hash)) for writer, sequence, hash in rows}

    def _opened(self) -> None:
        if self._connection is not None:
            create_audit_table(self._connection)


def _in_order(entries: Sequence[AuditEntry]) -> list[AuditEntry]:
    """Sorted, so that two writers lock in one order; of a repeat the first."""
    first = {(one.writer, one.sequence): one for one in reversed(entries)}
    return [first[key] for key in sorted(first)]
