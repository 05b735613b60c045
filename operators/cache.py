"""Cache of answers: in memory, then in a store that processes share, then the one who makes the answer.

Equal questions that come at the same time are answered once (single flight). What was made is stored after
the answer was given, never before. A hit in the shared store fills memory; a hit in memory is given to the
shared store again where it may have lost it. Who asks may want a younger answer than the one that is kept:
`least` is how long it must still be kept for.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, Protocol

from core.clock import Clock
from core.errors import DeclarationError, Unavailable
from core.ids import canonical_json, digest
from core.telemetry.log import logger
from core.telemetry.metrics import counter

Where = Literal["memory", "shared", "joined", "miss"]

_LOG = logger("cache")
_ANSWERS = counter("cache_answers_total", "Answers by where they came from", ("cache", "where"))
_LOST = counter("cache_stores_lost_total", "Stores that the shared store did not take", ("cache",))
ENTRY_BYTES = 256  # of a dictionary entry, its key and two numbers, about
STORE_AFTER_S = 0.002
"""Stores begin so long after the answer was handed over: by then it has left."""
NONE = timedelta(0)


class SharedCache(Protocol):
    """A store of bytes with a time to live, shared by processes."""

    async def get(self, key: str) -> tuple[bytes, timedelta] | None:
        """The value and how long it lives yet. Raises Unavailable."""
        ...

    async def put(self, key: str, value: bytes, ttl: timedelta, *, absent_only: bool = False) -> None:
        """Raises Unavailable."""
        ...

    async def forget(self, key: str) -> None:
        """Raises Unavailable."""
        ...


@dataclass(frozen=True)
class Keeping:
    """`bytes` bounds memory; an answer above `largest` bytes is not kept. The shared store is passed over
    when it takes longer than `wait` to say what it has. After `refill` a hit in memory is offered to it
    again. At most `stores` stores are under way; more are dropped and counted."""

    ttl: timedelta = timedelta(minutes=5)
    bytes: int = 64 * 1024 * 1024
    largest: int = 1024 * 1024
    refill: timedelta = timedelta(seconds=30)
    stores: int = 1_000
    wait: timedelta = timedelta(milliseconds=250)

    def __post_init__(self) -> None:
        if self.ttl <= timedelta(0) or not 0 < self.largest <= self.bytes or self.stores < 1:
            raise DeclarationError(
                f"a cache of {self.bytes} bytes, {self.largest} an answer, for {self.ttl}",
                mend="give a positive time and 0 < largest <= bytes",
            )


@dataclass(frozen=True)
class Cached:
    """`left`: how long it is kept yet; 0 where it is not. `joined`: another call was already making it."""

    value: bytes
    where: Where
    left: timedelta

    @property
    def hit(self) -> bool:
        return self.where in ("memory", "shared")


@dataclass
class _Entry:
    value: bytes
    until: float
    offered_at: float


class ResponseCache:
    """Answers by key (`answer_key`). Belongs to one event loop. `shared` may be away or None: then memory
    alone counts."""

    def __init__(
        self, name: str, keeping: Keeping, *, clock: Clock, shared: SharedCache | None = None
    ) -> None:
        self._name = name
        self._keeping = keeping
        self._clock = clock
        self._shared = shared
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._bytes = 0
        self._flights: dict[str, tuple[asyncio.Task[Cached], list[int]]] = {}
        self._stores: set[asyncio.Task[None]] = set()

    async def get(
        self,
        key: str,
        make: Callable[[], Awaitable[bytes]],
        *,
        keep: Callable[[bytes], bool] = lambda value: True,
        least: timedelta = NONE,
    ) -> Cached:
        """The answer under `key`, made by `make` where there is none; raises what `make` raises, to all who
        wait for it, and keeps nothing then, nor what `keep` refuses. A making that nobody waits for any more
        is cancelled. What is made, by this call or by one that it joins, is young enough."""
        found = self._remembered(key, least)
        while found is None:
            come = await self._join(key, make, keep, least)
            if not come.hit or come.left >= least:
                found = come
        _ANSWERS.labels(self._name, found.where).inc()
        return found

    def remembered(self, key: str, *, least: timedelta = NONE) -> Cached | None:
        """What is kept in memory, at once."""
        found = self._remembered(key, least)
        if found is not None:
            _ANSWERS.labels(self._name, found.where).inc()
        return found

    async def look(self, key: str, *, least: timedelta = NONE) -> Cached | None:
        """What is kept, in memory or in the shared store; nothing is made."""
        found = self._remembered(key, least) or await self._shared_one(key, least)
        if found is not None:
            _ANSWERS.labels(self._name, found.where).inc()
        return found

    async def find(self, key: str) -> bytes | None:
        """What is kept under `key`, if anything; nothing is made."""
        found = await self.look(key)
        return None if found is None else found.value

    def under_way(self, key: str) -> bool:
        """Whether a call of `get` that does not wait in between would join another one."""
        flight = self._flights.get(key)
        return flight is not None and not flight[0].done()

    def put(self, key: str, value: bytes) -> timedelta:
        """Keep an answer that was made elsewhere; the shared store is given it later. How long it is kept."""
        if len(value) > self._keeping.largest:
            return NONE
        entry = self._keep(key, value, self._keeping.ttl)
        self._later(key, entry, absent_only=False)
        return self._keeping.ttl

    async def forget(self, key: str) -> None:
        """Everywhere; a making that is under way still answers those who wait for it, and is kept."""
        self._drop(key)
        if self._shared is not None:
            await self._shared.forget(key)

    async def settled(self) -> None:
        """All stores that were begun are done; for shutting down."""
        while self._stores:
            await asyncio.gather(*self._stores, return_exceptions=True)

    def _remembered(self, key: str, least: timedelta) -> Cached | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        now = self._clock.monotonic()
        if now >= entry.until:
            self._drop(key)
            return None
        left = timedelta(seconds=entry.until - now)
        if left < least:
            return None
        self._entries.move_to_end(key)
        if now - entry.offered_at >= self._keeping.refill.total_seconds():
            entry.offered_at = now
            self._later(key, entry, absent_only=True)
        return Cached(entry.value, "memory", left)

    async def _join(
        self,
        key: str,
        make: Callable[[], Awaitable[bytes]],
        keep: Callable[[bytes], bool],
        least: timedelta,
    ) -> Cached:
        flight = self._flights[key] if self.under_way(key) else None
        joined = flight is not None
        if flight is None:
            task = asyncio.get_running_loop().create_task(
                self._made(key, make, keep, least), name=f"cache {self._name}"
            )
            flight = self._flights[key] = (task, [0])
            task.add_done_callback(lambda ended: self._landed(key, ended))
        task, waiting = flight
        waiting[0] += 1
        try:
            found = await asyncio.shield(task)
        finally:
            waiting[0] -= 1
            if not waiting[0] and not task.done():
                self._landed(key, task)
                task.cancel()
        return Cached(found.value, "joined", found.left) if joined and not found.hit else found

    def _landed(self, key: str, task: "asyncio.Task[Cached]") -> None:
        flight = self._flights.get(key)
        if flight is not None and flight[0] is task:
            del self._flights[key]
        if task.done() and not task.cancelled():
            task.exception()  # it was raised to those who waited

    async def _made(
        self,
        key: str,
        make: Callable[[], Awaitable[bytes]],
        keep: Callable[[bytes], bool],
        least: timedelta,
    ) -> Cached:
        found = await self._shared_one(key, least)
        if found is not None:
            return found
        value = await make()
        return Cached(value, "miss", self.put(key, value) if keep(value) else NONE)

    async def _shared_one(self, key: str, least: timedelta) -> Cached | None:
        if self._shared is None:
            return None
        try:
            async with asyncio.timeout(self._keeping.wait.total_seconds()):
                stored = await self._shared.get(key)
        except (Unavailable, TimeoutError) as error:
            _LOG.debug("the shared cache is passed over", cache=self._name, error=str(error))
            return None
        if stored is None:
            return None
        value, ttl = stored
        if ttl < least:
            return None
        ttl = min(ttl, self._keeping.ttl)
        self._keep(key, value, ttl)
        return Cached(value, "shared", ttl)

    def _keep(self, key: str, value: bytes, ttl: timedelta) -> _Entry:
        self._drop(key)
        now = self._clock.monotonic()
        entry = self._entries[key] = _Entry(value, now + ttl.total_seconds(), now)
        self._bytes += len(value) + ENTRY_BYTES
        while self._bytes > self._keeping.bytes:
            self._drop(next(iter(self._entries)))
        return entry

    def _drop(self, key: str) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._bytes -= len(entry.value) + ENTRY_BYTES

    def _later(self, key: str, entry: _Entry, *, absent_only: bool) -> None:
        if self._shared is None:
            return
        if len(self._stores) >= self._keeping.stores:
            _LOST.labels(self._name).inc()
            return
        store = self._store(self._shared, key, entry, absent_only)
        task = asyncio.get_running_loop().create_task(store, name=f"cache {self._name} store")
        self._stores.add(task)
        task.add_done_callback(self._stores.discard)

    async def _store(self, shared: SharedCache, key: str, entry: _Entry, absent_only: bool) -> None:
        await asyncio.sleep(STORE_AFTER_S)
        left = timedelta(seconds=entry.until - self._clock.monotonic())
        if left <= NONE:
            return
        try:
            await shared.put(key, entry.value, left, absent_only=absent_only)
        except Unavailable as error:
            _LOST.labels(self._name).inc()
            _LOG.debug("the shared cache took no store", cache=self._name, error=error.what)


def answer_key(*, tenant: str, pipeline: str, model_version: str, question: object) -> str:
    """The key of an answer. `question` is JSON as Python values; equal ones have equal keys, whatever the
    order of their fields. Another version of the model has other keys, so a swap forgets nothing."""
    asked = canonical_json([pipeline, model_version, question])
    return f"{tenant}:{digest(asked)}"
