"""The keys that sign access tokens: Ed25519, in PostgreSQL, rotated with an overlap.

A key is published (`/.well-known/jwks.json`) before it signs and until the last token that it signed has
expired, so that nobody meets a token whose key is not known. The first one is made by the first gateway that
needs it. `SigningKeys` holds what was read last and is re-read as the rest of `gateway.people` is.
"""

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

import psycopg
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from jwt.algorithms import OKPAlgorithm
from psycopg_pool import AsyncConnectionPool

from core.clock import Clock
from core.errors import StackError, Unavailable
from gateway.people.users import ask
from gateway.people.vault import Vault
from pipelines.people_tables import changed

ALGORITHM = "EdDSA"
ALL = "*"
_SELECT = "SELECT id, public, private, signs_from, holds_until FROM signing_keys"
_LOCK = 7_240_317_002


@dataclass(frozen=True)
class SigningKey:
    """A key as it is stored; `private` is sealed."""

    id: str
    public: Mapping[str, Any]
    private: bytes
    signs_from: datetime
    holds_until: datetime | None

    def holds_at(self, now: datetime) -> bool:
        return self.holds_until is None or now < self.holds_until


class SigningKeySource(Protocol):
    """Where they are. Both raise Unavailable."""

    async def read(self) -> Sequence[SigningKey]: ...

    async def add_first(self, key: SigningKey) -> Sequence[SigningKey]:
        """Add it where there is none that signs; all that there are then. Of two gateways at once each may
        add one, and both hold."""
        ...


class PostgresSigningKeys:
    """The table `signing_keys`."""

    def __init__(self, pool: AsyncConnectionPool[Any]) -> None:
        self._pool = pool

    async def read(self) -> Sequence[SigningKey]:
        return [_key_of_row(row) for row in await ask(self._pool, _SELECT)]

    async def add_first(self, key: SigningKey) -> Sequence[SigningKey]:
        await ask(
            self._pool,
            "INSERT INTO signing_keys (id, public, private, signs_from) SELECT %s, %s::jsonb, %s, %s"
            " WHERE NOT EXISTS (SELECT 1 FROM signing_keys WHERE holds_until IS NULL) RETURNING 1",
            [key.id, json.dumps(key.public), key.private, key.signs_from],
        )
        return await self.read()


class SigningKeys:
    """What a gateway knows of them. Belongs to one event loop."""

    def __init__(self, source: SigningKeySource, vault: Vault, clock: Clock) -> None:
        self._source = source
        self._vault = vault
        self._clock = clock
        self._keys: dict[str, SigningKey] = {}
        self._public: dict[str, Ed25519PublicKey] = {}
        self._private: dict[str, Ed25519PrivateKey] = {}
        self._asked_at: float | None = None

    async def refresh(self) -> None:
        """Read them anew. Raises Unavailable."""
        self._asked_at = self._clock.monotonic()
        self._take(await self._source.read())

    def holds(self, id: str) -> bool:
        """Whether tokens that this key signed count now."""
        key = self._keys.get(id)
        return key is not None and key.holds_at(self._clock.now())

    async def public(self, id: str) -> Ed25519PublicKey | None:
        """The key to verify with; asks anew for one that is not known, at most once a second."""
        if id not in self._keys and self._may_ask():
            await self.refresh()
        if not self.holds(id):
            return None
        found = self._public.get(id)
        if found is None:
            found = self._public[id] = _public_of(self._keys[id].public)
        return found

    async def signer(self) -> tuple[str, Ed25519PrivateKey]:
        """The id and the key that signs now; the first one is made where there is none. Raises Unavailable,
        StackError."""
        found = self._signing()
        if found is None:
            await self.refresh()
            found = self._signing()
        if found is None:
            self._take(await self._source.add_first(new_key(self._vault, self._clock.now())))
            found = self._signing()
        if found is None:
            raise Unavailable("no key signs", code="database_unavailable", where="signing keys")
        private = self._private.get(found.id)
        if private is None:
            opened = self._vault.open(found.private, found.id)
            private = self._private[found.id] = Ed25519PrivateKey.from_private_bytes(opened)
        return found.id, private

    async def require(self) -> None:
        """Have read them once. Raises Unavailable."""
        if self._asked_at is None:
            await self.refresh()

    def document(self) -> dict[str, Any]:
        """The JWKS (RFC 7517): every key that signs, will, or has signed what still counts."""
        now = self._clock.now()
        held = sorted((key for key in self._keys.values() if key.holds_at(now)), key=lambda key: key.id)
        return {"keys": [dict(key.public) for key in held]}

    def _may_ask(self) -> bool:
        return self._asked_at is None or self._clock.monotonic() - self._asked_at >= 1.0

    def _signing(self) -> SigningKey | None:
        """The one that began last; where a clock is late, the one that begins first."""
        now = self._clock.now()
        held = [key for key in self._keys.values() if key.holds_at(now)]
        begun = [key for key in held if key.signs_from <= now]
        return max(begun, key=lambda key: key.signs_from, default=None)

    def _take(self, keys: Sequence[SigningKey]) -> None:
        self._keys = {key.id: key for key in keys}
        self._public = {id: key for id, key in self._public.items() if id in self._keys}
        self._private = {id: key for id, key in self._private.items() if id in self._keys}


def new_key(vault: Vault, signs_from: datetime) -> SigningKey:
    """A key that nobody knows yet."""
    private = Ed25519PrivateKey.generate()
    id = secrets.token_hex(8)
    public = json.loads(OKPAlgorithm.to_jwk(private.public_key()))
    document = {name: public[name] for name in ("kty", "crv", "x")}
    document |= {"kid": id, "use": "sig", "alg": ALGORITHM}
    return SigningKey(id, document, vault.seal(private.private_bytes_raw(), id), signs_from, None)


def rotate(
    connection: "psycopg.Connection[Any]",
    vault: Vault,
    *,
    now: datetime,
    lead: timedelta,
    lasts: timedelta,
) -> SigningKey:
    """Add a key that signs after `lead`, and let the others hold until what they signed until then has
    expired, `lasts` later. Without a lead the others hold no more at once: what they signed is refused."""
    made = new_key(vault, now + lead)
    ends = now + lead + lasts if lead else now
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        connection.execute("DELETE FROM signing_keys WHERE holds_until < %s", (now,))
        connection.execute(
            "UPDATE signing_keys SET holds_until = least(coalesce(holds_until, %s), %s)", (ends, ends)
        )
        connection.execute(
            "INSERT INTO signing_keys (id, public, private, signs_from) VALUES (%s, %s, %s, %s)",
            (made.id, json.dumps(made.public), made.private, made.signs_from),
        )
        changed(connection, ALL)
    return made


def _public_of(document: Mapping[str, Any]) -> Ed25519PublicKey:
    found = OKPAlgorithm.from_jwk(dict(document))
    if not isinstance(found, Ed25519PublicKey):
        raise StackError("a signing key is none that `new_key` made", where="table signing_keys")
    return found


def _key_of_row(row: Sequence[Any]) -> SigningKey:
    id, public, private, signs_from, holds_until = row
    return SigningKey(id, public, bytes(private), signs_from, holds_until)
