"""Breaker: what fails again and again is left alone, asked again when it is well; the rest costs nothing."""

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta

import httpx
import pytest
import redis.asyncio

from core.clock import SystemClock
from core.errors import CircuitOpen
from core.ids import new_id
from gateway.circuits import BREAKING
from operators.breaker import Breaker, Breaking, CircuitBreaker, LocalBreaker, guarded
from pipelines.on_redis.breaker import RedisBreaker
from tests.integration.levels.measuring import Measure, expecting
from tests.integration.scenario import Deployed
from tests.integration.test_asking import INFER
from tests.integration.test_requests import payment

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]
CALLS = 1_000


@contextmanager
def frozen(deployed: Deployed, unit: str) -> Iterator[None]:
    """A process that is there and does not answer: the worst of failures."""
    pid = deployed.stack.unit(unit).pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def asked(client: httpx.Client, *statuses: int) -> httpx.Response:
    fresh = {"idempotency-key": new_id(), "cache-control": "no-cache"}
    return client.post(INFER, json=payment(), headers=fresh, **expecting(*statuses))


def test_the_circuit_opens_refuses_at_once_and_closes_again(
    deployed: Deployed, client: httpx.Client, measure: Measure, tenant: str
) -> None:
    assert asked(client, 200).status_code == 200
    with measure.client(deployed.url, deployed.key(f"{tenant}-2")) as other:
        with frozen(deployed, "fraud-answering"), ThreadPoolExecutor(BREAKING.failures) as pool:
            slow = list(pool.map(lambda _: asked(client, 503, 504).status_code, range(BREAKING.failures)))
            assert set(slow) <= {503, 504}
            for _ in range(20):
                with measure.timed("refused by an open circuit"):
                    refused = asked(client, 503)
                assert refused.json()["code"] == "circuit_open"
                assert int(refused.headers["retry-after"]) >= 1
            everything_else = client.get("/api/v1/features/card_activity/nobody", **expecting(200))
            assert everything_else.status_code == 200
        deadline = time.monotonic() + 60
        while asked(client, 200, 503, 504).status_code != 200:
            assert time.monotonic() < deadline, "the circuit does not close"
            time.sleep(0.05)
        assert asked(other, 200).status_code == 200


@pytest.mark.parametrize("kind", ["of a process", "shared"])
async def test_a_closed_circuit_costs_next_to_nothing(
    deployed: Deployed, measure: Measure, kind: str
) -> None:
    """What is added to each call: asking before it, and telling after it."""
    breaking, clock = Breaking(failures=5, open_for=timedelta(seconds=5)), SystemClock()
    client = redis.asyncio.Redis.from_url(deployed.settings.redis.address)
    try:
        name = f"levels-{new_id()}"
        breaker: CircuitBreaker = (
            RedisBreaker(client, breaking, name=name)
            if kind == "shared"
            else LocalBreaker(Breaker(clock, breaking, name=name))
        )
        await breaker.succeeded(await breaker.admit())  # connected
        for _ in range(CALLS):
            with measure.timed("breaker overhead"):
                ticket = await breaker.admit()
                await breaker.succeeded(ticket)
        for _ in range(breaking.failures):
            with pytest.raises(RuntimeError, match="the dependency"):
                async with guarded(breaker):
                    raise RuntimeError("the dependency is ill")
        with pytest.raises(CircuitOpen):
            await breaker.admit()
    finally:
        await client.aclose()
