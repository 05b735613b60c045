"""The key check at the door: in memory, and never more than a second behind PostgreSQL.

A key seen for the first time is looked up once (concurrent requests share the look-up). From then on a
background loop re-reads every cached key in one statement each `REFRESH_S`, so that no request waits for
it and a revocation is followed within a second. While PostgreSQL is away, a cached key goes on working for
`GRACE_S` after it was last confirmed; then, and for keys not seen before, the answer is 503, not 401.

Everything that is wrong with a key - shape, checksum, id, secret, expiry, revocation - gives the same 401,
and an unknown id costs the same hash comparison as a known one.
"""

import asyncio
import hmac
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import psycopg
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from core.clock import Clock, SystemClock
from core.errors import Denied, Unavailable
from core.telemetry.log import logger
from gateway.keys import COLUMNS, Key, key_of_row, parse
from gateway.principals import Principal

REFRESH_S = 0.5
GRACE_S = 300.0
UNKNOWN_FOR_S = 1.0
CACHED = 10_000
LOOKUPS = 64
_NOBODY = bytes(32)

_log = logger("gateway.keyring")


class KeySource(Protocol):
    """Where keys come from."""

    async def fetch(self, ids: Sequence[str]) -> Mapping[str, Key]:
        """The keys of these ids that exist. Raises Unavailable."""
        ...


class PostgresKeys:
    """The table `api_keys`."""

    def __init__(self, pool: AsyncConnectionPool[Any]) -> None:
        self._pool = pool

    async def fetch(self, ids: Sequence[str]) -> Mapping[str, Key]:
        try:
            async with asyncio.timeout(2.0), self._pool.connection(timeout=1.0) as connection:
                cursor = await connection.execute(
                    f"SELECT {COLUMNS} FROM api_keys WHERE id = ANY(%s)", (list(ids),)
                )
                return {key.id: key for key in map(key_of_row, await cursor.fetchall())}
        except psycopg.errors.UndefinedTable:
            return {}
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
    """Turns the text of a key into a principal. One event loop; not thread-safe."""

    def __init__(
        self,
        source: KeySource,
        *,
        clock: Clock | None = None,
        on_revoked: Callable[[str], None] | None = None,
    ) -> None:
        self._source = source
        self._clock = clock or SystemClock()
        self.on_revoked = on_revoked
        self._cached: OrderedDict[str, _Cached] = OrderedDict()
        self._pending: dict[str, asyncio.Future[None]] = {}
        self._task: asyncio.Task[None] | None = None

    async def check(self, text: str | None) -> Principal:
        """The principal of a key. Raises Denied, or Unavailable when it cannot be known."""
        parsed = parse(text) if text else None
        if parsed is None:
            raise Denied("no valid API key", mend="send `Authorization: Bearer ms_...`")
        id, hash = parsed
        cached = self._cached.get(id)
        now = self._clock.monotonic()
        if cached is None or now - cached.confirmed > (UNKNOWN_FOR_S if cached.key is None else GRACE_S):
            await self._look_up(id)
            cached = self._cached.get(id)
        key = cached.key if cached else None
        good = hmac.compare_digest(hash, key.hash if key else _NOBODY)
        if not good or cached is None or cached.principal is None or key is None:
            raise Denied("no valid API key", mend="send `Authorization: Bearer ms_...`")
        if not key.valid_at(self._clock.now()):
            raise Denied("no valid API key", mend="send `Authorization: Bearer ms_...`")
        return cached.principal

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._keep_fresh(), name="keyring")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def refresh(self) -> None:
        """Re-read every cached key; raises Unavailable and changes nothing while PostgreSQL is away."""
        ids = [id for id, cached in self._cached.items() if cached.key is not None]
        if not ids:
            return
        found = await self._source.fetch(ids)
        now = self._clock.monotonic()
        at = self._clock.now()
        for id in ids:
            key = found.get(id)
            self._store(id, key, now)
            if (key is None or not key.valid_at(at)) and self.on_revoked is not None:
                self.on_revoked(id)

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
            try:
                await self.refresh()
                away = False
            except Unavailable:
                if not away:
                    _log.warning("keys cannot be refreshed; cached ones go on working", grace_s=GRACE_S)
                away = True
            except Exception:
                _log.exception("refreshing keys failed")
