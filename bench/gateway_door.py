"""The door: what the check of a key and the limits of a request take, and `/livez` beside a full load.

Keys and limits are measured in this process, by the very objects that a gateway has, on a PostgreSQL and a
Redis of the benchmark's own: a key that is known, keys that are seen for the first time (the look-up in
PostgreSQL included), and all five limits of one request (address, key, route, tenant, events), whose blocks
are leased from Redis. `/livez` is asked 100 times a second while 64 callers publish as fast as they are
answered, always on a connection that waits for no answer. Its times are from when it was sent: before that
the generator, not the gateway, waits for one of the cores. How late it was sent is told, and the times from
when it was due.

    python -m bench.gateway_door
"""

import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, ExitStack

import psycopg_pool
import redis.asyncio
import uvloop

from bench.gateway_goals import reached
from bench.gateway_payments import EVENTS, bodies, posts
from bench.harness import ROUNDS, BenchResult, require_equal, versions
from bench.http_load import Specification, UnderWay, apart
from bench.own_services import job, own_services
from bench.registry import text
from core.clock import SystemClock
from core.settings import Settings
from gateway.exchange import Request, Response
from gateway.keyring import Keyring, PostgresKeys
from gateway.keys import create_key
from gateway.limits import CallerLimits, Counts, PublishingLimits
from gateway.principals import EVENTS_WRITE, SCOPES, Principal
from gateway.routing import Route
from pipelines.changes import apply
from pipelines.load import load_scoring

CALLERS, LOAD_S, LIVEZ_RATE, LIVEZ_CONNECTIONS = 64, 10.0, 100.0, 16
CHECKS, KEYS, TAKINGS = 5_000, 200, 5_000
TENANT = "bench"
_ROUTE = "/api/v1/pipelines/{pipeline}/events"


def bench(load_s: float = LOAD_S, rounds: int = ROUNDS) -> BenchResult:
    """Ratios `key_cached_us`, `key_uncached_us`, `limiter_us`, `livez_p99_ms`."""
    with ExitStack() as exits:
        given = exits.enter_context(own_services()).settings
        apply([load_scoring("fraud")], given)
        keys = [create_key(given, TENANT, name=f"bench {number}") for number in range(KEYS)]
        cached, uncached = uvloop.run(_keys(given, keys, rounds))
        limiters = uvloop.run(_limits(given, rounds))
        gateway = exits.enter_context(job("gateway", "--pipeline", "fraud"))
        livez = [b"GET /livez HTTP/1.1\r\nHost: bench\r\n\r\n"]
        asked = Specification(gateway.port, LIVEZ_CONNECTIONS, load_s - 2, 200, rate=LIVEZ_RATE)
        quiet = apart(livez, Specification(gateway.port, LIVEZ_CONNECTIONS, 2.0, 200, rate=LIVEZ_RATE))
        published, middles, highs, dues, lates = [], [], [], [], []
        for _ in range(rounds):
            full = Specification(gateway.port, CALLERS, load_s, 202)
            with UnderWay(posts(gateway.port, EVENTS, keys[0], bodies(500)), full) as load:
                found = apart(livez, asked)
                published.append(load.ended().per_s)
            middles.append(found.p50_ms)
            highs.append(found.sent_p99_ms)
            dues.append(found.p99_ms)
            lates.append(found.late_p99_ms)
    return BenchResult(
        bench="gateway-door",
        ratios=[
            reached("key_cached_us", cached), reached("key_uncached_us", uncached),
            reached("limiter_us", limiters), reached("livez_p99_ms", highs),
        ],
        versions=versions(("httptools", "psycopg", "redis", "hiredis")),
        sizes={"checks": CHECKS, "keys": KEYS, "takings": TAKINGS, "callers who publish": CALLERS},
        figures={
            "beside /livez, published: requests/s": statistics.median(published),
            "/livez beside them: p50 ms": statistics.median(middles),
            "/livez beside them, sent late: p99 ms": statistics.median(lates),
            "/livez beside them, from when it was due: p99 ms": statistics.median(dues),
            "/livez of a quiet gateway: p99 ms": quiet.sent_p99_ms,
        },
    )  # fmt: skip


async def _keys(given: Settings, keys: Sequence[str], rounds: int) -> tuple[list[float], list[float]]:
    """Medians of each round: a key that is known, keys that are not."""
    async with AsyncExitStack() as exits:
        pool = psycopg_pool.AsyncConnectionPool(
            given.postgres.address, min_size=1, max_size=8, open=False, kwargs={"autocommit": True}
        )
        await pool.open(wait=True)
        exits.push_async_callback(pool.close)
        cached, uncached = [], []
        for _ in range(rounds):
            keyring = Keyring(PostgresKeys(pool))
            uncached.append(await _median_us(lambda n, ring=keyring: ring.check(keys[n]), KEYS))  # type: ignore[misc]
            cached.append(await _median_us(lambda n, ring=keyring: ring.check(keys[0]), CHECKS))  # type: ignore[misc]
            require_equal("the tenant of a key", (await keyring.check(keys[0])).tenant, TENANT)
        return cached, uncached


async def _limits(given: Settings, rounds: int) -> list[float]:
    """Medians of each round of all that is counted for one event that is published."""
    clock = SystemClock()
    async with redis.asyncio.Redis.from_url(given.redis.address) as client:
        counts = Counts(client, clock)
        route = Route("POST", _ROUTE, EVENTS_WRITE, _nothing)
        callers = CallerLimits.of(given.limits, [route], counts)
        events = PublishingLimits.of(given.gateway, counts)
        principal = Principal(TENANT, "bench", SCOPES)

        async def taken(_: int) -> None:
            await callers.address("127.0.0.1")
            await callers.caller(principal, route)
            await events.admit(TENANT, "fraud", 1)

        return [await _median_us(taken, TAKINGS) for _ in range(rounds)]


async def _nothing(request: Request) -> Response:
    return Response(200)


async def _median_us(call: Callable[[int], Awaitable[object]], count: int) -> float:
    took = []
    for number in range(count):
        begun = time.perf_counter()
        await call(number)
        took.append(time.perf_counter() - begun)
    return statistics.median(took) * 1e6


if __name__ == "__main__":
    sys.stdout.write(text(bench()))
