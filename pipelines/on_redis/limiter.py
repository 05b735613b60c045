"""A limit that all gateways share: counted in Redis, by one script, with Redis' own time."""

from datetime import timedelta

import redis.asyncio

from core.clock import Clock
from operators.limits import GRAIN_S, Allowed, Lease, Limit, Refused
from pipelines.on_redis.round_trips import RoundTrips

KEY = "millstream:limit:"

# The steps of `operators.limits`, in microseconds. ARGV: time of one event, events at once, the least and the
# most to take. Answers {taken, how long to wait, how far ahead}. A stored time further ahead than the burst,
# of a clock that was set back or a limit that was lowered, is mended to the burst, so that nobody is locked
# out. The key goes when it says nothing more.
SCRIPT = f"""
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local each, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local least, wanted = tonumber(ARGV[3]), tonumber(ARGV[4])
local function store(ahead)
  local lasts = math.max(math.ceil(ahead / 1000), 1)
  redis.call('SET', KEYS[1], string.format('%.17g', now + ahead), 'PX', lasts)
end
local most = burst * each
local ahead = math.max(tonumber(redis.call('GET', KEYS[1]) or now) - now, 0)
if ahead > most + {GRAIN_S * 1e6:g} then
  ahead = most
  store(ahead)
end
local over = ahead + least * each - most
if over > {GRAIN_S * 1e6:g} then
  return {{0, math.ceil(over), math.ceil(ahead)}}
end
local taken = math.max(math.min(math.floor((most - ahead + {GRAIN_S * 1e6:g}) / each), wanted), least)
ahead = ahead + taken * each
store(ahead)
return {{taken, 0, math.ceil(ahead)}}
"""


class RedisLimiter:
    """See `LeasingLimiter`. Limiters of one `name` on one Redis count together; raises Unavailable when it is
    away.

    The whole script is sent each time (Redis keeps it compiled by its digest): 900 bytes a request, and
    nothing to load again after a failover.
    """

    def __init__(
        self,
        client: "redis.asyncio.Redis",
        limit: Limit,
        *,
        name: str,
        timeout_s: float = 0.5,
        rest_s: float = 0.5,
        clock: Clock | None = None,
        together: RoundTrips | None = None,
    ) -> None:
        """together: the round trips of several limiters, which then learn of an outage from each other."""
        self._limit = limit
        self._prefix = f"{KEY}{name}:"
        self._each = repr(1e6 / limit.rate)
        self._redis = together or RoundTrips(
            client,
            where=f"limiter {name}",
            code="limiter_unavailable",
            timeout_s=timeout_s,
            rest_s=rest_s,
            clock=clock,
        )

    async def take(self, key: str, cost: int = 1) -> Allowed | Refused:
        found = await self.lease(key, cost, cost)
        return Allowed(self._limit.left(found.ahead_s)) if isinstance(found, Lease) else found

    async def lease(self, key: str, least: int, most: int) -> Lease | Refused:
        self._limit.require(least)
        command = ("EVAL", SCRIPT, 1, self._prefix + key, self._each, self._limit.burst, least, most)
        ((taken, wait_us, ahead_us),) = await self._redis.ask([command])
        return Lease(taken, ahead_us / 1e6) if taken else Refused(timedelta(microseconds=wait_us))
