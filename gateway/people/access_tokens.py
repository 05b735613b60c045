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
import hashlib
import re
import secrets
from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import jwt
import msgspec

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
_SHAPE = re.compile(r"[A-Za-z0-9_-]+\.([A-Za-z0-9_-]+)\.[A-Za-z0-9_-]+", re.ASCII)
_NEEDED = ["iss", "aud", "sub", "exp", "iat", "sid", "jti", "tenant"]
_OPTIONS: Any = {
    "require": _NEEDED,
    "verify_exp": False,  # against our clock, after the signature
    "verify_nbf": False,
    "verify_iat": False,
}
_claims = msgspec.json.Decoder(dict[str, Any]).decode


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
            or _unverified(text).get("iss") == self._settings.issuer
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
        session = _unverified(text).get("sid")
        if not isinstance(session, str) or session in self._revoked:
            raise denied()
        try:
            header = jwt.get_unverified_header(text)
        except jwt.PyJWTError:
            raise denied() from None
        id, typed = header.get("kid"), str(header.get("typ", "")).lower()
        if header.get("alg") != ALGORITHM or typed != TYPE or "crit" in header or not isinstance(id, str):
            raise denied()
        key = await self._keys.public(id)
        if key is None:
            raise denied()
        try:
            claims = jwt.decode(
                text,
                key,
                algorithms=[ALGORITHM],
                audience=self._settings.audience,
                issuer=self._settings.issuer,
                options=_OPTIONS,
            )
            return self._principal(claims, id)
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError):
            raise denied() from None

    def _principal(self, claims: Mapping[str, Any], signed_with: str) -> Principal:
        subject, issued_at = str(claims["sub"]), float(claims["iat"])
        if not subject.startswith(USER) or issued_at > self._clock.now().timestamp() + self._settings.skew_s:
            raise denied()
        return Principal(
            tenant=str(claims["tenant"]),
            credential=subject,
            scopes=frozenset(),
            expires_at=datetime.fromtimestamp(float(claims["exp"]) + self._settings.skew_s, UTC),
            signed_with=signed_with,
            roles=frozenset(map(str, claims.get("roles", ()))),
            session=str(claims["sid"]),
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
        found = await self._users.states([user])
        self._known[user] = _Known(found.get(user), self._clock.monotonic())
        if len(self._known) > USERS:
            self._known.popitem(last=False)


def _holds(state: UserState | None, principal: Principal) -> bool:
    return state is not None and not state.disabled and state.tenant == principal.tenant


def _unverified(text: str) -> Mapping[str, Any]:
    """What a token says of itself; nothing where it is none, or is too large."""
    if len(text) > MOST_BYTES:
        return {}
    found = _SHAPE.fullmatch(text)
    if found is None:
        return {}
    try:
        return _claims(jwt.utils.base64url_decode(found[1]))
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError, RecursionError):
        return {}
