"""Asking over Kafka: `POST .../infer` to an echo worker, at a steady rate and with 64 in flight.

The peer is a map of futures behind FastAPI: aiokafka produces the request with its correlation id and the
partition of the reply, a consumer of that partition resolves the future. Both check the key, limit the caller
and check the payment's 120 columns, both send the same Avro to the same topic, and the same worker
(`bench.gateway_echo`) answers both. Ours keeps the outcome in Redis besides. Answers are compared first: each
caller has its own payment back.

`ask_p50_ms` and `ask_p99_ms` are ours at 200 requests/s, in an open loop; `ask_64` is the ratio of requests/s
of 64 callers. No answer comes from a cache.

    python -m bench.gateway_ask
"""

import asyncio
import json
import statistics
import sys
from contextlib import ExitStack
from typing import Any

from bench.gateway_goals import reached
from bench.gateway_payments import INFER, bodies, posts
from bench.gateway_peer import KEY, PEER_VERSIONS, peer_service
from bench.gateway_publish import note, processor
from bench.harness import ROUNDS, BenchResult, control, require_equal, versions
from bench.http_load import Load, Specification, Summary, apart
from bench.own_services import Running, Services, echo, job, own_services
from bench.registry import text
from core.ids import new_id
from gateway.keys import create_key
from pipelines.changes import apply
from pipelines.load import load_scoring

CALLERS, BURST_S, COMPARED = 64, 3.0, 100
RATE, STEADY_S, CONNECTIONS = 200.0, 10.0, 64
ANEW = ("Cache-Control: no-cache, no-store", "Prefer: wait=20")


def bench(seconds: float = BURST_S, steady_s: float = STEADY_S, rounds: int = ROUNDS) -> BenchResult:
    """Ratios `ask_p50_ms`, `ask_p99_ms`, `ask_64`. `seconds` of a burst, `steady_s` of a steady load."""
    with ExitStack() as exits:
        running = exits.enter_context(own_services(ASKING__REPLY_PARTITION="1"))
        given, plan = running.settings, load_scoring("fraud")
        apply([plan], given)
        worker = exits.enter_context(echo(plan.pipeline))
        ours = exits.enter_context(job("gateway", "--pipeline", "fraud"))
        theirs = exits.enter_context(peer_service(given, plan))
        key = create_key(given, "bench")
        _require_echoes(ours, key, theirs)
        sent = bodies(500)
        asks = {
            "ours": (ours, posts(ours.port, INFER, key, sent, *ANEW)),
            "FastAPI": (theirs, posts(theirs.port, INFER, KEY, sent)),
        }
        figures: dict[str, list[float]] = {}

        def burst(name: str) -> float:
            server, requests = asks[name]
            asked = Specification(server.port, CALLERS, seconds, 200)
            return (
                1 / _measured(figures, f"{name}, 64 callers", running, server, worker, requests, asked).per_s
            )

        def steady(name: str) -> Summary:
            server, requests = asks[name]
            asked = Specification(server.port, CONNECTIONS, steady_s, 200, rate=RATE)
            return _measured(figures, f"{name}, {RATE:g}/s", running, server, worker, requests, asked)

        for name in asks:
            burst(name)
        figures.clear()
        rates, middles, highs = [], [], []
        for _ in range(rounds):
            a1, b1, b2, a2 = (burst(name) for name in ("FastAPI", "ours", "ours", "FastAPI"))
            rates.append((a1 + a2) / (b1 + b2))
            found = steady("ours")
            middles.append(found.p50_ms)
            highs.append(found.p99_ms)
        steady("FastAPI")
        noise = control(lambda: burst("ours"), rounds=rounds)
    return BenchResult(
        bench="gateway-ask",
        ratios=[
            reached("ask_p50_ms", middles), reached("ask_p99_ms", highs), reached("ask_64", rates)
        ],
        versions=versions(("httptools", "msgspec", "confluent-kafka"), **PEER_VERSIONS),
        sizes={"callers": CALLERS, "seconds of a burst": seconds, "seconds at a steady rate": steady_s},
        figures={name: statistics.median(values) for name, values in figures.items()},
        control=noise,
    )  # fmt: skip


def _measured(
    figures: dict[str, list[float]],
    name: str,
    running: Services,
    server: Running,
    worker: Running,
    requests: list[bytes],
    asked: Specification,
) -> Summary:
    processes = running.processes() | {"itself": server.pid, "the worker": worker.pid}
    before = processor(processes)
    found = apart(requests, asked)
    spent = processor(processes)
    note(figures, f"{name}: requests/s", found.per_s)
    note(figures, f"{name}: p50 ms", found.p50_ms)
    note(figures, f"{name}: p99 ms", found.p99_ms)
    made = found.per_s * (asked.seconds + asked.warm_s)
    for process, used in spent.items():
        note(figures, f"{name}: processor of {process}, us/request", (used - before[process]) / made * 1e6)
    return found


def _require_echoes(ours: Running, key: str, theirs: Running) -> None:
    """Each has back what it asked."""
    sent = bodies(COMPARED, ids=[new_id() for _ in range(COMPARED)])

    async def answers(port: int, requests: list[bytes]) -> list[Any]:
        found = await Load(port, requests, connections=1).each()
        require_equal("statuses", {answer.status for answer in found}, {200})
        return [json.loads(answer.body) for answer in found]

    mine = asyncio.run(answers(ours.port, posts(ours.port, INFER, key, sent, *ANEW)))
    peers = asyncio.run(answers(theirs.port, posts(theirs.port, INFER, KEY, sent)))
    asked = [(one["id"], one["amount_cents"]) for one in map(json.loads, sent)]
    for found in (mine, peers):
        require_equal("echoes", [(one["id"], one["amount_cents"]) for one in found], asked)


if __name__ == "__main__":
    sys.stdout.write(text(bench()))
