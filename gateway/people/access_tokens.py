"""Access tokens: JWTs that this gateway issues (RFC 9068) and checks, in this order:

    1  the session is not on the blacklist
    2  the signature: Ed25519, by one of our keys, under the one algorithm that is accepted; issuer, audience
    3  the time: issued in the past, not expired; give or take `skew_s`. Expired: 401 `token_expired`
    4  the user is there, of this tenant, and not disabled

Permissions and policies come after (`gateway.access`). All that is wrong but an end in the past is one
refusal. A token that was good is remembered by its digest and costs microseconds from then on; the blacklist,
the key, the time and the user are looked at each time. Who the user is now (roles, disabled) is followed in
PostgreSQL; while that is away what was known goes on for `grace_s`, then the answer is 503.
"""

import asyncio
import base64
import hashlib
import re
import secrets
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import jwt
import msgspec
from cryptography.exceptions import InvalidSignature

from core.clock import Clock
from core.errors import Denied, Unavailable
from core.people_settings import People
from gateway.people.revoked import Revoked
from gateway.people.signing import ALGORITHM, ALL, SigningKeys
from gateway.people.users import Users, UserState
from gateway.principals import USER, Principal
from gateway.tokens import denied

TYPE = "at+jwt"
MOST_BYTES = 4 * 1024
REMEMBERED = USERS = 10_000
LOOKUPS = 64
_SHAPE = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)", re.ASCII)


@dataclass(frozen=True)
class Issued:
    """An access token and how long it lasts."""

    text: str
    lasts_s: int


@dataclass(slots=True)
class _Known:
    state: UserState | None
    confirmed: float


