"""Bearer tokens of an external issuer: signed JWTs (RFC 7519), checked as RFC 8725 advises.

A token counts where its algorithm is one of those in the settings (all of them asymmetric; `none` is never
among them), the key that it names is one of the issuer's and of the kind that the algorithm takes, `iss` and
`aud` are as set, `exp` lies ahead, and `nbf` and `iat` do not, give or take the clocks' skew. `sub` is who it
is, a claim names the tenant, another the scopes; scopes that are none of ours give nothing. Keys that a token
brings along or points at (`jwk`, `jku`, `x5u`) are ignored, critical extensions (`crit`) refused.

A token that was good is remembered by its digest, so that its next request costs microseconds; as long as it
lasts and the key that signed it is still the issuer's.
"""

import hashlib
import math
import re
from collections import OrderedDict
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import jwt

from core.clock import Clock
from core.errors import Denied
from core.settings import Issuer
from gateway.issuer_keys import IssuerKeys
from gateway.keys import TENANT
from gateway.principals import SCOPES, Principal

MOST_BYTES = 8 * 1024
REMEMBERED = 10_000
_SHAPE = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", re.ASCII)
_SUBJECT = re.compile(r"[\x21-\x7e]{1,255}", re.ASCII)
_TYPES = frozenset({"jwt", "at+jwt", "application/at+jwt"})
_LAST = datetime.max.replace(tzinfo=UTC).timestamp() - 86_400


class Tokens:
    """Turns a token into a principal. Belongs to one event loop."""

    def __init__(self, settings: Issuer, keys: IssuerKeys, *, clock: Clock) -> None:
        self._settings = settings
        self._keys = keys
        self._clock = clock
        self._good: OrderedDict[bytes, Principal] = OrderedDict()

    async def check(self, text: str) -> Principal:
        """The principal of a token. Raises Denied, the same for all that is wrong, or Unavailable."""
        digest = hashlib.sha256(text.encode("utf-8", "replace")).digest()
        known = self._good.get(digest)
        if known is not None:
            if self.stands(known):
                self._good.move_to_end(digest)
                return known
            del self._good[digest]
        principal = await self._verify(text)
        self._good[digest] = principal
        if len(self._good) > REMEMBERED:
            self._good.popitem(last=False)
        return principal

    def stands(self, principal: Principal) -> bool:
        """Whether a principal of ours is still one: neither expired nor signed with a key that was
        withdrawn."""
        lasts = principal.expires_at is None or self._clock.now() < principal.expires_at
        return lasts and self._keys.holds(principal.signed_with or "")

    def refresh(self) -> None:
        """Renew the issuer's keys in the background where it is time to."""
        self._keys.refresh()

    async def _verify(self, text: str) -> Principal:
        if len(text) > MOST_BYTES or not _SHAPE.fullmatch(text):
            raise denied()
        try:
            header = jwt.get_unverified_header(text)
        except jwt.PyJWTError:
            raise denied() from None
        algorithm, id = header.get("alg"), header.get("kid")
        typed = str(header.get("typ", "jwt")).lower()
        if algorithm not in self._settings.algorithms or typed not in _TYPES or "crit" in header:
            raise denied()
        try:
            id, key = await self._keys.key(id if isinstance(id, str) else None, algorithm)
            claims = jwt.decode(
                text,
                key,
                algorithms=[algorithm],
                audience=self._settings.audience,
                issuer=self._settings.name,
                options={
                    "require": ["exp", "iss", "aud", "sub"],
                    "verify_exp": False,  # against our clock, below
                    "verify_nbf": False,
                    "verify_iat": False,
                    "enforce_minimum_key_length": True,
                },
            )
        except (Denied, jwt.PyJWTError, ValueError, TypeError):
            raise denied() from None
        return self._principal(claims, id)

    def _principal(self, claims: Mapping[str, Any], signed_with: str) -> Principal:
        now, skew = self._clock.now().timestamp(), self._settings.skew_s
        expires = _time(claims["exp"])
        begins = max((_time(claims[name]) for name in ("nbf", "iat") if name in claims), default=now)
        subject, tenant = claims["sub"], claims.get(self._settings.tenant_claim)
        if not now < expires + skew or begins > now + skew:
            raise denied()
        if (
            not isinstance(tenant, str)
            or not TENANT.fullmatch(tenant)
            or not _SUBJECT.fullmatch(str(subject))
        ):
            raise denied()
        given = claims.get(self._settings.scope_claim, ())
        words = given.split() if isinstance(given, str) else given if isinstance(given, list) else ()
        return Principal(
            tenant=tenant,
            credential=f"token:{subject}",
            scopes=frozenset(word for word in words if isinstance(word, str)) & SCOPES,
            expires_at=datetime.fromtimestamp(expires + skew, UTC),
            signed_with=signed_with,
        )


def denied() -> Denied:
    """One refusal for everything that can be wrong with a credential."""
    return Denied("no valid credential", mend="send `Authorization: Bearer` with an API key or a token")


def _time(value: Any) -> float:
    """Seconds since the epoch; raises Denied for what is no time."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not 0 <= value <= _LAST:
        raise denied()
    return float(value)
