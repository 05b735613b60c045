"""Asking over Kafka: `POST /api/v1/pipelines/fraud/infer`, against MLServer with the same booster.

Ours takes a payment, publishes it as a request, reads the card's features from the online store, scores,
decides, gives reasons, stores the outcome and answers over Kafka. MLServer takes the finished row of inputs
and gives its score. The scores of 200 payments are compared first. The client is the same for both
(`bench.http_peers`); on the same cores, it is part of every figure.

On a stack of its own (broker, registry, Redis, PostgreSQL), a gateway and the answering process as `apply`
starts them, and a model of 200 trees of depth 8 trained on generated payments. The payments asked about are
those that follow on six days of generated history in the online store.

    python -m bench.asking
"""

import asyncio
import json
import statistics
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import redis

from bench.harness import ROUNDS, BenchResult, Ratio, require_equal, versions
from bench.http_peers import CALLERS, PEER_VERSIONS, Server, mlserver, outputs, request, tensors
from bench.own_services import job, own_services
from bench.registry import text
from core.settings import LOOPBACK, Settings
from features.online.rolling import RollingStore
from gateway.keys import create_key
from jobs.sources.generated import LABEL, SOURCE, generate
from jobs.training.fraud import streaming, train_fraud
from models.encode import Encoder, Matrix
from models.signature import parse
from models.store import SIGNATURE, ModelStore, StoredModel
from pipelines.changes import apply
from pipelines.load import load_scoring
from pipelines.plan import ScoringPlan

C32, P50_MS, P99_MS = 5.0, 5.0, 15.0
TRAINING = streaming(5_000)
HISTORY, ASKED, COMPARED = 20_000, 2_000, 200
TENANT = "bench"
PATH = "/api/v1/pipelines/fraud/infer"


@dataclass(frozen=True)
class Asked:
    """Where to ask, with which key, about which payments; `matrix` has their rows of inputs."""

    gateway: int
    answering: int
    key: str
    bodies: list[bytes]
    matrix: Matrix
    stored: StoredModel
    processes: dict[str, int]


def bench() -> BenchResult:
    """Ratios `asked_c32`, `asked_c1_p50_ms`, `asked_c1_p99_ms`."""
    with ExitStack() as running:
        given = running.enter_context(own_stack())
        peer = running.enter_context(mlserver(given.stored))
        asked_anew = ("Prefer: wait=20", "Cache-Control: no-cache, no-store")
        headers = (f"Authorization: Bearer {given.key}", *asked_anew)
        ours = Server(given.gateway, [request(given.gateway, PATH, body, headers) for body in given.bodies])
        theirs = Server(peer, tensors(peer, given.stored.name, given.matrix))
        _require_equal_scores(ours, theirs)
        for server in (ours, theirs):
            asyncio.run(server.burst())  # warm
        figures: dict[str, list[float]] = {}
        rates, middles, highs = [], [], []
        for _ in range(ROUNDS):
            a1 = asyncio.run(theirs.burst())
            waited, spent = _queue_wait(given.answering), _processor(given.processes)
            b1, b2 = asyncio.run(ours.burst()), asyncio.run(ours.burst())
            _note(figures, "over Kafka, c=32 queue wait ms", _mean(waited, _queue_wait(given.answering)))
            asked = round(3.0 / b1) + round(3.0 / b2)
            for name, seconds in _processor(given.processes).items():
                _note(
                    figures,
                    f"over Kafka, processor of {name}: us/request",
                    (seconds - spent[name]) / asked * 1e6,
                )
            a2 = asyncio.run(theirs.burst())
            rates.append((a1 + a2) / (b1 + b2))
            _note(figures, "over Kafka, requests/s", 2 / (b1 + b2))
            _note(figures, "MLServer beside it, requests/s", 2 / (a1 + a2))
            waited = _queue_wait(given.answering)
            took = [second * 1e3 for _ in range(2) for second in asyncio.run(ours.singly())]
            _note(figures, "over Kafka, c=1 queue wait ms", _mean(waited, _queue_wait(given.answering)))
            peers = asyncio.run(theirs.singly())
            middles.append(statistics.median(took))
            highs.append(statistics.quantiles(took, n=100)[-1])
            _note(figures, "MLServer beside it, c=1 p50 ms", statistics.median(peers) * 1e3)
            _note(figures, "MLServer beside it, c=1 p99 ms", statistics.quantiles(peers, n=100)[-1] * 1e3)
    trees = TRAINING.trees
    return BenchResult(
        bench="models-asked",
        ratios=[
            Ratio(
                "asked_c32", tuple(rates), C32, False, "requests/s of 32 callers: over Kafka, to MLServer's"
            ),
            Ratio("asked_c1_p50_ms", tuple(middles), P50_MS, True, "over Kafka, one caller: median, ms"),
            Ratio("asked_c1_p99_ms", tuple(highs), P99_MS, True, "over Kafka, one caller: 99 of 100, ms"),
        ],
        versions=versions(("confluent-kafka", "granian", "onnxruntime"), **PEER_VERSIONS),
        sizes={"trees": trees.trees, "depth": trees.depth, "callers": CALLERS, "payments asked": ASKED},
        figures={name: statistics.median(values) for name, values in figures.items()},
    )


