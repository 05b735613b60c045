"""The memory of accepted events: what makes a repeated POST give the same 202, and another body a 409.

The protocol (reserve, produce, mark): `reserve` writes (tenant, pipeline, id) as pending with the digest of
the body, unless it is there already, and returns what was there; after Kafka acknowledged, `mark` makes it
accepted. A pending one with the same digest is produced again: whoever reserved it may have died before.
While the store is away nothing is promised about 409; the first record per id wins downstream.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Protocol

import msgspec

from core.clock import Clock, SystemClock
from pipelines.on_redis.round_trips import Command, TimedValues
from schemas.keys import entity_of

KEY = "millstream:accepted:"


def acceptance_key(tenant: str, pipeline: str, id: str) -> str:
    """One id may be an event of several pipelines: each is an event of its own."""
    return KEY + entity_of((tenant, pipeline, id))


class Acceptance(msgspec.Struct, frozen=True, array_like=True):
    """One event as the gateway took it. `digest` is that of its content, times are milliseconds since the
    epoch."""

    digest: bytes
    pipeline: str
    entity: str
    occurred_at_ms: int
    received_at_ms: int
    accepted: bool = False

    def as_accepted(self) -> "Acceptance":
        return self if self.accepted else msgspec.structs.replace(self, accepted=True)


class AcceptanceStore(Protocol):
    """By tenant, pipeline and id. Every method raises Unavailable while the store is away."""

    async def reserve(self, tenant: str, events: Sequence[tuple[str, Acceptance]]) -> list[Acceptance | None]:
        """Write each (id, pending) where nothing is yet; for each what was there before, None if nothing."""
        ...

    async def mark(self, tenant: str, events: Mapping[str, Acceptance], *, reserved: bool) -> None:
        """Write as accepted. Unless they were `reserved`, an id that is there already is left alone."""
        ...

    async def get(self, tenant: str, pipeline: str, id: str) -> Acceptance | None: ...


class InMemoryAcceptance:
    """For tests, and for one process that needs no more: the newest `limit` ids, each for `ttl`."""

    def __init__(self, *, ttl: timedelta, limit: int = 100_000, clock: Clock | None = None) -> None:
        self._ttl = ttl.total_seconds()
        self._limit = limit
        self._clock = clock or SystemClock()
        self._held: OrderedDict[str, tuple[float, Acceptance]] = OrderedDict()

    async def reserve(self, tenant: str, events: Sequence[tuple[str, Acceptance]]) -> list[Acceptance | None]:
        found = []
        for id, acceptance in events:
            there = self.peek(tenant, acceptance.pipeline, id)
            found.append(there)
            if there is None:
                self.put(tenant, id, acceptance)
        return found

    async def mark(self, tenant: str, events: Mapping[str, Acceptance], *, reserved: bool) -> None:
        for id, acceptance in events.items():
            if reserved or self.peek(tenant, acceptance.pipeline, id) is None:
                self.put(tenant, id, acceptance.as_accepted())

    async def get(self, tenant: str, pipeline: str, id: str) -> Acceptance | None:
        return self.peek(tenant, pipeline, id)

    def peek(self, tenant: str, pipeline: str, id: str) -> Acceptance | None:
        """`get`, without waiting."""
        held = self._held.get(acceptance_key(tenant, pipeline, id))
        if held is None or self._clock.monotonic() >= held[0]:
            return None
        return held[1]

    def put(self, tenant: str, id: str, acceptance: Acceptance) -> None:
        key = acceptance_key(tenant, acceptance.pipeline, id)
        self._held[key] = (self._clock.monotonic() + self._ttl, acceptance)
        self._held.move_to_end(key)
        while len(self._held) > self._limit:
            self._held.popitem(last=False)


class RedisAcceptance(TimedValues):
    """One Redis value per (tenant, pipeline, id), with a time to live.

    `SET NX`, and for those that were there already a `GET` after it, instead of one script: it works on every
    server from Redis 6 and over a cluster's slots, what is new costs one command, and the `GET` sees
    whichever `SET NX` won. One that went between the two, its time over, counts as new.
    `RoundTrips` says how the commands of many requests travel, and what an outage costs.
    """

    where = "acceptance store"
    code = "acceptance_unavailable"
    _decode = staticmethod(msgspec.msgpack.Decoder(Acceptance).decode)

    async def reserve(self, tenant: str, events: Sequence[tuple[str, Acceptance]]) -> list[Acceptance | None]:
        keys = [acceptance_key(tenant, acceptance.pipeline, id) for id, acceptance in events]
        written = await self._redis.ask(
            [
                ("SET", key, self._encode(acceptance), "PX", self._ttl_ms, "NX")
                for key, (_, acceptance) in zip(keys, events, strict=True)
            ]
        )
        found: list[Acceptance | None] = [None] * len(keys)
        there = [index for index, was_set in enumerate(written) if not was_set]
        if there:
            values = await self._redis.ask([("GET", keys[index]) for index in there])
            for index, value in zip(there, values, strict=True):
                found[index] = None if value is None else self._decode(value)
        return found

    async def mark(self, tenant: str, events: Mapping[str, Acceptance], *, reserved: bool) -> None:
        commands: list[Command] = []
        for id, acceptance in events.items():
            value = self._encode(acceptance.as_accepted())
            key = acceptance_key(tenant, acceptance.pipeline, id)
            command: Command = ("SET", key, value, "PX", self._ttl_ms)
            commands.append(command if reserved else (*command, "NX"))
        await self._redis.ask(commands)

    async def get(self, tenant: str, pipeline: str, id: str) -> Acceptance | None:
        value = (await self._redis.ask([("GET", acceptance_key(tenant, pipeline, id))]))[0]
        return None if value is None else self._decode(value)
