"""Cached answers that all processes share, in Redis."""

from datetime import timedelta

import redis.asyncio

from core.clock import Clock
from pipelines.on_redis.round_trips import RoundTrips

KEY = "millstream:answer:"


class RedisCache:
    """See `operators.cache.SharedCache`. A value goes with its time in Redis; keys hold the tenant."""

    def __init__(
        self,
        client: "redis.asyncio.Redis",
        *,
        name: str,
        timeout_s: float = 0.25,
        rest_s: float = 0.5,
        clock: Clock | None = None,
    ) -> None:
        self._prefix = f"{KEY}{name}:"
        self._redis = RoundTrips(
            client,
            where=f"cache {name}",
            code="cache_unavailable",
            timeout_s=timeout_s,
            rest_s=rest_s,
            clock=clock,
        )

    async def get(self, key: str) -> tuple[bytes, timedelta] | None:
        named = self._prefix + key
        value, left_ms = await self._redis.ask([("GET", named), ("PTTL", named)])
        if value is None or left_ms <= 0:
            return None
        return value, timedelta(milliseconds=left_ms)

    async def put(self, key: str, value: bytes, ttl: timedelta, *, absent_only: bool = False) -> None:
        lasts = max(int(ttl.total_seconds() * 1000), 1)
        condition = ("NX",) if absent_only else ()
        await self._redis.ask([("SET", self._prefix + key, value, "PX", lasts, *condition)])

    async def forget(self, key: str) -> None:
        await self._redis.ask([("DEL", self._prefix + key)])
