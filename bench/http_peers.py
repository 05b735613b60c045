"""What benches of served models share: MLServer with a booster, and one client for all servers.

MLServer runs in an environment of its own (see `bench.peers`) with its XGBoost runtime and parallel workers
off, which is its fastest set-up for a model this small.
"""

import asyncio
import json
import os
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from bench.peers import peer_python
from core.errors import StackError
from core.settings import LOOPBACK
from models.encode import Matrix
from models.store import BOOSTER, StoredModel

PEER = (
    "mlserver==1.7.1", "mlserver-xgboost==1.7.1", "xgboost==3.2.0", "numpy==2.1.3",
    "scikit-learn==1.7.2", "pandas==2.3.3",
)  # fmt: skip
PEER_VERSIONS = dict(one.split("==") for one in PEER)
CALLERS, BURST_S, SINGLE = 32, 3.0, 400
START_S = 120.0


class Server:
    """A server's address and requests for it, ready to be written over connections that are kept."""

    def __init__(self, port: int, requests: Sequence[bytes]) -> None:
        self.port = port
        self.requests = requests

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

    async def answers(self) -> list[Any]:
        """Those of all prepared requests, in order."""
        reader, writer = await asyncio.open_connection(LOOPBACK, self.port)
        try:
            found = []
            for request in self.requests:
                writer.write(request)
                found.append(json.loads(await _answer(reader)))
            return found
        finally:
            writer.close()


@contextmanager
def mlserver(stored: StoredModel) -> Iterator[int]:
    """MLServer with the booster, in its own environment; its port."""
    python = peer_python("mlserver", PEER)
    with tempfile.TemporaryDirectory(prefix="millstream-bench-") as name:
        folder = Path(name)
        (folder / "model.ubj").write_bytes(stored.read(BOOSTER))
        ports = [free_port() for _ in range(3)]
        settings = {
            "host": LOOPBACK, "http_port": ports[0], "grpc_port": ports[1], "metrics_port": ports[2],
            "parallel_workers": 0, "debug": False,
        }  # fmt: skip
        (folder / "settings.json").write_text(json.dumps(settings))
        model = {
            "name": stored.name,
            "implementation": "mlserver_xgboost.XGBoostModel",
            "parameters": {"uri": "./model.ubj", "version": "1"},
        }
        (folder / "model-settings.json").write_text(json.dumps(model))
        command = [str(python.parent / "mlserver"), "start", str(folder)]
        ready = f"http://{LOOPBACK}:{ports[0]}/v2/models/{stored.name}/ready"
        with process(command, {"OMP_NUM_THREADS": "1"}, folder, ready):
            yield ports[0]


@contextmanager
def process(command: Sequence[str], more: dict[str, str], folder: Path, ready: str) -> Iterator[int]:
    """Its process id, once `ready` answers 200; it is stopped at the end."""
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen(command, cwd=folder, env=os.environ | more, stdout=log, stderr=log)
        try:
            until = time.monotonic() + START_S
            while not _is_ready(ready):
                if server.poll() is not None or time.monotonic() > until:
                    log.seek(0)
                    raise StackError(
                        "a server did not start", where=" ".join(command), mend=log.read()[-800:].decode()
                    )
                time.sleep(0.1)
            yield server.pid
        finally:
            server.terminate()
            try:
                server.wait(timeout=20)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def free_port() -> int:
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


def request(port: int, path: str, body: bytes, headers: Sequence[str] = ()) -> bytes:
    """A POST of JSON as it goes over the wire."""
    lines = [
        f"POST {path} HTTP/1.1",
        f"Host: {LOOPBACK}:{port}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


def tensors(port: int, model: str, rows: Matrix) -> list[bytes]:
    """A request of the Open Inference Protocol for each row."""
    found = []
    for row in rows:
        values = [None if np.isnan(value) else float(value) for value in row]
        tensor = {"name": "inputs", "shape": [1, len(values)], "datatype": "FP32", "data": [values]}
        found.append(request(port, f"/v2/models/{model}/infer", json.dumps({"inputs": [tensor]}).encode()))
    return found


def outputs(answers: Sequence[Any]) -> list[float]:
    """The scores in answers of that protocol."""
    return [value for answer in answers for value in answer["outputs"][0]["data"]]


async def _answer(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    lower = head.lower()
    start = lower.index(b"content-length:") + 15
    body = await reader.readexactly(int(lower[start : lower.index(b"\r\n", start)]))
    if b" 200 " not in head[:16]:
        raise StackError(f"a server refuses: {body[:300]!r}", where=head[:60].decode("latin-1"))
    return body
