"""Stored positions: how far a named subscription has come, kept for all gateways.

One position per (tenant, name, channel) and partition; it moves forward only, but for a topic that was made
anew. A name that nobody acknowledges under for `ttl` is forgotten.
"""

from datetime import timedelta
from typing import Protocol

import redis.asyncio

from core.clock import Clock, SystemClock
from gateway.push.positions import Position
from pipelines.on_redis.round_trips import RoundTrips
from schemas.keys import entity_of

KEY = "millstream:positions:"
TTL = timedelta(days=7)
# ARGV: partition, epoch, offset, token, time to live in ms. Offsets are compared as numbers below 2^53.
_MOVE = """
local there = redis.call('HGET', KEYS[1], ARGV[1])
if there then
  local epoch, offset = string.match(there, '^(%d+) (%d+) ')
  if epoch == ARGV[2] and tonumber(offset) >= tonumber(ARGV[3]) then return 0 end
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ' ' .. ARGV[3] .. ' ' .. ARGV[4])
redis.call('PEXPIRE', KEYS[1], ARGV[5])
return 1
"""


class StoredPositions(Protocol):
    """Raises Unavailable while the store is away."""

    async def move(self, tenant: str, name: str, channel: str, position: Position, token: str) -> None:
        """Keep a position, unless one that is as far is kept."""
        ...

    async def read(self, tenant: str, name: str, channel: str) -> list[str]:
        """The tokens that are kept, one per partition."""
        ...


class InMemoryPositions:
    """For tests, and for one gateway that needs no more."""

    def __init__(self, *, ttl: timedelta = TTL, clock: Clock | None = None) -> None:
        self._ttl = ttl.total_seconds()
        self._clock = clock or SystemClock()
        self._kept: dict[str, tuple[float, dict[int, tuple[Position, str]]]] = {}

    async def move(self, tenant: str, name: str, channel: str, position: Position, token: str) -> None:
        key, now = entity_of((tenant, name, channel)), self._clock.monotonic()
        held = self._kept.get(key)
        places = held[1] if held is not None and now < held[0] else {}
        there = places.get(position.partition)
        if there is not None and there[0].epoch == position.epoch and there[0].offset >= position.offset:
            return
        places[position.partition] = (position, token)
        self._kept[key] = (now + self._ttl, places)

    async def read(self, tenant: str, name: str, channel: str) -> list[str]:
        held = self._kept.get(entity_of((tenant, name, channel)))
        if held is None or self._clock.monotonic() >= held[0]:
            return []
        return [token for _, token in held[1].values()]


class RedisPositions:
    """A hash per (tenant, name, channel), by partition."""

    def __init__(
        self, client: "redis.asyncio.Redis", *, ttl: timedelta = TTL, clock: Clock | None = None
    ) -> None:
        self._ttl_ms = ttl // timedelta(milliseconds=1)
        self._redis = RoundTrips(client, where="stored positions", code="positions_unavailable", clock=clock)

    async def move(self, tenant: str, name: str, channel: str, position: Position, token: str) -> None:
        key = KEY + entity_of((tenant, name, channel))
        epoch, offset = str(position.epoch), str(position.offset + 1)
        await self._redis.ask(
            [("EVAL", _MOVE, 1, key, str(position.partition), epoch, offset, token, self._ttl_ms)]
        )

    async def read(self, tenant: str, name: str, channel: str) -> list[str]:
        key = KEY + entity_of((tenant, name, channel))
        (found,) = await self._redis.ask([("HVALS", key)])
        return [value.decode().rpartition(" ")[2] for value in found]
