"""How much a tenant may publish: events a second for each pipeline, whatever the path they come in by.

The limit is shared by all gateways through Redis. While Redis is away each gateway counts by itself, from a
full burst on: a tenant may then have as much from each of them, and nobody is refused for the outage. How
often that was so is counted.
"""

import math
from datetime import timedelta

import redis.asyncio

from core.clock import Clock
from core.errors import RateLimited, Unavailable
from core.settings import Gateway
from core.telemetry.metrics import counter
from operators.limits import InMemoryLimiter, Limit, Limiter, Refused
from pipelines.on_redis.limiter import RedisLimiter
from schemas.keys import key_of

_LIMITED = counter("gateway_limited_total", "Requests refused because of a tenant's limit", ["pipeline"])
_LOCAL = counter("gateway_limits_local_total", "Requests counted by this gateway alone: Redis was away")


class PublishingLimits:
    """The limit of the publishing routes. `shared` may be away; `local` never is."""

    def __init__(self, shared: Limiter, local: Limiter) -> None:
        self._shared = shared
        self._local = local

    @classmethod
    def of(cls, settings: Gateway, client: "redis.asyncio.Redis", clock: Clock) -> "PublishingLimits":
        """By the settings `events_per_s` and `events_burst`."""
        limit = Limit(settings.events_per_s, settings.events_burst)
        return cls(RedisLimiter(client, limit, name="events"), InMemoryLimiter(limit, clock=clock))

    async def admit(self, tenant: str, pipeline: str, events: int) -> None:
        """Take `events` from what the tenant may publish to the pipeline, all of them or none.

        Raises RateLimited with the time after which the same would be let through, and TooLarge for more
        events than the burst.
        """
        key = key_of(tenant, pipeline)
        try:
            taken = await self._shared.take(key, events)
        except Unavailable:
            _LOCAL.inc()
            taken = await self._local.take(key, events)
        if isinstance(taken, Refused):
            _LIMITED.labels(pipeline).inc()
            raise RateLimited(
                f"too many events for pipeline {pipeline!r}",
                mend=f"send them again in {_seconds(taken.retry_after)} s, and more slowly from then on",
                retry_after_s=taken.retry_after.total_seconds(),
            )


def _seconds(duration: timedelta) -> int:
    return max(1, math.ceil(duration.total_seconds()))
