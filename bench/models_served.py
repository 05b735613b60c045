"""A model served over HTTP, straight to the process that has it, against MLServer with the same booster.

Both speak the Open Inference Protocol (v2, JSON), on loopback, one process each, one row a request; MLServer
runs in an environment of its own (see `bench.peers`) with its XGBoost runtime and parallel workers off, which
is its fastest set-up for a model this small. The scores of 200 rows are compared first. The client is the
same for both: keep-alive connections that write prepared requests and read the answers.
"""

import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from bench.harness import ROUNDS, BenchResult, Ratio, require_equal, versions
from bench.models_material import MODEL, Material, material
from bench.peers import peer_python
from bench.registry import text
from core.errors import StackError
from core.settings import LOOPBACK
from models.encode import Matrix
from models.store import BOOSTER

PEER = (
    "mlserver==1.7.1", "mlserver-xgboost==1.7.1", "xgboost==3.2.0", "numpy==2.1.3",
    "scikit-learn==1.7.2", "pandas==2.3.3",
)  # fmt: skip
C32, C1 = 5.0, 0.6
CALLERS, BURST_S, SINGLE = 32, 3.0, 400
START_S = 120.0
ROOT = Path(__file__).resolve().parents[1]


class Server:
    """A server's address and requests for it, ready to be written."""

    def __init__(self, port: int, rows: Matrix) -> None:
        self.port = port
        self.requests = [_request(port, row) for row in rows]

    async def burst(self) -> float:
        """Seconds a request of 32 callers, over three seconds."""
        done = 0
        loop = asyncio.get_running_loop()
        until = loop.time() + BURST_S

        async def caller(number: int) -> None:
            nonlocal done
            reader, writer = await asyncio.open_connection(LOOPBACK, self.port)
            try:
                at = number * 97
                while loop.time() < until:
                    writer.write(self.requests[at % len(self.requests)])
                    await _answer(reader)
                    at += 1
                    done += 1
            finally:
                writer.close()

        begun = time.perf_counter()
        await asyncio.gather(*(caller(number) for number in range(CALLERS)))
        return (time.perf_counter() - begun) / done

    async def singly(self) -> list[float]:
        """Seconds of each of 400 requests, one after the other."""
        reader, writer = await asyncio.open_connection(LOOPBACK, self.port)
        took = []
        try:
            for at in range(SINGLE):
                begun = time.perf_counter()
                writer.write(self.requests[at % len(self.requests)])
                await _answer(reader)
                took.append(time.perf_counter() - begun)
        finally:
            writer.close()
        return took

    async def scores(self) -> list[float]:
        """Those of all prepared requests, in order."""
        reader, writer = await asyncio.open_connection(LOOPBACK, self.port)
        try:
            found = []
            for request in self.requests:
                writer.write(request)
                found += json.loads(await _answer(reader))["outputs"][0]["data"]
            return found
        finally:
            writer.close()


def bench() -> BenchResult:
    """Ratios `served_c32` and `served_c1_p50`."""
    given = material()
    full = given.matrix[-200:]
    with ExitStack() as running:
        ours = Server(running.enter_context(our_server(given)), full)
        theirs = Server(running.enter_context(mlserver(given)), full)
        mine, peers = asyncio.run(ours.scores()), asyncio.run(theirs.scores())
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
        versions=versions(("granian", "msgspec", "onnxruntime"), **dict(one.split("==") for one in PEER)),
        sizes={"rows a request": 1, "inputs": full.shape[1], "callers": CALLERS, "payments": given.origin},
        figures={name: statistics.median(values) for name, values in figures.items()},
    )


@contextmanager
def our_server(given: Material) -> Iterator[int]:
    """`millstream run serving`, a process of its own; its port."""
    port = _free_port()
    home = given.stored.folder.parents[2]
    environment = {"MILLSTREAM_HOME": str(home), "MILLSTREAM_SERVING__PORT": str(port)}
    command = [sys.executable, "-m", "cli", "run", "serving", "--model", MODEL]
    with _process(command, environment, ROOT, f"http://{LOOPBACK}:{port}/ready"):
        yield port


@contextmanager
def mlserver(given: Material) -> Iterator[int]:
    """MLServer with the booster, in its own environment; its port."""
    python = peer_python("mlserver", PEER)
    with tempfile.TemporaryDirectory(prefix="millstream-bench-") as name:
        folder = Path(name)
        (folder / "model.ubj").write_bytes(given.stored.read(BOOSTER))
        ports = [_free_port() for _ in range(3)]
        settings = {
            "host": LOOPBACK, "http_port": ports[0], "grpc_port": ports[1], "metrics_port": ports[2],
            "parallel_workers": 0, "debug": False,
        }  # fmt: skip
        (folder / "settings.json").write_text(json.dumps(settings))
        model = {
            "name": MODEL,
            "implementation": "mlserver_xgboost.XGBoostModel",
            "parameters": {"uri": "./model.ubj", "version": "1"},
        }
        (folder / "model-settings.json").write_text(json.dumps(model))
        command = [str(python.parent / "mlserver"), "start", str(folder)]
        ready = f"http://{LOOPBACK}:{ports[0]}/v2/models/{MODEL}/ready"
        with _process(command, {"OMP_NUM_THREADS": "1"}, folder, ready):
            yield ports[0]


@contextmanager
def _process(command: Sequence[str], more: dict[str, str], folder: Path, ready: str) -> Iterator[None]:
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, cwd=folder, env=os.environ | more, stdout=log, stderr=log)
        try:
            until = time.monotonic() + START_S
            while not _is_ready(ready):
                if process.poll() is not None or time.monotonic() > until:
                    log.seek(0)
                    raise StackError(
                        "a server did not start", where=" ".join(command), mend=log.read()[-800:].decode()
                    )
                time.sleep(0.1)
            yield
        finally:
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _free_port() -> int:
    with socket.socket() as bound:
        bound.bind((LOOPBACK, 0))
        port: int = bound.getsockname()[1]
        return port


def _is_ready(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _request(port: int, row: np.ndarray[Any, Any]) -> bytes:
    values = [None if np.isnan(value) else float(value) for value in row]
    tensor = {"name": "inputs", "shape": [1, len(values)], "datatype": "FP32", "data": [values]}
    body = json.dumps({"inputs": [tensor]}).encode()
    head = (
        f"POST /v2/models/{MODEL}/infer HTTP/1.1\r\nHost: {LOOPBACK}:{port}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def _answer(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    lower = head.lower()
    start = lower.index(b"content-length:") + 15
    body = await reader.readexactly(int(lower[start : lower.index(b"\r\n", start)]))
    if b" 200 " not in head[:16]:
        raise StackError(f"a server refuses: {body[:300]!r}", where=head[:60].decode("latin-1"))
    return body


def _note(figures: dict[str, list[float]], name: str, ours: float, theirs: float) -> None:
    figures.setdefault(f"ours, {name}", []).append(ours)
    figures.setdefault(f"MLServer, {name}", []).append(theirs)


def _high(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=100)[-1]


if __name__ == "__main__":
    sys.stdout.write(text(bench()))
