"""Asking over Kafka: `POST /api/v1/pipelines/fraud/infer`, from a client's request to its answer.

    one at a time   each asked when the one before was answered
    at once         so many clients, each asking again when it was answered; requests a second
    steadily        at a rate, each when it is due; latency counts from when it was due

On a stack of its own (broker, registry, Redis, PostgreSQL), a gateway and the answering process as `apply`
starts them, and a model of 200 trees of depth 8 trained on generated payments. The payments are of cards
with a history in the online store. The client, on the same cores, is part of every figure.

    python -m bench.asking
"""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import numpy as np
import pyarrow as pa
import redis

from bench.harness import BenchResult, versions
from bench.open_loop import steadily
from bench.registry import text
from core.errors import InternalError
from core.settings import Settings, settings
from features.online.rolling import RollingStore
from gateway.keys import create_key
from jobs.sources.generated import LABEL, SOURCE, generate
from jobs.training.fraud import streaming, train_fraud
from models.store import ModelStore
from pipelines.changes import apply
from pipelines.load import load_scoring
from pipelines.plan import ScoringPlan
from stack.local import Stack
from stack.managed import free_port

SERVICES = {"kafka", "registry", "redis", "postgres"}
PORTS = (
    "KAFKA__PORT", "KAFKA__CONTROLLER_PORT", "REGISTRY__PORT", "REGISTRY__MANAGEMENT_PORT", "REDIS__PORT",
    "POSTGRES__PORT", "GATEWAY__PORT",
)  # fmt: skip
TRAINING = streaming(5_000)
WARM_UP, ALONE, AT_ONCE, CLIENTS, RATE, STEADY = 300, 2_000, 8_000, (32, 64), 200.0, 2_000
CARDS_ROWS = 20_000
TENANT = "bench"
READY_S = 120.0
PATH = "/api/v1/pipelines/fraud/infer"


def bench() -> BenchResult:
    """Figures without a peer of their own: whoever compares takes them from here."""
    with _own_stack() as given:
        key = create_key(given, TENANT)
        url = f"http://127.0.0.1:{given.gateway.port}"
        figures = asyncio.run(_measured(url, key, _bodies(WARM_UP + ALONE)))
    trees = TRAINING.trees
    sizes = {"trees": trees.trees, "depth": trees.depth, "asked alone": ALONE, "at once": AT_ONCE}
    return BenchResult("asking", [], versions(("confluent-kafka", "granian", "onnxruntime")), sizes, figures)


async def _measured(url: str, key: str, bodies: Sequence[bytes]) -> dict[str, float]:
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json", "prefer": "wait=20"}
    figures: dict[str, float] = {}
    async with aiohttp.ClientSession(
        base_url=url, headers=headers, connector=aiohttp.TCPConnector(limit=0)
    ) as session:

        async def ask(body: bytes, since: float) -> float:
            async with session.post(PATH, data=body) as answer:
                said = await answer.read()
                if answer.status != 200 or b'"level":"live"' not in said:
                    raise InternalError(f"answered {answer.status}: {said[:300]!r}")
            return (time.perf_counter() - since) * 1000

        for body in bodies[:WARM_UP]:
            await ask(body, 0.0)
        alone = [await ask(body, time.perf_counter()) for body in bodies[WARM_UP:]]
        figures |= _percentiles("one at a time", alone)
        for clients in CLIENTS:
            numbers = iter(range(AT_ONCE))

            async def client(numbers: Iterator[int] = numbers) -> list[float]:
                return [await ask(bodies[number % len(bodies)], time.perf_counter()) for number in numbers]

            began = time.perf_counter()
            took = await asyncio.gather(*(client() for _ in range(clients)))
            figures[f"{clients} clients, requests/s"] = AT_ONCE / (time.perf_counter() - began)
            figures |= _percentiles(f"{clients} clients", [one for part in took for one in part])
        steady = await steadily(
            lambda number, due: ask(bodies[number % len(bodies)], due), rate=RATE, count=STEADY
        )
        figures |= _percentiles(f"{RATE:g}/s", steady)
    return figures