class AccessTokens:
    """Belongs to one event loop."""

    def __init__(
        self, settings: People, keys: SigningKeys, revoked: Revoked, users: Users, clock: Clock
    ) -> None:
        self._settings = settings
        self._keys = keys
        self._revoked = revoked
        self._users = users
        self._clock = clock
        self._good: OrderedDict[bytes, Principal] = OrderedDict()
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._pending: dict[str, asyncio.Task[None]] = {}
        self._generation = 0

    async def issue(self, *, user: str, tenant: str, session: str, roles: Collection[str]) -> Issued:
        """A token for a session. Raises Unavailable, StackError."""
        id, key = await self._keys.signer()
        now = self._clock.now().timestamp()
        lasts = int(self._settings.access_s)
        claims = {
            "iss": self._settings.issuer, "aud": self._settings.audience, "sub": f"{USER}{user}",
            "tenant": tenant, "sid": session, "jti": secrets.token_hex(16),
            "roles": sorted(roles), "iat": int(now), "exp": int(now) + lasts,
        }  # fmt: skip
        return Issued(jwt.encode(claims, key, ALGORITHM, {"typ": TYPE, "kid": id}), lasts)

    @property
    def in_use(self) -> bool:
        """Whether any was good here."""
        return bool(self._good)

    def issued(self, text: str) -> bool:
        """Whether a token says that it is one of these. Nothing is believed of it for that."""
        return (
            hashlib.sha256(text.encode("utf-8", "replace")).digest() in self._good
            or _unverified(_parts(text)).iss == self._settings.issuer
        )

    async def check(self, text: str) -> Principal:
        """The principal of a token. Raises Denied, `token_expired` for one that was good, or Unavailable."""
        await self._revoked.require()
        digest = hashlib.sha256(text.encode("utf-8", "replace")).digest()
        principal = self._good.get(digest)
        if principal is None:
            principal = await self._verify(text)
            self._good[digest] = principal
            if len(self._good) > REMEMBERED:
                self._good.popitem(last=False)
        elif principal.session in self._revoked or not self._keys.holds(principal.signed_with or ""):
            del self._good[digest]
            raise denied()
        self._require_time(principal)
        state = await self._state(principal.user or "")
        if state is None or not _holds(state, principal):
            raise denied()
        if state.roles != principal.roles:
            principal = self._good[digest] = replace(principal, roles=state.roles)
        return principal

    def stands(self, principal: Principal) -> bool:
        """Whether a principal of ours is still one; for those who keep a connection open for it."""
        known = self._known.get(principal.user or "")
        return (
            principal.session not in self._revoked
            and self._revoked.known
            and self._keys.holds(principal.signed_with or "")
            and principal.expires_at is not None
            and self._clock.now() < principal.expires_at
            and (known is None or (self._fresh(known) and _holds(known.state, principal)))
        )

    def current(self, principal: Principal) -> Principal:
        """The same one with the roles of now."""
        known = self._known.get(principal.user or "")
        if known is None or known.state is None or known.state.roles == principal.roles:
            return principal
        return replace(principal, roles=known.state.roles)

    async def follow(self, tenants: Collection[str]) -> None:
        """Read the users of these tenants anew, as far as they are known, and the keys where `*` is among
        them; the rest is confirmed with that. Raises Unavailable."""
        if tenants:
            self._generation += 1
        if ALL in tenants:
            await self._keys.refresh()
        stale = [
            id
            for id, known in self._known.items()
            if ALL in tenants or known.state is None or known.state.tenant in tenants
        ]
        found = await self._users.states(stale) if stale else {}
        now = self._clock.monotonic()
        for id in stale:
            self._known[id] = _Known(found.get(id), now)
        for known in self._known.values():
            known.confirmed = now

    async def _verify(self, text: str) -> Principal:
        """Checks 1 and 2, and that it says what such a token has to."""
        parts = _parts(text)
        if parts is None or _session(parts) in self._revoked:
            raise denied()
        try:
            header = _header(_bytes(parts[0]))
            known = header.alg == ALGORITHM and header.typ.lower() == TYPE and header.crit is msgspec.UNSET
            key = await self._keys.public(header.kid) if known else None
            if key is None:
                raise denied()
            key.verify(_bytes(parts[2]), text[: len(parts[0]) + 1 + len(parts[1])].encode())
            return self._principal(_claims(_bytes(parts[1])), header.kid)
        except (InvalidSignature, msgspec.MsgspecError, ValueError, OverflowError, RecursionError):
            raise denied() from None

    def _principal(self, claims: "_Claims", signed_with: str) -> Principal:
        ours = claims.iss == self._settings.issuer and claims.aud == self._settings.audience
        ahead = claims.iat > self._clock.now().timestamp() + self._settings.skew_s
        if not ours or ahead or not claims.sub.startswith(USER):
            raise denied()
        return Principal(
            tenant=claims.tenant,
            credential=claims.sub,
            scopes=frozenset(),
            expires_at=datetime.fromtimestamp(claims.exp + self._settings.skew_s, UTC),
            signed_with=signed_with,
            roles=frozenset(claims.roles),
            session=claims.sid,
        )

    def _require_time(self, principal: Principal) -> None:
        if principal.expires_at is None or self._clock.now() >= principal.expires_at:
            raise Denied(
                "the access token has expired",
                code="token_expired",
                mend="send the refresh token to POST /api/v1/auth/refresh, then this request again",
            )

    async def _state(self, user: str) -> UserState | None:
        known = self._known.get(user)
        if known is None or not self._fresh(known):
            await self._look_up(user)
            known = self._known.get(user)
        return known.state if known is not None else None

    def _fresh(self, known: _Known) -> bool:
        return self._clock.monotonic() - known.confirmed <= self._settings.grace_s

    async def _look_up(self, user: str) -> None:
        pending = self._pending.get(user)
        if pending is None:
            if len(self._pending) >= LOOKUPS:
                raise Unavailable("too many unknown users at once", code="keys_unavailable")
            pending = asyncio.get_running_loop().create_task(self._read(user))
            self._pending[user] = pending
            pending.add_done_callback(lambda _: self._pending.pop(user, None))
        try:
            await asyncio.shield(pending)
        except Unavailable as away:
            raise Unavailable("users cannot be checked now", code="keys_unavailable") from away

    async def _read(self, user: str) -> None:
        while True:
            generation = self._generation
            found = await self._users.states([user])
            if generation == self._generation:
                break  # else somebody was changed meanwhile, perhaps after this was read
        self._known[user] = _Known(found.get(user), self._clock.monotonic())
        if len(self._known) > USERS:
            self._known.popitem(last=False)


def _holds(state: UserState | None, principal: Principal) -> bool:
    return state is not None and not state.disabled and state.tenant == principal.tenant


class _Header(msgspec.Struct, frozen=True):
    alg: str
    typ: str
    kid: str
    crit: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Claims(msgspec.Struct, frozen=True):
    iss: str
    aud: str
    sub: str
    tenant: str
    sid: str
    jti: str
    iat: int
    exp: int
    roles: list[str] = []


class _Told(msgspec.Struct, frozen=True):
    """What is looked at before the signature."""

    iss: str = ""
    sid: str = ""


_header, _claims = msgspec.json.Decoder(_Header).decode, msgspec.json.Decoder(_Claims).decode
_told = msgspec.json.Decoder(_Told).decode


def _parts(text: str) -> tuple[str, str, str] | None:
    """Header, claims and signature of what looks like a token and is not too large."""
    found = _SHAPE.fullmatch(text) if len(text) <= MOST_BYTES else None
    return (found[1], found[2], found[3]) if found is not None else None


def _session(parts: tuple[str, str, str]) -> str:
    return _unverified(parts).sid


def _unverified(parts: tuple[str, str, str] | None) -> _Told:
    """What a token says of itself; nothing where it is none."""
    try:
        return _told(_bytes(parts[1])) if parts is not None else _Told()
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return _Told()


def _bytes(part: str) -> bytes:
    """Raises ValueError."""
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
