"""What a breaker and a limiter cost per call, over the same call without them."""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta

from bench.harness import ROUNDS, BenchResult, Ratio, control, versions
from bench.registry import text
from core.clock import SystemClock
from operators.breaker import Breaker, Breaking, LocalBreaker, guarded
from operators.limits import InMemoryLimiter, Limit

CALLS, BOUND_US = 50_000, 20.0


def bench() -> BenchResult:
    """Ratio `guards_us`: microseconds that both add to a call that goes through."""
    clock = SystemClock()
    breaker = LocalBreaker(Breaker(clock, Breaking(5, timedelta(seconds=30)), name="bench"))
    limiter = InMemoryLimiter(Limit(1e9, 1_000_000_000), clock=clock)

    async def answer() -> None:
        pass

    async def behind_both() -> None:
        await limiter.take("key")
        async with guarded(breaker):
            await answer()

    with asyncio.Runner() as runner:

        def cost(call: Callable[[], Awaitable[None]]) -> float:
            return runner.run(_us(call))

        cost(behind_both)
        rounds = []
        for _ in range(ROUNDS):
            a1, b1 = cost(answer), cost(behind_both)
            b2, a2 = cost(behind_both), cost(answer)
            rounds.append((b1 + b2 - a1 - a2) / 2)
        noise = control(lambda: cost(behind_both))
    meaning = "breaker and limiter in memory: us they add to a call"
    return BenchResult(
        bench="models-guards",
        ratios=[Ratio("guards_us", tuple(rounds), BOUND_US, True, meaning)],
        versions=versions(()),
        sizes={"calls": CALLS},
        control=noise,
    )


async def _us(call: Callable[[], Awaitable[None]]) -> float:
    begun = time.perf_counter()
    for _ in range(CALLS):
        await call()
    return (time.perf_counter() - begun) / CALLS * 1e6


if __name__ == "__main__":
    sys.stdout.write(text(bench()))