def _require_equal_scores(ours: Server, theirs: Server) -> None:
    found = [asyncio.run(Server(one.port, one.requests[:COMPARED]).answers()) for one in (ours, theirs)]
    levels = {answer["level"] for answer in found[0]}
    require_equal("every card's features were read", levels, {"live"})
    mine = [answer["score"] / 100 for answer in found[0]]
    peers = outputs(found[1])
    close = bool(np.allclose(mine, peers, atol=1e-5))
    require_equal(f"scores ({mine[:3]}, {peers[:3]})", close, True)


def _queue_wait(port: int) -> tuple[float, float]:
    """Sum in ms and count of the time from Kafka to taken up."""
    found = {}
    for line in httpx.get(f"http://{LOOPBACK}:{port}/metrics", timeout=10).text.splitlines():
        for what in ("sum", "count"):
            if line.startswith(f"millstream_answering_queue_ms_{what}{{"):
                found[what] = float(line.rsplit(" ", 1)[1])
    return found.get("sum", 0.0), found.get("count", 0.0)


def _mean(before: tuple[float, float], after: tuple[float, float]) -> float:
    return (after[0] - before[0]) / max(after[1] - before[1], 1)


def _processor(processes: dict[str, int]) -> dict[str, float]:
    """Processor seconds of each process so far."""
    return {name: sum(psutil.Process(pid).cpu_times()[:2]) for name, pid in processes.items()}


def _note(figures: dict[str, list[float]], name: str, value: float) -> None:
    figures.setdefault(name, []).append(value)


@contextmanager
def own_stack() -> Iterator[Asked]:
    """Services, gateway and answering process in a folder of their own."""
    with ExitStack() as exits:
        running = exits.enter_context(own_services())
        given, plan = running.settings, load_scoring("fraud")
        sys.stderr.write("training a model\n")
        store = ModelStore(given.root / "models")
        train_fraud(generate(40_000), source=SOURCE, configuration=TRAINING, store=store)
        apply([plan], given)
        stored = store.resolve(plan.infer.model)
        bodies, matrix = payments(given, plan, stored)
        answering = exits.enter_context(job("answering", "--pipeline", "fraud"))
        gateway = exits.enter_context(job("gateway", "--pipeline", "fraud"))
        yield Asked(
            gateway.port,
            answering.port,
            create_key(given, TENANT),
            bodies,
            matrix,
            stored,
            running.processes() | {"answering": answering.pid, "gateway": gateway.pid},
        )


def payments(given: Settings, plan: ScoringPlan, stored: StoredModel) -> tuple[list[bytes], Matrix]:
    """Fill the online store with six days; the payments that follow, as a client sends them and as inputs."""
    rows = generate(HISTORY + ASKED, seed=7).drop_columns([LABEL])
    at = rows.column("occurred_at")
    now = datetime.now(UTC).replace(microsecond=0)
    moved = pc.add(at, pc.subtract(pa.scalar(now, at.type), at[HISTORY - 1]))
    asked_at = pc.if_else(pc.greater(moved, pa.scalar(now, at.type)), pa.scalar(now, at.type), moved)
    rows = rows.set_column(rows.schema.get_field_index("occurred_at"), "occurred_at", asked_at)
    tenants = pa.array([TENANT] * rows.num_rows)
    rows = rows.set_column(rows.schema.get_field_index("tenant"), "tenant", tenants)
    asked = rows.slice(HISTORY).combine_chunks().to_batches()[0]
    with redis.Redis.from_url(given.redis.address) as client:
        online = RollingStore(client, plan.view)
        for batch in rows.slice(0, HISTORY).to_batches(max_chunksize=5_000):
            online.write(batch)
        read: Any = online.read_rows(asked)
    columns = {name: asked.column(name) for name in asked.schema.names}
    columns |= {name: read[name] for name in plan.view.feature_names}
    encoder = Encoder(parse(stored.read(SIGNATURE), where=stored.where))
    matrix = encoder.encode_table(pa.table({name: columns[name] for name in encoder.signature.columns}))
    sent = asked.drop_columns(["tenant", "id"]).to_pylist()
    return [_body(row) for row in sent], matrix


def _body(row: dict[str, Any]) -> bytes:
    kept = {name: value for name, value in row.items() if value is not None}
    return json.dumps(kept | {"occurred_at": row["occurred_at"].isoformat()}).encode()


if __name__ == "__main__":
    sys.stdout.write(text(bench()))
