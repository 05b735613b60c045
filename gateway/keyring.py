"""The check of credentials at the door: in memory, and never more than a second behind PostgreSQL.

A key seen for the first time is looked up once (concurrent requests share the look-up). From then on a
background loop re-reads every cached key in one statement each `REFRESH_S`, so that no request waits for
it and a revocation is followed within a second. While PostgreSQL is away, a cached key goes on working for
`GRACE_S` after it was last confirmed; then, and for keys not seen before, the answer is 503, not 401.

Everything that is wrong with a key - shape, checksum, id, secret, expiry, revocation - gives the same 401,
and an unknown id costs the same hash comparison as a known one. What is no API key is a token: one of ours
(`gateway.people.access_tokens`), or of the external issuer, where one is set (`gateway.tokens`).

Who keeps a connection open for a principal watches it: `Keyring.watch` calls back once when the credential is
over, by the same loop, whatever else was forgotten meanwhile. When keys were last used is written every
`USED_S`.
"""

import asyncio
import hashlib
import hmac
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

import psycopg
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from core.clock import Clock, SystemClock
from core.errors import Unavailable
from core.telemetry.log import logger
from gateway.access.authority import Authority
from gateway.keys import COLUMNS, PREFIX, Key, key_of_row, parse
from gateway.people.access_tokens import AccessTokens
from gateway.principals import Principal
from gateway.tokens import Tokens, denied

REFRESH_S = 0.5
GRACE_S = 300.0
UNKNOWN_FOR_S = 1.0
CACHED = 10_000
LOOKUPS = 64
PARSED = 10_000
USED_S = 10.0
_NOBODY = bytes(32)

_log = logger("gateway.keyring")


class KeySource(Protocol):
    """Where keys come from."""

    async def fetch(self, ids: Sequence[str]) -> Mapping[str, Key]:
        """The keys of these ids that exist. Raises Unavailable."""
        ...

    async def used(self, at: Mapping[str, datetime]) -> None:
        """Remember when keys were used last, by id. Raises Unavailable."""
        ...


class PostgresKeys:
    """The table `api_keys`."""

    def __init__(self, pool: AsyncConnectionPool[Any]) -> None:
        self._pool = pool

    async def fetch(self, ids: Sequence[str]) -> Mapping[str, Key]:
        rows = await self._ask(f"SELECT {COLUMNS} FROM api_keys WHERE id = ANY(%s)", [list(ids)])
        return {key.id: key for key in map(key_of_row, rows)}

    async def used(self, at: Mapping[str, datetime]) -> None:
        ids = sorted(at)  # in one order, so that gateways do not lock each other out
        await self._ask(
            "UPDATE api_keys SET last_used_at = greatest(last_used_at, used.at)"
            " FROM (SELECT * FROM unnest(%s::text[], %s::timestamptz[]) AS given(id, at)) AS used"
            " WHERE api_keys.id = used.id RETURNING 1",
            [ids, [at[id] for id in ids]],
        )

    async def _ask(self, statement: str, values: Sequence[Any]) -> list[Any]:
        try:
            async with asyncio.timeout(2.0), self._pool.connection(timeout=1.0) as connection:
                rows: list[Any] = await (await connection.execute(statement, values)).fetchall()
                return rows
        except psycopg.errors.UndefinedTable:
            return []
        except (psycopg.Error, PoolTimeout, TimeoutError, OSError) as error:
            raise Unavailable(
                "keys cannot be checked now", code="keys_unavailable", where="PostgreSQL"
            ) from error


@dataclass(slots=True)
class _Cached:
    key: Key | None
    principal: Principal | None
    confirmed: float


