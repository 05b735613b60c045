"""Access tokens as good or as bad as asked, checked in memory."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import jwt

from core.clock import ManualClock
from core.errors import Unavailable
from core.people_settings import People
from gateway.people.access_tokens import AccessTokens
from gateway.people.revoked import Revoked
from gateway.people.sessions import Sessions
from gateway.people.signing import SigningKey, SigningKeys
from gateway.people.users import UserState
from gateway.people.vault import Vault
from tests.gateway.issuing import encoded
from tests.gateway.samples import NOW

SESSION, USER = "a" * 32, "u1"


class SessionsInMemory(Sessions):
    """Sessions that were ended, and that can be away."""

    def __init__(self) -> None:
        self.ended: list[str] = []
        self.away = False
        self.asked = 0

    async def revoked_since(self, position: str) -> tuple[list[tuple[datetime, str]], str]:
        self.asked += 1
        await asyncio.sleep(0)
        if self.away:
            raise Unavailable("Redis is away")
        start = int(position)
        return [(NOW, session) for session in self.ended[start:]], str(len(self.ended))


class KeysInMemory:
    """Signing keys."""

    def __init__(self) -> None:
        self.keys: list[SigningKey] = []
        self.reads = 0

    async def read(self) -> Sequence[SigningKey]:
        self.reads += 1
        return list(self.keys)

    async def add_first(self, key: SigningKey) -> Sequence[SigningKey]:
        self.keys.append(key)
        return await self.read()


class UsersInMemory:
    """States of users; nothing else of `Users` is asked of it."""

    def __init__(self) -> None:
        self.found: dict[str, UserState] = {USER: UserState("acme", frozenset({"viewer"}), False)}
        self.away = False
        self.asked = 0

    async def states(self, ids: Sequence[str]) -> Mapping[str, UserState]:
        self.asked += 1
        await asyncio.sleep(0)
        if self.away:
            raise Unavailable("PostgreSQL is away")
        return {id: self.found[id] for id in ids if id in self.found}

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} was asked")


class Forge:
    """`tokens` checks; `token` makes one."""

    def __init__(self, **settings: Any) -> None:
        self.clock = ManualClock(NOW)
        self.settings = People(**settings)
        self.sessions, self.stored, self.users = SessionsInMemory(), KeysInMemory(), UsersInMemory()
        self.vault = Vault("a secret of thirty-two characters")
        self.keys = SigningKeys(self.stored, self.vault, self.clock)
        self.revoked = Revoked(self.sessions, self.settings, self.clock)
        users: Any = self.users
        self.tokens = AccessTokens(self.settings, self.keys, self.revoked, users, self.clock)

    async def issue(self) -> str:
        made = await self.tokens.issue(user=USER, tenant="acme", session=SESSION, roles=["viewer"])
        return made.text

    async def token(
        self,
        *,
        header: Mapping[str, Any] | None = None,
        key: Any = None,
        algorithm: str = "EdDSA",
        **claims: Any,
    ) -> str:
        """One of ours, but for what is given; a claim that is None is left out."""
        id, ours = await self.keys.signer()
        text = await self.issue()
        given = jwt.decode(text, options={"verify_signature": False}) | claims
        kept = {name: value for name, value in given.items() if value is not None}
        head = {"typ": "at+jwt", "kid": id} | dict(header or {})
        named = {name: value for name, value in head.items() if value is not None}
        return jwt.encode(kept, key or ours, algorithm=algorithm, headers=named)


def unsigned(text: str) -> str:
    """The same claims, under a header that says it needs no signature."""
    head = encoded(json.dumps({"alg": "none", "typ": "at+jwt"}).encode())
    return f"{head}.{text.split('.')[1]}."
