"""The tables of who may do what: users, their second factors, roles, policies, and the keys that sign tokens.

- `users`: passwords as argon2id, the secret of a second factor as `gateway.people.vault` keeps it.
- `recovery_codes`: each counts once; SHA-256 of 80 random bits.
- `roles`: roles of a tenant's own; the built-in ones are in `gateway.access.roles`.
- `role_assignments`: which role a user has.
- `policies`: rules on attributes; those of the tenant `*` hold for every tenant.
- `signing_keys`: the private half as the vault keeps it.
- `access_changes`: by tenant the number of the last change of any of these; `access_revision` is the highest.
  Who changes something takes the next number in the same transaction (`changed`).
"""

from typing import Any

import psycopg

PEOPLE_TABLES = """
CREATE TABLE IF NOT EXISTS users (
    id             text        PRIMARY KEY,
    tenant         text        NOT NULL,
    name           text        NOT NULL UNIQUE,  -- what one logs in with; of all tenants together
    password       text        NOT NULL,
    factor         bytea,                        -- the secret of the second factor; null without one
    factor_pending bytea,                        -- one that was not confirmed yet
    factor_step    bigint      NOT NULL DEFAULT 0, -- the last step whose code was used
    created_at     timestamptz NOT NULL,
    disabled_at    timestamptz
);
CREATE INDEX IF NOT EXISTS users_tenant ON users (tenant, name);
CREATE TABLE IF NOT EXISTS recovery_codes (
    user_id text  NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    hash    bytea NOT NULL CHECK (octet_length(hash) = 32),
    used_at timestamptz,
    PRIMARY KEY (user_id, hash)
);
CREATE TABLE IF NOT EXISTS roles (
    tenant      text   NOT NULL,
    name        text   NOT NULL,
    permissions text[] NOT NULL,
    parents     text[] NOT NULL, -- roles whose permissions it has too
    PRIMARY KEY (tenant, name)
);
CREATE TABLE IF NOT EXISTS role_assignments (
    tenant  text NOT NULL,
    user_id text NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    role    text NOT NULL,
    PRIMARY KEY (tenant, user_id, role)
);
CREATE INDEX IF NOT EXISTS role_assignments_user ON role_assignments (user_id);
CREATE TABLE IF NOT EXISTS policies (
    tenant   text  NOT NULL,
    name     text  NOT NULL,
    document jsonb NOT NULL,
    PRIMARY KEY (tenant, name)
);
CREATE TABLE IF NOT EXISTS signing_keys (
    id          text        PRIMARY KEY,
    public      jsonb       NOT NULL, -- a JWK
    private     bytea       NOT NULL,
    signs_from  timestamptz NOT NULL,
    holds_until timestamptz           -- tokens that it signed count until then; null: until it is rotated
);
CREATE TABLE IF NOT EXISTS access_revision (
    one      boolean PRIMARY KEY DEFAULT true CHECK (one),
    revision bigint  NOT NULL
);
INSERT INTO access_revision (revision) VALUES (0) ON CONFLICT DO NOTHING;
CREATE TABLE IF NOT EXISTS access_changes (
    tenant   text   PRIMARY KEY,
    revision bigint NOT NULL
);
"""

_CHANGED = """
WITH made AS (UPDATE access_revision SET revision = revision + 1 RETURNING revision)
INSERT INTO access_changes (tenant, revision) SELECT %s, revision FROM made
ON CONFLICT (tenant) DO UPDATE SET revision = EXCLUDED.revision
"""


def changed(connection: psycopg.Connection[Any], tenant: str) -> None:
    """Tell the gateways that something of the tenant has changed (`*`: of all), with the commit of the
    transaction that this runs in."""
    connection.execute(_CHANGED, (tenant,))
