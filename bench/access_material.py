"""What `bench.access` decides about: tenants with roles and policies, users with tokens, and their keys."""

import json
import random
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import jwt

from core.clock import SystemClock
from core.people_settings import People
from gateway.access.authority import Authority
from gateway.access.policies import Policy, policy_of
from gateway.access.roles import BUILT_IN
from gateway.access.store import Rules
from gateway.people.access_tokens import AccessTokens
from gateway.people.passwords import hasher
from gateway.people.revoked import Revoked
from gateway.people.sessions import Sessions
from gateway.people.signing import SigningKey, SigningKeys
from gateway.people.users import UserState
from gateway.people.vault import Vault
from gateway.principals import SCOPES, Principal
from gateway.problems import Forbidden

TENANTS, RULES, USERS = 20, 10_000, 50
_ADDRESSES = ("10.0.0.1", "192.0.2.7", "198.51.100.9", "2001:db8::/64")
_WHEN: Sequence[Mapping[str, Any]] = (
    {"time": "02:00-02:01"},
    {"weekday": ["sat", "sun"], "time": "03:00-04:00", "timezone": "Europe/Berlin"},
    {"network": ["203.0.113.0/24", "2001:db9::/32"]},
    {"outside_network": ["0.0.0.0/0", "::/0"]},
    {"data_class": ["restricted"]},
    {"amount_above": 1_000_000, "network": ["203.0.113.0/24"]},
)


class World:
    """`authority` has the rules of all tenants; `users` are those of the tokens."""

    def __init__(self, authority: Authority) -> None:
        self.authority = authority
        self.settings, self.clock = People(), SystemClock()
        self._stored = _Keys()
        self.keys = SigningKeys(self._stored, Vault(None), self.clock)

    @classmethod
    async def make(cls, policies: int) -> Self:
        authority = Authority(_Rules(policies), clock=SystemClock())
        made = cls(authority)
        for number in range(TENANTS):
            await made.allowed(_user(number, "viewer"), "reviews:read")
        return made

    async def allowed(self, principal: Principal, permission: str) -> bool:
        """What the door asks, of one of four addresses."""
        address = _ADDRESSES[len(permission) % len(_ADDRESSES)]
        try:
            await self.authority.permit(principal, permission, address=address, data_class="internal")
        except Forbidden:
            return False
        return True

    def questions(self, count: int) -> list[tuple[Principal, str]]:
        chance = random.Random(28)
        roles, permissions = sorted(BUILT_IN), sorted(SCOPES)
        users = [_user(number, role) for number in range(TENANTS) for role in roles]
        return [(chance.choice(users), chance.choice(permissions)) for _ in range(count)]

    async def tokens_of(self, count: int) -> list[str]:
        tokens = await self.checker()
        made = [
            await tokens.issue(user=f"u{n % USERS}", tenant="t0", session=f"{n:032x}", roles=["viewer"])
            for n in range(count)
        ]
        return [one.text for one in made]

    async def checker(self) -> AccessTokens:
        """Of a gateway that has seen no token, and knows the users."""
        sessions: Any = _NoneEnded()
        users: Any = _Users()
        revoked = Revoked(sessions, self.settings, self.clock)
        made = AccessTokens(self.settings, self.keys, revoked, users, self.clock)
        first = await made.issue(user="u0", tenant="t0", session="f" * 32, roles=[])
        await made.check(first.text)
        return made

    def argon2_ms(self) -> float:
        """One verification at the cost of the settings."""
        own = hasher(self.settings)
        stored, took = own.hash("a password of somebody"), []
        for _ in range(5):
            begun = time.perf_counter()
            own.verify(stored, "a password of somebody")
            took.append(time.perf_counter() - begun)
        return sorted(took)[2] * 1e3


@contextmanager
def key_set(world: World) -> Iterator[jwt.PyJWKClient]:
    """The peer's client of a key set that is served here; what it fetches it keeps, as it does by default."""
    document = json.dumps(world.keys.document()).encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(document)))
            self.end_headers()
            self.wfile.write(document)

        def log_message(self, format: str, *args: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield jwt.PyJWKClient(f"http://127.0.0.1:{server.server_address[1]}/keys")
    finally:
        server.shutdown()
        server.server_close()


def rules_of_casbin() -> list[list[str]]:
    """10,000 rules: what the built-in roles may in each tenant, and roles of the tenants' own."""
    found: list[list[str]] = []
    for number in range(TENANTS):
        for role in BUILT_IN.values():
            below = set(role.permissions).union(*(BUILT_IN[parent].permissions for parent in role.parents))
            found += [[role.name, f"t{number}", permission] for permission in sorted(below)]
    permissions = sorted(SCOPES)
    for n in range(RULES - len(found)):
        found.append([f"own-{n // len(permissions)}", f"t{n % TENANTS}", permissions[n % len(permissions)]])
    return found


def principal_of(claims: Mapping[str, Any]) -> tuple[str, str, str]:
    return claims["tenant"], claims["sub"], claims["sid"]


def _user(number: int, role: str) -> Principal:
    return Principal(
        f"t{number}", f"user:u{number}", frozenset(), signed_with="k", roles=frozenset({role}), session="s"
    )


class _Rules:
    """Policies of all tenants, dealt out evenly."""

    def __init__(self, policies: int) -> None:
        self._each = policies // TENANTS

    async def rules(self, tenant: str) -> Rules:
        if tenant == "*":
            return Rules((), ())
        chance = random.Random(tenant)
        return Rules((), [_policy(chance, n) for n in range(self._each)])

    async def revision(self) -> int:
        return 1

    async def changed_since(self, revision: int) -> Sequence[str]:
        del revision
        return ()


def _policy(chance: random.Random, number: int) -> Policy:
    document = {
        "name": f"p{number}",
        "effect": "deny",
        "permissions": chance.choices([["*"], chance.sample(sorted(SCOPES), 2)], [1, 20])[0],
        "when": dict(chance.choice(_WHEN)),
    }
    if chance.random() < 0.7:
        document["roles"] = chance.sample(sorted(BUILT_IN), 2)
    return policy_of(document, where="bench")


class _Keys:
    def __init__(self) -> None:
        self._keys: list[SigningKey] = []

    async def read(self) -> Sequence[SigningKey]:
        return self._keys

    async def add_first(self, key: SigningKey) -> Sequence[SigningKey]:
        self._keys.append(key)
        return self._keys


class _NoneEnded(Sessions):
    def __init__(self) -> None:
        """Nothing was ended."""

    async def revoked_since(self, position: str) -> tuple[list[tuple[Any, str]], str]:
        return [], position


class _Users:
    """All of them are there."""

    async def states(self, ids: Sequence[str]) -> Mapping[str, UserState]:
        return {id: UserState("t0", frozenset({"viewer"}), False) for id in ids}
