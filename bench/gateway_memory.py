"""Memory of a gateway under full load, with clients that come and go.

For the whole time 32 callers publish and 8 ask an echo worker, as fast as they are answered and each on a new
connection after some requests; 500 results a second are pushed to 30 sockets, which follow them for a second
or two each before another takes their place: half of them close, half are cut. Before that, what is
remembered up to a bound is filled: ids of events, results that were pushed. Resident memory is read each
second.

    python -m bench.gateway_memory [SECONDS]      600 where nothing is said; a run of all takes 120
"""

import asyncio
import json
import random
import statistics
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field

import aiohttp
import httpx
import psutil
import uvloop

from bench.gateway_ask import ANEW
from bench.gateway_goals import reached
from bench.gateway_payments import EVENTS, INFER, bodies, posts
from bench.gateway_push import TENANT, Results
from bench.harness import BenchResult, versions
from bench.http_load import Specification, UnderWay
from bench.own_services import Running, echo, job, own_services
from bench.registry import text
from core.errors import InternalError
from core.settings import LOOPBACK
from gateway.keys import create_key
from gateway.push.frames import SUBPROTOCOL
from pipelines.changes import apply
from pipelines.load import load_scoring

SECONDS, WHOLE_S = 120.0, 600.0
PUBLISHERS, ASKERS, SOCKETS, RESULTS_PER_S = 32, 8, 30, 500.0
FILLED_EVENTS, FILLED_RESULTS, FILL_PER_S, BATCH = 110_000, 210_000, 6_000.0, 1_000


@dataclass
class Seen:
    """Resident bytes of each second, how many sockets there were, and what went wrong with them."""

    resident: list[int] = field(default_factory=list)
    sockets: int = 0
    failures: int = 0


def bench(seconds: float = SECONDS) -> BenchResult:
    """Ratio `memory_growth`."""
    with ExitStack() as exits:
        given, plan = exits.enter_context(own_services()).settings, load_scoring("fraud")
        apply([plan], given)
        exits.enter_context(echo(plan.pipeline))
        gateway = exits.enter_context(job("gateway", "--pipeline", "fraud"))
        key, results = create_key(given, TENANT), Results(given, plan)
        at_first = psutil.Process(gateway.pid).memory_info().rss
        _fill(gateway.port, key, results)
        sent = bodies(500)
        publishing = Specification(gateway.port, PUBLISHERS, seconds, 202, reuse=200)
        asking = Specification(gateway.port, ASKERS, seconds, 200, reuse=50)
        with (
            UnderWay(posts(gateway.port, EVENTS, key, sent), publishing) as publishers,
            UnderWay(posts(gateway.port, INFER, key, sent, *ANEW), asking) as askers,
        ):
            seen = uvloop.run(_watched(gateway, key, results, seconds))
            published, asked = publishers.ended(), askers.ended()
    if seen.failures:
        raise InternalError(f"{seen.failures} of {seen.sockets} sockets failed")
    share = max(len(seen.resident) // 6, 1)
    before = statistics.median(seen.resident[share * 2 : share * 3])
    after = statistics.median(seen.resident[-share:])
    return BenchResult(
        bench="gateway-memory",
        ratios=[reached("memory_growth", [after / before])],
        versions=versions(("httptools", "confluent-kafka", "redis")),
        sizes={
            "seconds": seconds, "callers who publish": PUBLISHERS, "who ask": ASKERS, "sockets": SOCKETS,
            "results a second": RESULTS_PER_S,
        },
        figures={
            "resident when ready: MB": at_first / 1e6,
            "resident after a third: MB": before / 1e6,
            "resident at the end: MB": after / 1e6,
            "highest: MB": max(seen.resident) / 1e6,
            "published": published.count,
            "asked": asked.count,
            "sockets that came and went": seen.sockets,
        },
    )  # fmt: skip


def _fill(port: int, key: str, results: Results) -> None:
    """What is bounded is full: memory grows no more for that."""
    results.push(FILL_PER_S, FILLED_RESULTS / FILL_PER_S)
    headers = {"authorization": f"Bearer {key}"}
    (body,) = bodies(1, ids=["one"])
    event = json.loads(body)
    with httpx.Client(base_url=f"http://{LOOPBACK}:{port}", headers=headers, timeout=60) as client:
        for first in range(0, FILLED_EVENTS, BATCH):
            batch = [event | {"id": f"fill-{first + number}"} for number in range(BATCH)]
            while client.post(EVENTS, json=batch).status_code != 202:
                pass  # over the limit for a moment, or too much at once


async def _watched(gateway: Running, key: str, results: Results, seconds: float) -> Seen:
    seen, loop = Seen(), asyncio.get_running_loop()
    until = loop.time() + seconds
    process = psutil.Process(gateway.pid)
    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:
        for number in range(SOCKETS):
            group.create_task(_client(session, gateway.port, key, random.Random(number), until, seen))
        group.create_task(asyncio.to_thread(results.push, RESULTS_PER_S, seconds))
        while loop.time() < until:
            seen.resident.append(process.memory_info().rss)
            await asyncio.sleep(1.0)
    return seen


async def _client(
    session: aiohttp.ClientSession, port: int, key: str, dice: random.Random, until: float, seen: Seen
) -> None:
    """Sockets, one after the other."""
    loop = asyncio.get_running_loop()
    address = f"ws://{LOOPBACK}:{port}/api/v1/stream"
    while loop.time() < until:
        seen.sockets += 1
        over = loop.time() + dice.uniform(0.5, 2.0)
        socket = await session.ws_connect(address, protocols=[SUBPROTOCOL])
        await socket.send_json({"type": "connect", "token": key, "batched": True})
        await socket.send_json({"type": "subscribe", "channel": "results", "pipeline": "fraud"})
        while (left := over - loop.time()) > 0:
            try:
                message = await socket.receive(timeout=left)
            except TimeoutError:
                break
            if message.type != aiohttp.WSMsgType.TEXT:
                seen.failures += 1
                break
        if dice.random() < 0.5 and socket._response.connection is not None:
            transport = socket._response.connection.transport
            if transport is not None:
                transport.abort()
        await socket.close()


if __name__ == "__main__":
    sys.stdout.write(text(bench(float(sys.argv[1]) if len(sys.argv) > 1 else WHOLE_S)))