class Keyring:
    """Turns the text of a credential into a principal. One event loop; not thread-safe."""

    def __init__(
        self,
        source: KeySource,
        *,
        clock: Clock | None = None,
        tokens: Tokens | None = None,
        own: AccessTokens | None = None,
        authority: Authority | None = None,
    ) -> None:
        self._source = source
        self._clock = clock or SystemClock()
        self._tokens = tokens
        self._own = own
        self.authority = authority or Authority(clock=self._clock)
        self._cached: OrderedDict[str, _Cached] = OrderedDict()
        self._parsed: dict[bytes, tuple[str, bytes]] = {}  # of good keys, by the digest of their text
        self._pending: dict[str, asyncio.Future[None]] = {}
        self._watched: dict[Principal, set[Watch]] = {}
        self._used: dict[str, datetime] = {}
        self._used_told = self._clock.monotonic()
        self._task: asyncio.Task[None] | None = None

    async def check(self, text: str | None) -> Principal:
        """The principal of a key or token. Raises Denied, or Unavailable when it cannot be known."""
        if not text:
            raise denied()
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
        parsed = self._parsed.get(digest) or parse(text)
        if parsed is None:
            if text.startswith(PREFIX):
                raise denied()
            if self._own is not None and self._own.issued(text):
                return await self._own.check(text)
            if self._tokens is None:
                raise denied()
            return await self._tokens.check(text)
        id, hash = parsed
        cached = self._cached.get(id)
        now = self._clock.monotonic()
        if cached is None or now - cached.confirmed > (UNKNOWN_FOR_S if cached.key is None else GRACE_S):
            await self._look_up(id)
            cached = self._cached.get(id)
        key = cached.key if cached else None
        good = hmac.compare_digest(hash, key.hash if key else _NOBODY)
        if not good or cached is None or cached.principal is None or key is None:
            raise denied()
        at = self._clock.now()
        if not key.valid_at(at):
            raise denied()
        self._used[id] = at
        if digest not in self._parsed:
            if len(self._parsed) >= PARSED:
                self._parsed.clear()
            self._parsed[digest] = parsed
        return cached.principal

    def current(self, principal: Principal) -> Principal:
        """The same one as it is now: a user's roles may have changed."""
        return principal if self._own is None or principal.session is None else self._own.current(principal)

    def watch(
        self, principal: Principal, over: Callable[[], None], *, look: Callable[[], None] | None = None
    ) -> "Watch":
        """Call `over` once when the credential is no longer good (revoked, expired, deleted, not to be
        confirmed for `GRACE_S`; signed with a key that its issuer withdrew; of a session that was ended),
        within a second; until the watch is closed. Until then `look` is called as often, for whoever wants
        to see what it still may."""
        made = Watch(self, principal, over, look)
        self._watched.setdefault(principal, set()).add(made)
        return made

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._keep_fresh(), name="keyring")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            try:
                await self._tell_used()
            except Unavailable:
                _log.warning("when keys were used last is not known of the last seconds")

    async def refresh(self) -> None:
        """Re-read every key that is cached or watched, and tell the watches of what is over. While PostgreSQL
        is away: of what has expired, or could not be confirmed for too long; then raises Unavailable."""
        ids = [id for id, cached in self._cached.items() if cached.key is not None]
        watched = {principal.credential for principal in self._watched if principal.signed_with is None}
        ids += watched - self._cached.keys()
        try:
            if ids:
                found = await self._source.fetch(ids)
                now = self._clock.monotonic()
                for id in ids:
                    self._store(id, found.get(id), now)
        finally:
            self.tell_watches()

    def tell_watches(self) -> None:
        """Tell them what is known to be over now."""
        for principal, watches in tuple(self._watched.items()):
            stands = self._stands(principal)
            for watch in tuple(watches):
                if stands:
                    watch.look()
                else:
                    watch.end()

    def _stands(self, principal: Principal) -> bool:
        if principal.session is not None:
            return self._own is not None and self._own.stands(principal)
        if principal.signed_with is not None:
            return self._tokens is not None and self._tokens.stands(principal)
        cached = self._cached.get(principal.credential)
        if cached is None:
            return True  # looked up at the next refresh
        fresh = self._clock.monotonic() - cached.confirmed <= GRACE_S
        return fresh and cached.key is not None and cached.key.valid_at(self._clock.now())

    def forget(self, watch: "Watch") -> None:
        watches = self._watched.get(watch.principal, set())
        watches.discard(watch)
        if not watches:
            self._watched.pop(watch.principal, None)

    async def _tell_used(self) -> None:
        used, self._used = self._used, {}
        self._used_told = self._clock.monotonic()
        if used:
            try:
                await self._source.used(used)
            except Unavailable:
                self._used = used | self._used
                raise

    async def _look_up(self, id: str) -> None:
        pending = self._pending.get(id)
        if pending is None:
            if len(self._pending) >= LOOKUPS:
                raise Unavailable("too many unknown keys at once", code="keys_unavailable")
            pending = asyncio.get_running_loop().create_task(self._fetch_one(id))
            self._pending[id] = pending
            pending.add_done_callback(lambda _: self._pending.pop(id, None))
        await asyncio.shield(pending)

    async def _fetch_one(self, id: str) -> None:
        found = await self._source.fetch([id])
        self._store(id, found.get(id), self._clock.monotonic())

    def _store(self, id: str, key: Key | None, now: float) -> None:
        before = self._cached.get(id)
        if before is not None and before.key == key and before.principal is not None:
            before.confirmed = now
            return
        principal = Principal(key.tenant, key.id, key.scopes, key.expires_at) if key else None
        self._cached[id] = _Cached(key, principal, now)
        self._cached.move_to_end(id)
        while len(self._cached) > CACHED:
            self._cached.popitem(last=False)

    async def _keep_fresh(self) -> None:
        away = False
        while True:
            await asyncio.sleep(REFRESH_S)
            if self._tokens is not None:
                self._tokens.refresh()
            try:
                await self.refresh()
                if self._clock.monotonic() - self._used_told >= USED_S:
                    await self._tell_used()
                away = False
            except Unavailable:
                if not away:
                    _log.warning("keys cannot be refreshed; cached ones go on working", grace_s=GRACE_S)
                away = True
            except Exception:
                _log.exception("refreshing keys failed")


class Watch:
    """One who wants to know when a credential is over."""

    def __init__(
        self,
        keyring: Keyring,
        principal: Principal,
        over: Callable[[], None],
        look: Callable[[], None] | None,
    ) -> None:
        self.principal = principal
        self._keyring = keyring
        self._over = over
        self._look = look

    def close(self) -> None:
        """Nobody wants to know any more; again is harmless."""
        self._keyring.forget(self)

    def look(self) -> None:
        """The credential is good; what it may can have changed."""
        if self._look is not None:
            self._look()

    def end(self) -> None:
        """The credential is over."""
        self.close()
        self._over()
