"""API keys: `ms_<id>_<secret>_<checksum>`, kept in PostgreSQL as a public id and the SHA-256 of the secret.

The secret is 256 random bits, shown once. A hash without salt and stretching is right for it: there is
nothing to guess. The checksum (CRC-32 of what precedes it) tells a mistyped key from a wrong one without
asking anybody, and lets scanners of leaked secrets recognise ours.
"""

import hashlib
import os
import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import psycopg

from core.clock import Clock, SystemClock
from core.errors import InvalidInput, Unavailable, UnknownName
from core.settings import Settings
from gateway.principals import SCOPES
from pipelines.tables import create_tables

PREFIX = "ms_"
_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ID_LENGTH, _SECRET_LENGTH, _CHECKSUM_LENGTH = 12, 43, 6
_SHAPE = re.compile(
    rf"{PREFIX}([0-9A-Za-z]{{{_ID_LENGTH}}})_([0-9A-Za-z]{{{_SECRET_LENGTH}}})_([0-9A-Za-z]{{{_CHECKSUM_LENGTH}}})",
    re.ASCII,
)
TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII)
_CONNECT_TIMEOUT_S = 5


@dataclass(frozen=True)
class Key:
    """A key as it is stored. Times are timezone-aware; `hash` is 32 bytes; `last_used_at` lags by seconds."""

    id: str
    hash: bytes
    tenant: str
    name: str
    scopes: frozenset[str]
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    last_used_at: datetime | None = field(default=None, compare=False)
    replaced_by: str | None = None

    def valid_at(self, now: datetime) -> bool:
        """Neither revoked nor expired; a key is over at `expires_at` itself."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


COLUMNS = "id, hash, tenant, name, scopes, created_at, expires_at, revoked_at, last_used_at"
_ALL = f"{COLUMNS}, replaced_by"


def key_of_row(row: Sequence[object]) -> Key:
    """A row of `COLUMNS` as a key, and of who replaced it where the row goes on."""
    id, hash, tenant, name, scopes, created_at, expires_at, revoked_at, last_used_at, *more = row
    return Key(
        id=str(id),
        hash=bytes(hash),  # type: ignore[call-overload]
        tenant=str(tenant),
        name=str(name),
        scopes=frozenset(scopes),  # type: ignore[call-overload]
        created_at=created_at,  # type: ignore[arg-type]
        expires_at=expires_at,  # type: ignore[arg-type]
        revoked_at=revoked_at,  # type: ignore[arg-type]
        last_used_at=last_used_at,  # type: ignore[arg-type]
        replaced_by=str(more[0]) if more and more[0] else None,
    )


def mint() -> tuple[str, str, bytes]:
    """A new key: its text, its public id, and the hash to store."""
    id = _random(_ID_LENGTH)
    secret = _base62(int.from_bytes(os.urandom(32)), _SECRET_LENGTH)
    body = f"{PREFIX}{id}_{secret}"
    return f"{body}_{_checksum(body)}", id, hashlib.sha256(secret.encode()).digest()


def parse(text: str) -> tuple[str, bytes] | None:
    """Public id and hash of a key's text; None when it has not the shape or the checksum of a key."""
    found = _SHAPE.fullmatch(text)
    if found is None or _checksum(text[: -_CHECKSUM_LENGTH - 1]) != found[3]:
        return None
    return found[1], hashlib.sha256(found[2].encode()).digest()


def create_key(
    settings: Settings,
    tenant: str,
    *,
    name: str = "",
    scopes: Iterable[str] | None = None,
    expires_in: timedelta | None = None,
    clock: Clock | None = None,
) -> str:
    """Make a key and return its text, which is not kept anywhere. Without `scopes` it may do everything.

    Raises InvalidInput on a bad tenant name, UnknownName on an unknown scope, Unavailable while PostgreSQL
    is away.
    """
    now = (clock or SystemClock()).now()
    if not TENANT.fullmatch(tenant):
        raise InvalidInput(
            f"tenant name {tenant!r}", mend="use 1 to 63 letters, digits, dots, dashes or underscores"
        )
    if expires_in is not None and expires_in <= timedelta(0):
        raise InvalidInput("the key would have expired already", mend="give a positive time to live")
    granted = frozenset(scopes) if scopes is not None else SCOPES
    for scope in sorted(granted - SCOPES):
        raise UnknownName("scope", scope, SCOPES)
    with _connect(settings) as connection:
        create_tables(connection, now=now)
        return _insert(connection, tenant, name, granted, now, now + expires_in if expires_in else None)


