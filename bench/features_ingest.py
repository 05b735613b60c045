"""Latency of `POST /events`: user events of the demand stream, one a request, at a steady rate.

The gateway runs elsewhere, in a process of its own.
"""

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from bench.open_loop import steadily
from core.errors import InternalError
from core.ids import new_id
from gateway.client import GatewayClient
from jobs.sources.demand import user_events
from jobs.sources.generated_baskets import generate

RATE = 200.0
SECONDS = 30.0
WARM_UP_S = 10.0  # a broker that has just been started answers slowly for some seconds
_BASKETS = 4_000
_WIRED = ("user_id", "region", "kind")


@dataclass(frozen=True)
class Sent:
    """One request, in seconds: how late it was sent, and from sending to the whole answer."""

    late: float
    took: float


async def ingest_figures(
    url: str, key: str, *, rate: float = RATE, seconds: float = SECONDS
) -> dict[str, float]:
    """p50, p99 and largest latency in ms of `seconds` at `rate` a second, after a warm-up of 10 s; and how
    late the requests were sent at the 99th percentile, which tells a busy machine from a slow gateway.

    Raises InternalError when an event is not accepted: figures of refusals say nothing.
    """
    count = int(rate * (WARM_UP_S + seconds))
    async with GatewayClient(url, key, connections=256) as client:
        sent = await _send(client, count, rate)
    measured = sent[int(rate * WARM_UP_S) :]
    took = np.array([one.took for one in measured]) * 1e3
    late = np.array([one.late for one in measured]) * 1e3
    return {
        f"POST /events at {rate:g}/s: p50 ms (goal 10)": float(np.quantile(took, 0.5)),
        f"POST /events at {rate:g}/s: p99 ms (goal 100)": float(np.quantile(took, 0.99)),
        f"POST /events at {rate:g}/s: max ms": float(took.max()),
        f"POST /events at {rate:g}/s: sent late, p99 ms": float(np.quantile(late, 0.99)),
    }


async def _send(client: GatewayClient, count: int, rate: float) -> list[Sent]:
    events = user_event_bodies()

    async def one(number: int, due: float) -> Sent:
        event = next(events) | {"occurred_at": datetime.now(UTC)}
        begun = time.perf_counter()
        (outcome,) = (await client.ingest([event])).outcomes
        ended = time.perf_counter()
        if not outcome.ok:
            raise InternalError(f"POST /events answered {outcome.status}", where=str(outcome.problem)[:300])
        return Sent(begun - due, ended - begun)

    return await steadily(one, rate=rate, count=count)


def user_event_bodies() -> Iterator[dict[str, Any]]:
    """Generated demand, again and again, as bodies without a time; ids of this run."""
    rows = user_events(generate(_BASKETS)).select(_WIRED).to_pylist()
    run = new_id()
    for number, row in enumerate(itertools.cycle(rows)):
        yield {**row, "id": f"{run}-{number}"}
