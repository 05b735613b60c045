"""The trail in PostgreSQL: a table that takes new rows and refuses everything else.

A trigger refuses UPDATE, DELETE and TRUNCATE, whoever asks. Who owns the table, or is a superuser, can take
the trigger off: `millstream audit verify` says that it is off, and finds what was done to the rows.
"""

from typing import Any

import psycopg

from pipelines.tables import insert_from_arrays
from schemas.catalog.security import AuditEntry

TABLE = "audit_entries"
GUARDS = ("audit_entries_rows", "audit_entries_whole")
COLUMNS = {
    "writer": "text", "sequence": "bigint", "previous": "text", "hash": "text", "id": "text",
    "at": "timestamptz", "tenant": "text", "actor": "text", "action": "text", "target": "text",
    "outcome": "text", "reason": "text", "request_id": "text", "detail": "jsonb",
}  # fmt: skip
INSERT = insert_from_arrays(TABLE, COLUMNS, "ON CONFLICT (writer, sequence) DO NOTHING")

_LOCK = 7_240_317_002
_DEFINITION = f"""
CREATE TABLE IF NOT EXISTS {TABLE} (
    writer     text        NOT NULL,
    sequence   bigint      NOT NULL,
    previous   text        NOT NULL,
    hash       text        NOT NULL,
    id         text        NOT NULL,
    at         timestamptz NOT NULL,
    tenant     text        NOT NULL,
    actor      text        NOT NULL,
    action     text        NOT NULL,
    target     text        NOT NULL,
    outcome    text        NOT NULL,
    reason     text        NOT NULL,
    request_id text        NOT NULL,
    detail     jsonb       NOT NULL,
    stored_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (writer, sequence)
);
CREATE INDEX IF NOT EXISTS audit_entries_at ON {TABLE} (at);
CREATE INDEX IF NOT EXISTS audit_entries_tenant ON {TABLE} (tenant, at);
CREATE OR REPLACE FUNCTION audit_entries_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit trail is append-only: % is refused', TG_OP USING ERRCODE = '55000';
END $$;
CREATE OR REPLACE TRIGGER {GUARDS[0]} BEFORE UPDATE OR DELETE ON {TABLE}
    FOR EACH ROW EXECUTE FUNCTION audit_entries_refuse();
CREATE OR REPLACE TRIGGER {GUARDS[1]} BEFORE TRUNCATE ON {TABLE}
    FOR EACH STATEMENT EXECUTE FUNCTION audit_entries_refuse();
"""


def create_audit_table(connection: psycopg.Connection[Any]) -> None:
    """Create the table with its guards where it is not there; guards that are missing are not made again, so
    that `verify` can tell of them."""
    if connection.execute("SELECT to_regclass(%s)", (TABLE,)).fetchone() != (None,):
        return
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        connection.execute(_DEFINITION)


def missing_guards(connection: psycopg.Connection[Any]) -> list[str]:
    """Names of the triggers that are not there, or are off."""
    rows = connection.execute(
        "SELECT tgname FROM pg_trigger WHERE tgrelid = to_regclass(%s) AND tgenabled IN ('O', 'A')", (TABLE,)
    ).fetchall()
    there = {str(row[0]) for row in rows}
    return [name for name in GUARDS if name not in there]


def row_of(entry: AuditEntry, detail: str) -> tuple[Any, ...]:
    """An entry in the order of `COLUMNS`, its detail as JSON text."""
    return tuple(detail if name == "detail" else getattr(entry, name) for name in COLUMNS)
