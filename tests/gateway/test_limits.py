"""The limits of callers: whose they are, what they say when they refuse, and how they go on without Redis."""

from datetime import timedelta
from typing import Any

import pytest
import redis.asyncio

from core.clock import ManualClock
from core.errors import RateLimited, TooLarge, UnknownName
from core.settings import Allowance, Gateway, Limits
from core.telemetry.metrics import REGISTRY
from gateway.exchange import Request, Response
from gateway.limits import CallerLimits, Counts, NamedLimit, OverLimit, PublishingLimits, TokenLimits
from gateway.principals import EVENTS_WRITE, FEATURES_READ, Principal
from gateway.routing import Route
from gateway.standing import Policy, Standing
from operators.limits import InMemoryLimiter, Limit
from tests.features.redis_server import own_redis

WIDE = Limit(1_000.0, 1_000)


async def handler(request: Request) -> Response:
    return Response(200)


WRITE = Route("POST", "/events", EVENTS_WRITE, handler)
READ = Route("GET", "/features", FEATURES_READ, handler)
ACME = Principal("acme", "key-1", frozenset())


def named(name: str, limit: Limit, clock: ManualClock) -> NamedLimit:
    return NamedLimit.leased(Policy(name, limit), InMemoryLimiter(limit, clock=clock), clock)


def publishing(limit: Limit, clock: ManualClock) -> PublishingLimits:
    return PublishingLimits(named("events", limit, clock))


def callers(clock: ManualClock, **limits: Limit) -> CallerLimits:
    """Wide limits, but for those given by name: address, key, tenant, write, read."""
    return CallerLimits(
        *(named(name, limits.get(name, WIDE), clock) for name in ("address", "key", "tenant")),
        {
            WRITE.name: named("route", limits.get("write", WIDE), clock),
            READ.name: named("route", limits.get("read", WIDE), clock),
        },
    )


def metric(name: str, **labels: Any) -> float:
    return REGISTRY.get_sample_value(f"millstream_{name}", labels) or 0.0


async def test_a_tenant_and_a_pipeline_have_a_limit_of_their_own() -> None:
    limits = publishing(Limit(1.0, 3), ManualClock())
    await limits.admit("acme", "demand", 3)
    await limits.admit("acme", "fraud", 3)
    await limits.admit("other", "demand", 3)
    await limits.admit("acme|demand", "", 3)
    with pytest.raises(RateLimited):
        await limits.admit("acme", "demand", 1)


async def test_a_refusal_says_when_and_is_counted() -> None:
    clock, before = ManualClock(), metric("gateway_limited_total", limit="events")
    limits = publishing(Limit(4.0, 20), clock)
    assert (await limits.admit("acme", "demand", 5)).left == 15
    await limits.admit("acme", "demand", 15)
    with pytest.raises(OverLimit, match="'demand'") as caught:
        await limits.admit("acme", "demand", 10)
    assert (caught.value.code, caught.value.retry_after_s) == ("rate_limited", pytest.approx(2.5))
    assert "in 3 s" in (caught.value.mend or "")
    assert caught.value.standing.left == 0
    assert metric("gateway_limited_total", limit="events") == before + 1
    clock.advance(timedelta(seconds=2.4))
    with pytest.raises(RateLimited):
        await limits.admit("acme", "demand", 10)
    clock.advance(timedelta(seconds=0.1))
    await limits.admit("acme", "demand", 10)


async def test_a_request_above_the_burst_says_the_limit() -> None:
    limits = publishing(Limit(4.0, 20), ManualClock())
    with pytest.raises(TooLarge, match="21 at once, the limit is 20"):
        await limits.admit("acme", "demand", 21)


async def test_tokens_are_the_tenants() -> None:
    limits = TokenLimits(named("tokens", Limit(1.0, 100), ManualClock()))
    assert (await limits.admit("acme", 60)).left == 40
    with pytest.raises(OverLimit, match="tokens"):
        await limits.admit("acme", 60)
    await limits.admit("other", 60)


async def test_the_narrower_limit_first_so_that_a_runaway_key_leaves_its_tenant_alone() -> None:
    limits = callers(ManualClock(), key=Limit(0.01, 3), tenant=Limit(0.01, 5))
    for _ in range(3):
        await limits.caller(ACME, WRITE)
    for _ in range(10):
        with pytest.raises(OverLimit) as caught:
            await limits.caller(ACME, WRITE)
        assert caught.value.standing.policy.name == "key"
    second = Principal("acme", "key-2", frozenset())
    for _ in range(2):
        await limits.caller(second, READ)
    with pytest.raises(OverLimit) as caught:
        await limits.caller(second, READ)
    assert caught.value.standing.policy.name == "tenant"
    await limits.caller(Principal("other", "key-3", frozenset()), READ)


