"""The public keys of an issuer of tokens: fetched from its JWKS, kept, and renewed as it rotates them.

They are fetched when first needed and every `FRESH_S` from then on, in the background. A token that names a
key which is not among them asks for them anew, at most every `AGAIN_S` for all such tokens. While the issuer
is away what was fetched stays good for `GRACE_S`. The address is a setting: nothing in a token is ever
followed.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import httpx
import jwt
import msgspec

from core.clock import Clock
from core.errors import Denied, Unavailable
from core.telemetry.log import logger

FRESH_S = 300.0
AGAIN_S = 5.0
GRACE_S = 3_600.0
MOST_BYTES = 256 * 1024
MOST_KEYS = 64
TIMEOUT_S = 3.0

_KINDS = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}
_decode = msgspec.json.Decoder(dict[str, Any]).decode
_log = logger("gateway.issuer_keys")

Fetch = Callable[[], Coroutine[None, None, bytes]]


def over_http(address: str, client: httpx.AsyncClient) -> Fetch:
    """Fetches the document from there: no redirects, at most MOST_BYTES, within TIMEOUT_S. The coroutine
    raises Unavailable."""

    async def fetch() -> bytes:
        try:
            async with (
                asyncio.timeout(TIMEOUT_S),
                client.stream("GET", address, follow_redirects=False) as answer,
            ):
                if answer.status_code != 200:
                    raise _away(f"status {answer.status_code}")
                found = b""
                async for part in answer.aiter_bytes():
                    found += part
                    if len(found) > MOST_BYTES:
                        raise _away(f"more than {MOST_BYTES} bytes")
                return found
        except (httpx.HTTPError, TimeoutError, OSError) as error:
            raise _away(type(error).__name__) from error

    return fetch


class IssuerKeys:
    """The keys as they are known. Belongs to one event loop."""

    def __init__(self, fetch: Fetch, *, clock: Clock) -> None:
        self._fetch = fetch
        self._clock = clock
        self._documents: Mapping[str, Mapping[str, Any]] = {}
        self._made: dict[tuple[str, str], jwt.PyJWK] = {}
        self._fetched_at: float | None = None
        self._tried_at: float | None = None
        self._fetching: asyncio.Task[None] | None = None

    def holds(self, id: str) -> bool:
        """Whether a key of this id is among what was fetched last."""
        return id in self._documents

    async def key(self, id: str | None, algorithm: str) -> tuple[str, jwt.PyJWK]:
        """The key of this id for this algorithm, and its id; without an id the only one that there is.

        Raises Denied where there is none, and Unavailable where that cannot be known.
        """
        if self._age() > GRACE_S:
            await self._renew()
        elif self._age() > FRESH_S:
            self.refresh()
        if id is None and len(self._documents) == 1:
            id = next(iter(self._documents))
        if id is not None and id not in self._documents and self._may_try():
            await self._renew()
        if id is None or id not in self._documents:
            raise Denied("no key of the issuer has signed this token")
        return id, self._make(id, algorithm)

    def refresh(self) -> None:
        """Fetch in the background where it is time to."""
        if self._age() > FRESH_S and self._may_try() and self._fetching is None:
            self._begin().add_done_callback(_told)

    def _age(self) -> float:
        return float("inf") if self._fetched_at is None else self._clock.monotonic() - self._fetched_at

    def _may_try(self) -> bool:
        return self._tried_at is None or self._clock.monotonic() - self._tried_at >= AGAIN_S

    async def _renew(self) -> None:
        if self._fetching is None and not self._may_try():
            raise _away("it was asked a moment ago")
        await asyncio.shield(self._fetching or self._begin())

    def _begin(self) -> "asyncio.Task[None]":
        self._tried_at = self._clock.monotonic()
        self._fetching = asyncio.get_running_loop().create_task(self._read(), name="issuer-keys")
        return self._fetching

    async def _read(self) -> None:
        try:
            self._documents = _keys(await self._fetch())
            self._made.clear()
            self._fetched_at = self._clock.monotonic()
        finally:
            self._fetching = None

    def _make(self, id: str, algorithm: str) -> jwt.PyJWK:
        made = self._made.get((id, algorithm))
        if made is None:
            document = self._documents[id]
            fits = (
                document.get("kty") == _KINDS[algorithm[:2]] and document.get("alg", algorithm) == algorithm
            )
            if not fits:
                raise Denied("the key that is named is none for this algorithm")
            try:
                made = jwt.PyJWK(dict(document), algorithm=algorithm)
            except (jwt.PyJWTError, ValueError, TypeError) as error:
                raise Denied("the key that is named cannot be used") from error
            self._made[id, algorithm] = made
        return made


def _keys(document: bytes) -> dict[str, Mapping[str, Any]]:
    """Public keys for signatures, by id; what else a set holds is passed over."""
    try:
        listed = _decode(document).get("keys")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise _away("its keys cannot be read") from None
    if not isinstance(listed, list):
        raise _away("its document holds no keys")
    found: dict[str, Mapping[str, Any]] = {}
    for key in listed[:MOST_KEYS]:
        if (
            not isinstance(key, dict)
            or key.get("kty") not in _KINDS.values()
            or key.get("use", "sig") != "sig"
        ):
            continue
        found[str(key.get("kid", ""))] = {name: value for name, value in key.items() if name != "d"}
    if not found:
        raise _away("its document holds no key that can be used")
    return found


def _away(why: str) -> Unavailable:
    return Unavailable(f"the issuer's keys cannot be had: {why}", code="keys_unavailable", where="issuer")


def _told(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and task.exception() is not None:
        _log.warning("the issuer's keys were not renewed", error=str(task.exception()))
