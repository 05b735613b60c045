"""The tables in PostgreSQL: their definition, created idempotently, and the one way to write to them.

- `transactions`: the status of each transaction, one row per (tenant, id); rank never falls.
- `predictions`: the history of decisions; a hypertable where TimescaleDB is there, else partitioned by week.
- `reviews`: the queue an analyst works through.
- `forecasts`: the first forecast per feature row, whole; nothing is ever changed in it.
- `applied_views`: what each version of a feature view meant when it was first applied.
- `api_keys`: who may call the gateway; secrets as SHA-256 only.
- `audit_entries`: the audit trail; `pipelines/audit/table.py` has it.
- `users`, `roles`, `policies` and what belongs to them: `pipelines.people_tables`.

Every write is `INSERT ... SELECT FROM unnest(...) ON CONFLICT ...`: one statement and one round trip per
batch, the same on plain PostgreSQL and on TimescaleDB.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

from pipelines.people_tables import PEOPLE_TABLES

_LOCK = 7_240_317_001  # one number for all who create tables, so that racing starters go one by one

RANK_PROVISIONAL, RANK_DECIDED, RANK_REVIEWED = 0, 1, 2

_TABLES = """
CREATE TABLE IF NOT EXISTS transactions (
    tenant        text        NOT NULL,
    id            text        NOT NULL,
    pipeline      text        NOT NULL,
    entity        text        NOT NULL,
    occurred_at   timestamptz NOT NULL,
    status        text        NOT NULL,
    rank          smallint    NOT NULL,
    score         real,
    decision      text,
    model         text,
    model_version text,
    result        jsonb,       -- the first decision, whole; null while provisional
    stored_at     timestamptz, -- when the first decision was stored
    verdict       text,
    reviewer      text,
    note          text,
    reviewed_at   timestamptz, -- when the first verdict was stored
    changed_at    timestamptz NOT NULL,
    PRIMARY KEY (tenant, id)
);
CREATE TABLE IF NOT EXISTS reviews (
    tenant      text        NOT NULL,
    id          text        NOT NULL,
    pipeline    text        NOT NULL,
    entity      text        NOT NULL,
    occurred_at timestamptz NOT NULL,
    score       real,
    reasons     jsonb       NOT NULL,
    state       text        NOT NULL CHECK (state IN ('open', 'decided')),
    opened_at   timestamptz NOT NULL,
    verdict     text,
    reviewer    text,
    note        text,
    decided_at  timestamptz,
    PRIMARY KEY (tenant, id)
);
CREATE INDEX IF NOT EXISTS reviews_queue ON reviews (tenant, state, opened_at, id);
CREATE TABLE IF NOT EXISTS forecasts (
    tenant        text        NOT NULL,
    pipeline      text        NOT NULL,
    id            text        NOT NULL,
    entity        text        NOT NULL,
    window_end    timestamptz NOT NULL,
    sequence      bigint      NOT NULL, -- of one window's forecasts the one with the highest counts
    model         text        NOT NULL,
    model_version text        NOT NULL,
    made_at       timestamptz NOT NULL,
    forecast      jsonb       NOT NULL,
    stored_at     timestamptz NOT NULL,
    PRIMARY KEY (tenant, pipeline, id)
);
CREATE INDEX IF NOT EXISTS forecasts_newest ON forecasts (tenant, pipeline, entity, window_end, sequence);
CREATE TABLE IF NOT EXISTS applied_views (
    name       text        NOT NULL,
    version    integer     NOT NULL,
    digest     text        NOT NULL,
    form       jsonb       NOT NULL,
    applied_at timestamptz NOT NULL,
    PRIMARY KEY (name, version)
);
CREATE TABLE IF NOT EXISTS api_keys (
    id           text        PRIMARY KEY,
    hash         bytea       NOT NULL CHECK (octet_length(hash) = 32),
    tenant       text        NOT NULL,
    name         text        NOT NULL,
    scopes       text[]      NOT NULL,
    created_at   timestamptz NOT NULL,
    expires_at   timestamptz,
    revoked_at   timestamptz,
    last_used_at timestamptz
);
ALTER TABLE api_keys ADD COLUMN IF NOT EXISTS replaced_by text; -- the key that it was rotated to
CREATE INDEX IF NOT EXISTS api_keys_tenant ON api_keys (tenant, created_at);
"""

_PREDICTIONS = """
CREATE TABLE IF NOT EXISTS predictions (
    tenant          text             NOT NULL,
    id              text             NOT NULL,
    pipeline        text             NOT NULL,
    entity          text             NOT NULL,
    occurred_at     timestamptz      NOT NULL,
    decided_at      timestamptz      NOT NULL,
    stored_at       timestamptz      NOT NULL,
    score           real,
    decision        text             NOT NULL,
    status          text             NOT NULL,
    model           text             NOT NULL,
    model_version   text             NOT NULL,
    arm             text             NOT NULL,
    assignment_unit text             NOT NULL,
    degraded        boolean          NOT NULL,
    level           text             NOT NULL,
    late            boolean          NOT NULL,
    feature_time    timestamptz,
    received_at     timestamptz,
    enriched_at     timestamptz,
    source          text,
    reasons         jsonb            NOT NULL,
    queue_ms        real             NOT NULL,
    model_ms        real             NOT NULL,
    decide_ms       real             NOT NULL,
    PRIMARY KEY (tenant, id, decided_at)
) {partitioning}
"""

_WEEK = timedelta(days=7)
_PARTITION_WINDOW = timedelta(days=60)  # weeks further away than this share the default partition


def timescale_available(connection: psycopg.Connection[Any]) -> bool:
    """The one capability check: can this server make hypertables? Installs the extension where it may.

    False where the extension is not on the server or this role may not create it.
    """
    found = connection.execute("SELECT 1 FROM pg_available_extensions WHERE name = 'timescaledb'").fetchone()
    if found is None:
        return False
    try:
        with connection.transaction():
            connection.execute("CREATE EXTENSION IF NOT EXISTS timescaledb")
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.ObjectNotInPrerequisiteState):
        return False
    return True


def create_tables(connection: psycopg.Connection[Any], *, now: datetime | None = None) -> None:
    """Create what is missing; a second call, also a racing one, changes nothing.

    Runs in one transaction under an advisory lock. `now` decides which weeks of `predictions` are made
    ahead: this one and the next.
    """
    at = now or datetime.now(UTC)
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        connection.execute(_TABLES)
        connection.execute(PEOPLE_TABLES)
        if _kind(connection, "predictions") is None:
            _create_predictions(connection)
    ensure_partitions(connection, [at, at + _WEEK], now=at)


def _create_predictions(connection: psycopg.Connection[Any]) -> None:
    if timescale_available(connection):
        connection.execute(_PREDICTIONS.format(partitioning=""))
        connection.execute("SELECT create_hypertable('predictions', by_range('decided_at', %s))", (_WEEK,))
        return
    connection.execute(_PREDICTIONS.format(partitioning="PARTITION BY RANGE (decided_at)"))
    connection.execute("CREATE TABLE predictions_rest PARTITION OF predictions DEFAULT")


def week_of(at: datetime) -> datetime:
    """Monday 00:00 UTC of the week of `at`."""
    day = at.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return day - timedelta(days=day.weekday())


def ensure_partitions(
    connection: psycopg.Connection[Any], times: Iterable[datetime], *, now: datetime | None = None
) -> None:
    """Make the weeks of `predictions` that hold `times`; does nothing on a hypertable.

    Only weeks within 60 days of `now` get a partition of their own, so that one absurd time cannot make
    a table; all others share the default partition. So does a week whose rows lie there already.
    """
    at = now or datetime.now(UTC)
    weeks = {week_of(time) for time in times if abs(time - at) <= _PARTITION_WINDOW}
    if not weeks or _kind(connection, "predictions") != "p":
        return
    for week in sorted(weeks):
        name = f"predictions_{week:%Y%m%d}"
        if _kind(connection, name) is not None:
            continue
        try:
            with connection.transaction():
                connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
                connection.execute(
                    f"CREATE TABLE IF NOT EXISTS {name} PARTITION OF predictions"
                    f" FOR VALUES FROM ('{week.isoformat()}') TO ('{(week + _WEEK).isoformat()}')"
                )
        except psycopg.errors.CheckViolation:
            continue  # the default partition has rows of this week; they stay where they are


def _kind(connection: psycopg.Connection[Any], table: str) -> str | None:
    """`r` for a plain table or hypertable, `p` for a partitioned one, None where there is none."""
    row = connection.execute("SELECT relkind FROM pg_class WHERE oid = to_regclass(%s)", (table,)).fetchone()
    if row is None:
        return None
    kind = row[0]
    return kind.decode() if isinstance(kind, bytes) else str(kind)


# texts go over in binary form: escaping JSON inside array literals cost half of the writer's CPU
_ARRAYS = {"text": "%b::text[]", "jsonb": "%b::text[]::jsonb[]", "timestamptz": "%b::timestamptz[]"}


def from_arrays(columns: Mapping[str, str], alias: str) -> str:
    """A table of rows out of one list per column, all of one length, in the order of the lists.

    `columns` maps names to PostgreSQL types; jsonb columns take lists of JSON texts.
    """
    arrays = ", ".join(_ARRAYS.get(kind, f"%s::{kind}[]") for kind in columns.values())
    return f"unnest({arrays}) AS {alias}({', '.join(columns)})"


def insert_from_arrays(table: str, columns: Mapping[str, str], tail: str) -> str:
    """The write path; `tail` starts with ON CONFLICT. Sort the rows by key, so that two writers lock in
    the same order and cannot deadlock."""
    return (
        f"INSERT INTO {table} ({', '.join(columns)})\nSELECT * FROM {from_arrays(columns, 'given')}\n{tail}"
    )