async def test_a_route_has_its_own_for_each_tenant() -> None:
    limits = callers(ManualClock(), write=Limit(0.01, 1))
    await limits.caller(ACME, WRITE)
    with pytest.raises(OverLimit) as caught:
        await limits.caller(ACME, WRITE)
    assert caught.value.standing.policy.name == "route"
    assert "POST /events" in caught.value.what
    await limits.caller(ACME, READ)
    await limits.caller(Principal("other", "key-1", frozenset()), WRITE)


async def test_the_standing_that_is_nearest_to_its_end_is_told() -> None:
    limits = callers(ManualClock(), key=Limit(10.0, 50), tenant=Limit(100.0, 200))
    for _ in range(20):
        standing = await limits.caller(ACME, WRITE)
    assert standing.headers() == [
        ("ratelimit-policy", '"key";q=50;w=5'),
        ("ratelimit", '"key";r=30;t=2'),
    ]


@pytest.mark.parametrize(
    ("limit", "left", "policy", "told"),
    [
        (Limit(100.0, 200), 200, '"p";q=200;w=2', '"p";r=200;t=0'),
        (Limit(100.0, 200), 0, '"p";q=200;w=2', '"p";r=0;t=2'),
        (Limit(100.0, 1), 0, '"p";q=1;w=1', '"p";r=0;t=1'),
        (Limit(0.01, 2), 1, '"p";q=2;w=200', '"p";r=1;t=100'),
    ],
)
def test_the_fields_are_whole_numbers(limit: Limit, left: int, policy: str, told: str) -> None:
    headers = Standing.of(Policy("p", limit), left).headers()
    assert headers == [("ratelimit-policy", policy), ("ratelimit", told)]


def test_the_defaults_leave_a_full_batch_room() -> None:
    settings = Gateway()
    assert settings.events_burst >= 10 * settings.max_batch_events
    assert settings.events_per_s >= 10_000


@pytest.mark.services
async def test_without_redis_each_gateway_counts_by_itself_and_nothing_fails() -> None:
    with own_redis() as server:
        client = redis.asyncio.Redis(port=server.port)
        clock = ManualClock()
        limits = PublishingLimits.of(Gateway(events_per_s=0.01, events_burst=10), Counts(client, clock))
        before = metric("gateway_limits_local_total", limit="events")
        await limits.admit("acme", "demand", 10)
        with pytest.raises(RateLimited):
            await limits.admit("acme", "demand", 1)
        assert metric("gateway_limits_local_total", limit="events") == before
        server.kill()
        with pytest.raises(RateLimited):
            await limits.admit("acme", "demand", 1)
        for _ in range(10):
            await limits.admit("acme", "fraud", 1)
        with pytest.raises(RateLimited) as caught:
            await limits.admit("acme", "fraud", 1)
        assert caught.value.retry_after_s == pytest.approx(100.0)
        assert metric("gateway_limits_local_total", limit="events") == before + 11
        await client.aclose()


@pytest.mark.services
async def test_gateways_share_the_limits_and_routes_have_their_allowances() -> None:
    with own_redis() as server:
        settings = Limits(
            key=Allowance(per_s=0.01, burst=8), routes={READ.name: Allowance(per_s=0.01, burst=2)}
        )
        clients = [redis.asyncio.Redis(port=server.port) for _ in range(2)]
        one, other = (
            CallerLimits.of(settings, [WRITE, READ], Counts(client, ManualClock())) for client in clients
        )
        await one.caller(ACME, READ)
        await other.caller(ACME, READ)
        with pytest.raises(OverLimit) as caught:
            await one.caller(ACME, READ)
        assert caught.value.standing.policy.name == "route"
        for _ in range(5):
            await other.caller(ACME, WRITE)
        with pytest.raises(OverLimit) as caught:
            await one.caller(ACME, WRITE)
        assert caught.value.standing.policy.name == "key"
        assert (await one.address("10.0.0.1")).left == settings.address.burst - 1
        for client in clients:
            await client.aclose()


def test_an_allowance_for_a_route_that_there_is_not_does_not_start() -> None:
    settings = Limits(routes={"GET /featurs": Allowance(per_s=1.0, burst=2)})
    with pytest.raises(UnknownName, match="GET /featurs") as caught:
        CallerLimits.of(settings, [WRITE, READ], Counts(redis.asyncio.Redis(), ManualClock()))
    assert caught.value.nearest == "GET /features"