def rotate_key(
    settings: Settings, id: str, *, overlap: timedelta, clock: Clock | None = None
) -> tuple[str, Key]:
    """Make a key that may do what this one may, and let this one end after `overlap`, or when it would have
    anyway, whichever is sooner. The text of the new one, and the old one as it is now.

    The new one lives as long from now as the old one was made to. Raises UnknownName, and InvalidInput for a
    key that is over or was replaced before, or a negative overlap.
    """
    now = (clock or SystemClock()).now()
    if overlap < timedelta(0):
        raise InvalidInput("an overlap in the past", mend="give 0s or more")
    public = public_id(id)
    with _connect(settings) as connection:
        create_tables(connection, now=now)
        with connection.transaction():
            row = connection.execute(
                f"SELECT {_ALL} FROM api_keys WHERE id = %s FOR UPDATE", (public,)
            ).fetchone()
            if row is None:
                raise _unknown(connection, public)
            old = key_of_row(row)
            if old.replaced_by is not None:
                raise InvalidInput(f"key {old.id} was replaced already", mend=f"rotate {old.replaced_by}")
            if not old.valid_at(now):
                raise InvalidInput(f"key {old.id} is over", mend="make a new one: `millstream keys create`")
            expires_at = now + (old.expires_at - old.created_at) if old.expires_at else None
            text = _insert(connection, old.tenant, old.name, old.scopes, now, expires_at)
            ended = connection.execute(
                "UPDATE api_keys SET expires_at = least(expires_at, %s), replaced_by = %s WHERE id = %s"
                f" RETURNING {_ALL}",
                (now + overlap, public_id(text), old.id),
            ).fetchone()
    return text, key_of_row(ended or row)


def list_keys(settings: Settings, tenant: str | None = None) -> list[Key]:
    """Every key, newest first, or those of one tenant."""
    with _connect(settings) as connection:
        create_tables(connection)
        rows = connection.execute(
            f"SELECT {_ALL} FROM api_keys WHERE %s::text IS NULL OR tenant = %s ORDER BY created_at DESC, id",
            (tenant, tenant),
        ).fetchall()
    return [key_of_row(row) for row in rows]


def revoke_key(settings: Settings, id: str, *, clock: Clock | None = None) -> Key:
    """Revoke by public id or by the whole key; again is harmless. Gateways follow within a second."""
    public = public_id(id)
    with _connect(settings) as connection:
        create_tables(connection)
        row = connection.execute(
            "UPDATE api_keys SET revoked_at = coalesce(revoked_at, %s) WHERE id = %s RETURNING " + COLUMNS,
            ((clock or SystemClock()).now(), public),
        ).fetchone()
        if row is None:
            raise _unknown(connection, public)
    return key_of_row(row)


def _insert(
    connection: psycopg.Connection[tuple[object, ...]],
    tenant: str,
    name: str,
    scopes: Iterable[str],
    now: datetime,
    expires_at: datetime | None,
) -> str:
    """The text of a key that was made and stored."""
    text, id, hash = mint()
    connection.execute(
        "INSERT INTO api_keys (id, hash, tenant, name, scopes, created_at, expires_at)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s)",
        (id, hash, tenant, name, sorted(scopes), now, expires_at),
    )
    return text


def public_id(id: str) -> str:
    """That of a key's text; what is no key's text is given back."""
    parsed = parse(id)
    return parsed[0] if parsed else id


def _unknown(connection: psycopg.Connection[tuple[object, ...]], id: str) -> UnknownName:
    known = connection.execute("SELECT id FROM api_keys LIMIT 1000").fetchall()
    return UnknownName("key", id[:80], [str(found[0]) for found in known])


def _connect(settings: Settings) -> psycopg.Connection[tuple[object, ...]]:
    try:
        return psycopg.connect(settings.postgres.address, autocommit=True, connect_timeout=_CONNECT_TIMEOUT_S)
    except psycopg.OperationalError as error:
        raise Unavailable(
            "PostgreSQL is away", where="api keys", mend="start it with `millstream up --only postgres`"
        ) from error


def _checksum(body: str) -> str:
    return _base62(zlib.crc32(body.encode()), _CHECKSUM_LENGTH)


def _random(length: int) -> str:
    return _base62(int.from_bytes(os.urandom(length)), length)


def _base62(number: int, length: int) -> str:
    digits = []
    for _ in range(length):
        number, digit = divmod(number, 62)
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))
