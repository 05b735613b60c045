"""The publishing limit: whose it is, what it says when it refuses, and how it goes on without Redis."""

from datetime import timedelta
from typing import Any

import pytest
import redis.asyncio

from core.clock import ManualClock
from core.errors import RateLimited, TooLarge
from core.settings import Gateway
from core.telemetry.metrics import REGISTRY
from gateway.limits import PublishingLimits
from operators.limits import InMemoryLimiter, Limit
from tests.features.redis_server import own_redis


def in_memory(limit: Limit, clock: ManualClock) -> PublishingLimits:
    return PublishingLimits(*(InMemoryLimiter(limit, clock=clock) for _ in range(2)))


def metric(name: str, **labels: Any) -> float:
    return REGISTRY.get_sample_value(f"millstream_{name}", labels) or 0.0


async def test_a_tenant_and_a_pipeline_have_a_limit_of_their_own() -> None:
    limits = in_memory(Limit(1.0, 3), ManualClock())
    await limits.admit("acme", "demand", 3)
    await limits.admit("acme", "fraud", 3)
    await limits.admit("other", "demand", 3)
    await limits.admit("acme|demand", "", 3)
    with pytest.raises(RateLimited):
        await limits.admit("acme", "demand", 1)


async def test_a_refusal_says_when_and_is_counted() -> None:
    clock, before = ManualClock(), metric("gateway_limited_total", pipeline="demand")
    limits = in_memory(Limit(4.0, 20), clock)
    await limits.admit("acme", "demand", 20)
    with pytest.raises(RateLimited, match="'demand'") as caught:
        await limits.admit("acme", "demand", 10)
    assert (caught.value.code, caught.value.retry_after_s) == ("rate_limited", pytest.approx(2.5))
    assert "in 3 s" in (caught.value.mend or "")
    assert metric("gateway_limited_total", pipeline="demand") == before + 1
    clock.advance(timedelta(seconds=2.4))
    with pytest.raises(RateLimited):
        await limits.admit("acme", "demand", 10)
    clock.advance(timedelta(seconds=0.1))
    await limits.admit("acme", "demand", 10)


async def test_a_request_above_the_burst_says_the_limit() -> None:
    limits = in_memory(Limit(4.0, 20), ManualClock())
    with pytest.raises(TooLarge, match="21 at once, the limit is 20"):
        await limits.admit("acme", "demand", 21)


def test_the_defaults_leave_a_full_batch_room() -> None:
    settings = Gateway()
    assert settings.events_burst >= 10 * settings.max_batch_events
    assert settings.events_per_s >= 10_000


@pytest.mark.services
async def test_without_redis_each_gateway_counts_by_itself_and_nothing_fails() -> None:
    with own_redis() as server:
        client = redis.asyncio.Redis(port=server.port)
        clock = ManualClock()
        limits = PublishingLimits.of(Gateway(events_per_s=0.01, events_burst=10), client, clock)
        before = metric("gateway_limits_local_total")
        await limits.admit("acme", "demand", 10)
        with pytest.raises(RateLimited):
            await limits.admit("acme", "demand", 1)
        assert metric("gateway_limits_local_total") == before
        server.kill()
        for _ in range(10):
            await limits.admit("acme", "demand", 1)
        with pytest.raises(RateLimited) as caught:
            await limits.admit("acme", "demand", 1)
        assert caught.value.retry_after_s == pytest.approx(100.0)
        assert metric("gateway_limits_local_total") == before + 11
        await client.aclose()
