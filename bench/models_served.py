"""A model served over HTTP, straight to the process that has it, against MLServer with the same booster.

Both speak the Open Inference Protocol (v2, JSON), on loopback, one process each, one row a request. The
scores of 200 rows are compared first. The client is the same for both: connections that are kept, on which
prepared requests are written and answers read (`bench.http_peers`).
"""

import asyncio
import statistics
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from bench.harness import ROUNDS, BenchResult, Ratio, require_equal, versions
from bench.http_peers import (
    CALLERS,
    PEER_VERSIONS,
    Server,
    free_port,
    mlserver,
    outputs,
    process,
    tensors,
)
from bench.models_material import MODEL, Material, material
from bench.registry import text
from core.settings import LOOPBACK

C32, C1 = 5.0, 0.6
ROOT = Path(__file__).resolve().parents[1]


def bench() -> BenchResult:
    """Ratios `served_c32` and `served_c1_p50`."""
    given = material()
    full = given.matrix[-200:]
    with ExitStack() as running:
        ports = running.enter_context(our_server(given)), running.enter_context(mlserver(given.stored))
        ours, theirs = (Server(port, tensors(port, MODEL, full)) for port in ports)
        mine, peers = outputs(asyncio.run(ours.answers())), outputs(asyncio.run(theirs.answers()))
        require_equal("rows scored", len(mine), len(peers))
        close = bool(np.allclose(mine, peers, atol=1e-5))
        require_equal(f"scores ({mine[:3]}, {peers[:3]})", close, True)
        rates, singles = [], []
        figures: dict[str, list[float]] = {}
        for server in (ours, theirs):
            asyncio.run(server.burst())  # warm
        for _ in range(ROUNDS):
            a1, b1, b2, a2 = (asyncio.run(one.burst()) for one in (theirs, ours, ours, theirs))
            rates.append((a1 + a2) / (b1 + b2))
            _note(figures, "requests/s", 2 / (b1 + b2), 2 / (a1 + a2))
            b1s, a1s, a2s, b2s = (asyncio.run(one.singly()) for one in (ours, theirs, theirs, ours))
            mine_s, theirs_s = b1s + b2s, a1s + a2s
            singles.append(statistics.median(mine_s) / statistics.median(theirs_s))
            _note(figures, "c=1 p50 ms", statistics.median(mine_s) * 1e3, statistics.median(theirs_s) * 1e3)
            _note(figures, "c=1 p99 ms", _high(mine_s) * 1e3, _high(theirs_s) * 1e3)
    return BenchResult(
        bench="models-served",
        ratios=[
            Ratio("served_c32", tuple(rates), C32, False, "requests/s of 32 callers: ours over MLServer's"),
            Ratio("served_c1_p50", tuple(singles), C1, True, "median of one caller: ours over MLServer's"),
        ],
        versions=versions(("granian", "msgspec", "onnxruntime"), **PEER_VERSIONS),
        sizes={"rows a request": 1, "inputs": full.shape[1], "callers": CALLERS, "payments": given.origin},
        figures={name: statistics.median(values) for name, values in figures.items()},
    )


@contextmanager
def our_server(given: Material) -> Iterator[int]:
    """`millstream run serving`, a process of its own; its port."""
    port = free_port()
    home = given.stored.folder.parents[2]
    environment = {"MILLSTREAM_HOME": str(home), "MILLSTREAM_SERVING__PORT": str(port)}
    command = [sys.executable, "-m", "cli", "run", "serving", "--model", MODEL]
    with process(command, environment, ROOT, f"http://{LOOPBACK}:{port}/ready"):
        yield port


def _note(figures: dict[str, list[float]], name: str, ours: float, theirs: float) -> None:
    figures.setdefault(f"ours, {name}", []).append(ours)
    figures.setdefault(f"MLServer, {name}", []).append(theirs)


def _high(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=100)[-1]


if __name__ == "__main__":
    sys.stdout.write(text(bench()))