def _percentiles(name: str, took_ms: Sequence[float]) -> dict[str, float]:
    middle, high = np.percentile(took_ms, (50, 99))
    return {f"{name}, p50 ms": float(middle), f"{name}, p99 ms": float(high)}


def _bodies(count: int) -> list[bytes]:
    """Payments of generated cards, as a client sends them."""
    now = datetime.now(UTC).isoformat()
    rows = generate(count, seed=7).drop_columns(["tenant", "id", LABEL]).to_pylist()
    kept = [{name: value for name, value in row.items() if value is not None} for row in rows]
    return [json.dumps(row | {"occurred_at": now}).encode() for row in kept]


def _history(given: Settings, plan: ScoringPlan) -> None:
    """What the cards that are asked about did in the last day."""
    rows = generate(CARDS_ROWS, seed=7)
    now = datetime.now(UTC)
    ages = np.random.default_rng(7).uniform(60, 86_400, rows.num_rows)
    times = [now - timedelta(seconds=float(age)) for age in ages]
    rows = rows.set_column(
        rows.schema.get_field_index("occurred_at"),
        "occurred_at",
        pa.array(times, pa.timestamp("ms", tz="UTC")),
    )
    rows = rows.set_column(
        rows.schema.get_field_index("tenant"), "tenant", pa.array([TENANT] * rows.num_rows)
    )
    with redis.Redis.from_url(given.redis.address) as client:
        store = RollingStore(client, plan.view)
        for batch in rows.to_batches(max_chunksize=5_000):
            store.write(batch)


@contextmanager
def _own_stack() -> Iterator[Settings]:
    """Services, gateway and answering process in a folder of their own."""
    with ExitStack() as exits:
        home = Path(exits.enter_context(tempfile.TemporaryDirectory(prefix="millstream-bench-")))
        own = {f"MILLSTREAM_{name}": str(free_port()) for name in PORTS} | {"MILLSTREAM_HOME": str(home)}
        exits.callback(settings.cache_clear)
        for name, value in own.items():
            exits.callback(_restore, name, os.environ.get(name))
            os.environ[name] = value
        settings.cache_clear()
        given, plan = settings(), load_scoring("fraud")
        sys.stderr.write("training a model, starting services\n")
        train_fraud(
            generate(40_000), source=SOURCE, configuration=TRAINING, store=ModelStore(given.root / "models")
        )
        stack = Stack(given)
        stack.up(only=SERVICES, resume_jobs=False)
        exits.callback(stack.down)
        apply([plan], given)
        _history(given, plan)
        for job, variable, port in (
            ("answering", "MILLSTREAM_PROBE_PORT", free_port()),
            ("gateway", "MILLSTREAM_GATEWAY__PORT", given.gateway.port),
        ):
            exits.enter_context(_process(job, {variable: str(port)}, port))
        yield given


def _restore(name: str, value: str | None) -> None:
    os.environ.pop(name, None)
    if value is not None:
        os.environ[name] = value


@contextmanager
def _process(job: str, env: dict[str, str], port: int) -> Iterator[None]:
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "cli", "run", job, "--pipeline", "fraud"], env={**os.environ, **env}
    )
    try:
        deadline = time.monotonic() + READY_S
        while not _ready(port):
            if time.monotonic() > deadline or process.poll() is not None:
                raise InternalError(f"{job} is not ready within {READY_S:g} s")
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait(timeout=30)


def _ready(port: int) -> bool:
    try:
        checks: dict[str, Any] = httpx.get(f"http://127.0.0.1:{port}/health", timeout=2).json()["checks"]
        ready = httpx.get(f"http://127.0.0.1:{port}/ready", timeout=2).status_code == 200
        return ready and checks.get("replies", "ok") == "ok"
    except httpx.HTTPError:
        return False


if __name__ == "__main__":
    sys.stdout.write(text(bench()))
