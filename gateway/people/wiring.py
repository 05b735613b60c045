"""Users, sessions and authorization of one gateway, put together."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import redis.asyncio
from psycopg_pool import AsyncConnectionPool

from core.clock import Clock
from core.errors import Unavailable
from core.people_settings import People
from core.telemetry.log import logger
from gateway.access.authority import FOLLOWED_S, Authority
from gateway.access.store import PostgresAccess
from gateway.audit.event import AuditTrail
from gateway.exchange import Request, Response, json_response
from gateway.keyring import Keyring
from gateway.limits import Counts
from gateway.people.access_tokens import AccessTokens
from gateway.people.challenges import Challenges
from gateway.people.endpoint import LoginEndpoint, LoginLimits
from gateway.people.noting import Notes
from gateway.people.own_sessions import SecondFactorEndpoint, SessionsEndpoint
from gateway.people.passwords import Passwords
from gateway.people.revoked import Revoked
from gateway.people.sessions import Sessions
from gateway.people.signing import PostgresSigningKeys, SigningKeys
from gateway.people.users import PostgresUsers
from gateway.people.vault import Vault
from gateway.principals import OWN_SESSIONS, PUBLIC
from gateway.routing import Route

AUTH, JWKS = "/api/v1/auth", "/.well-known/jwks.json"
_JWKS_S = 60
_log = logger("gateway.people")


@dataclass(frozen=True)
class Parts:
    """What a gateway keeps of it. `passwords` counts what was verified."""

    authority: Authority
    tokens: AccessTokens
    keys: SigningKeys
    revoked: Revoked
    passwords: Passwords
    notes: Notes


class PeoplePart:
    """`trail` is told what users do and are refused."""

    def __init__(
        self,
        settings: People,
        pool: AsyncConnectionPool[Any],
        cache: "redis.asyncio.Redis",
        counts: Counts,
        *,
        trail: AuditTrail,
        clock: Clock,
    ) -> None:
        vault, users = Vault(settings.secret), PostgresUsers(pool)
        if settings.secret is None:
            _log.warning(
                "signing keys and second factors are stored as they are: the database's rights protect them",
                mend="set MILLSTREAM_PEOPLE__SECRET",
            )
        passwords = Passwords(settings)
        sessions = Sessions(cache, settings, clock)
        revoked = Revoked(sessions, settings, clock)
        keys = SigningKeys(PostgresSigningKeys(pool), vault, clock)
        tokens = AccessTokens(settings, keys, revoked, users, clock)
        authority = Authority(PostgresAccess(pool), clock=clock, grace_s=settings.grace_s)
        limits = LoginLimits(
            counts.named("login", settings.login_address), counts.named("account", settings.login_account)
        )
        notes, challenges = Notes(trail, clock), Challenges(cache, settings, clock)
        self.parts = Parts(authority, tokens, keys, revoked, passwords, notes)
        self._login = LoginEndpoint(
            users, passwords, vault, challenges, sessions, tokens, limits=limits, notes=notes, clock=clock
        )
        self._sessions = SessionsEndpoint(sessions, revoked, notes)
        self._factor = SecondFactorEndpoint(
            users, passwords, vault, challenges, settings=settings, limits=limits, notes=notes, clock=clock
        )

    def start(self, keyring: Keyring, exits: AsyncExitStack) -> None:
        """Follow what changes, and tell who keeps a connection open, until `exits`."""
        loop = asyncio.get_running_loop()
        for what, follow in (("sessions", self._follow_sessions), ("access", self._follow_access)):
            task = loop.create_task(_again_and_again(what, follow, keyring.tell_watches), name=what)
            exits.callback(task.cancel)
        exits.callback(self.parts.passwords.close)

    def routes(self) -> tuple[Route, ...]:
        return (
            Route("POST", f"{AUTH}/login", PUBLIC, self._login.login, plane="told"),
            Route("POST", f"{AUTH}/challenge", PUBLIC, self._login.challenge, plane="told"),
            Route("POST", f"{AUTH}/refresh", PUBLIC, self._login.refresh, plane="told"),
            Route("POST", f"{AUTH}/logout", OWN_SESSIONS, self._sessions.logout, plane="told"),
            Route("GET", f"{AUTH}/sessions", OWN_SESSIONS, self._sessions.list),
            Route("DELETE", f"{AUTH}/sessions/{{id}}", OWN_SESSIONS, self._sessions.end, plane="told"),
            Route("POST", f"{AUTH}/second-factor", OWN_SESSIONS, self._factor.offer, plane="told"),
            Route("POST", f"{AUTH}/second-factor/confirm", OWN_SESSIONS, self._factor.confirm, plane="told"),
            Route("GET", JWKS, PUBLIC, self._jwks),
        )

    async def _jwks(self, request: Request) -> Response:
        del request
        await self.parts.keys.require()
        headers = [("cache-control", f"public, max-age={_JWKS_S}")]
        return json_response(200, self.parts.keys.document(), headers)

    async def _follow_sessions(self) -> bool:
        return self.parts.tokens.in_use and await self.parts.revoked.follow()

    async def _follow_access(self) -> bool:
        authority = self.parts.authority
        await authority.follow()
        changed, authority.unread = authority.unread, set()
        try:
            await self.parts.tokens.follow(changed)
        except BaseException:
            authority.unread |= changed  # by the next look
            raise
        return bool(changed)


async def _again_and_again(
    what: str, follow: Callable[[], Awaitable[bool]], tell: Callable[[], None]
) -> None:
    away = False
    while True:
        await asyncio.sleep(FOLLOWED_S)
        try:
            if await follow():
                tell()
            away = False
        except Unavailable as error:
            if not away:
                _log.warning("changes are not followed; what is known goes on", what=what, reason=error.what)
            away = True
        except Exception:
            _log.exception("following changes failed", what=what)
