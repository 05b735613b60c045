"""How much may be asked for, and how callers are told: each limit by its name, counted by all gateways.

    address   requests from one client address, before anything is known of who it is
    key       requests with one key
    route     requests of one tenant on one route; each route may have an allowance of its own
    tenant    requests of one tenant
    events    events that a tenant publishes to, or asks of, one pipeline, whatever the path they come in by
    tokens    tokens that a tenant asks language models for (`max_tokens`, whatever comes of it)

They are counted in Redis and spent from leased blocks (`operators.leases`, which says by how much a limit can
be overshot). While Redis is away each gateway counts by itself, from a full burst on: a caller may then have
as much from each of them, and nobody is refused for the outage. How often that was so is counted.
"""

import math
from collections.abc import Awaitable, Iterable
from datetime import timedelta
from operator import attrgetter

import redis.asyncio

from core.clock import Clock
from core.errors import RateLimited, UnknownName
from core.settings import Allowance, Gateway, Limits
from core.telemetry.metrics import counter
from gateway.principals import Principal
from gateway.routing import Route
from gateway.standing import Policy, Standing
from operators.leases import LeasedLimiter
from operators.limits import InMemoryLimiter, LeasingLimiter, Limit, Limiter, Refused
from pipelines.on_redis.limiter import RedisLimiter
from pipelines.on_redis.round_trips import RoundTrips
from schemas.keys import key_of

_LIMITED = counter("gateway_limited_total", "Requests refused because of a limit", ["limit"])
_LOCAL = counter(
    "gateway_limits_local_total", "Takings counted by this gateway alone: Redis was away", ["limit"]
)


class OverLimit(RateLimited):
    """A limit's refusal; `standing` is what the caller has left, nothing."""

    def __init__(self, what: str, standing: Standing, retry_after: timedelta) -> None:
        wait_s = retry_after.total_seconds()
        super().__init__(
            what,
            mend=f"send it again in {max(1, math.ceil(wait_s))} s, and more slowly from then on",
            retry_after_s=wait_s,
        )
        self.standing = standing


class Counts:
    """Where limits are counted: Redis. One outage is found out once, for all of them."""

    def __init__(self, client: "redis.asyncio.Redis", clock: Clock) -> None:
        self._client = client
        self._clock = clock
        self._together = RoundTrips(
            client, where="limits", code="limiter_unavailable", timeout_s=0.25, clock=clock
        )

    def named(self, name: str, allowance: Allowance, *, where: str = "") -> "NamedLimit":
        """A limit that is counted under its name, and under `where` it holds."""
        limit = Limit(allowance.per_s, allowance.burst)
        shared = RedisLimiter(self._client, limit, name=f"{name}{where}", together=self._together)
        return NamedLimit.leased(Policy(name, limit), shared, self._clock)


class NamedLimit:
    """One limit under its name, for many keys."""

    def __init__(self, policy: Policy, limiter: Limiter) -> None:
        self.policy = policy
        self._limiter = limiter

    @classmethod
    def leased(cls, policy: Policy, shared: LeasingLimiter, clock: Clock) -> "NamedLimit":
        """Leased from `shared`, and counted in this process while that is away."""
        alone = InMemoryLimiter(policy.limit, clock=clock)
        count = _LOCAL.labels(policy.name).inc
        return cls(policy, LeasedLimiter(shared, alone, policy.limit, clock=clock, on_alone=count))

    async def take(self, key: str, cost: int, what: str) -> Standing:
        """Take all of `cost` or nothing. Raises OverLimit saying `what` there are too many of, with the time
        after which the same would be let through, and TooLarge for more than the burst."""
        taken = await self._limiter.take(key, cost)
        if isinstance(taken, Refused):
            _LIMITED.labels(self.policy.name).inc()
            raise OverLimit(f"too many {what}", Standing.of(self.policy, 0), taken.retry_after)
        return Standing.of(self.policy, taken.left)


class CallerLimits:
    """The limits of requests, whatever they ask for."""

    def __init__(
        self, address: NamedLimit, key: NamedLimit, tenant: NamedLimit, routes: dict[str, NamedLimit]
    ) -> None:
        self._address = address
        self._key = key
        self._tenant = tenant
        self._routes = routes

    @classmethod
    def of(cls, settings: Limits, routes: Iterable[Route], counts: Counts) -> "CallerLimits":
        """By the settings. Raises UnknownName for an allowance of a route that there is not."""
        names = [route.name for route in routes]
        for name in settings.routes:
            if name not in names:
                raise UnknownName("route", name, names, where="settings limits.routes")
        of_routes = {
            name: counts.named("route", settings.routes.get(name, settings.route), where=f" {name}")
            for name in names
        }
        address, key, tenant = (
            counts.named(name, allowance)
            for name, allowance in (
                ("address", settings.address), ("key", settings.key), ("tenant", settings.tenant)
            )
        )  # fmt: skip
        return cls(address, key, tenant, of_routes)

    def address(self, address: str) -> Awaitable[Standing]:
        """One request from a client's address. Raises OverLimit."""
        return self._address.take(address, 1, "requests from this address")

    async def caller(self, principal: Principal, route: Route) -> Standing:
        """One request of a caller; the standing that is nearest to its end. Raises OverLimit.

        The narrower limit first: what it refuses is not taken from the wider one, so that one runaway key
        does not use up what its tenant has.
        """
        tenant = principal.tenant
        key = await self._key.take(key_of(tenant, principal.credential), 1, "requests with this key")
        of_route = await self._routes[route.name].take(tenant, 1, f"requests on {route.name}")
        of_tenant = await self._tenant.take(tenant, 1, "requests of this tenant")
        return min(key, of_route, of_tenant, key=attrgetter("share"))


class PublishingLimits:
    """The limit of events, for each tenant and pipeline."""

    def __init__(self, events: NamedLimit) -> None:
        self._events = events

    @classmethod
    def of(cls, settings: Gateway, counts: Counts) -> "PublishingLimits":
        """By the settings `events_per_s` and `events_burst`."""
        allowance = Allowance(per_s=settings.events_per_s, burst=settings.events_burst)
        return cls(counts.named("events", allowance))

    def admit(self, tenant: str, pipeline: str, events: int) -> Awaitable[Standing]:
        """Take `events` from what the tenant may publish to the pipeline, all of them or none.

        Raises OverLimit with the time after which the same would be let through, and TooLarge for more
        events than the burst.
        """
        return self._events.take(key_of(tenant, pipeline), events, f"events for pipeline {pipeline!r}")


class TokenLimits:
    """The limit of tokens, for each tenant."""

    def __init__(self, tokens: NamedLimit) -> None:
        self._tokens = tokens

    @classmethod
    def of(cls, settings: Limits, counts: Counts) -> "TokenLimits":
        return cls(counts.named("tokens", settings.tokens))

    def admit(self, tenant: str, tokens: int) -> Awaitable[Standing]:
        """Take the `tokens` that a question may have for its answer. Raises OverLimit, TooLarge."""
        return self._tokens.take(tenant, tokens, "tokens asked for")
