"""Processes beside those of the deployed pipeline: gateways with settings of their own, and an answering
process whose model a test can break: `python -m tests.integration.levels.processes FILE`.

While FILE exists the model version that is written in it raises.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from core.errors import ModelFailed
from core.settings import settings
from jobs.worker.answering.main import run as answer
from jobs.worker.main import stored_models
from jobs.worker.serving import ModelSource
from operators.ports import Matrix, Scorer
from pipelines.load import load_scoring
from tests.stack_fixture import free_ports

ROOT = Path(__file__).resolve().parents[3]
READY_S = 150.0


class Breakable:
    """A real version, until a test breaks it; see `operators.ports.Scorer`."""

    def __init__(self, scorer: Scorer, file: Path) -> None:
        self._scorer = scorer
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._scorer, name)

    def score(self, matrix: Matrix) -> Matrix:
        self._works()
        return self._scorer.score(matrix)

    def check(self) -> None:
        self._works()
        self._scorer.check()

    def _works(self) -> None:
        try:
            broken = self._file.read_text()
        except FileNotFoundError:
            return
        if broken == self._scorer.version:
            raise ModelFailed("it was broken by a test")


class BreakableModels:
    """The versions of the registry, each of them breakable."""

    def __init__(self, source: ModelSource, file: Path) -> None:
        self._source = source
        self._file = file

    def champion(self) -> str:
        return self._source.champion()

    def load(self, version: str) -> Scorer:
        made: Any = Breakable(self._source.load(version), self._file)
        scorer: Scorer = made
        return scorer


@contextmanager
def started(*arguments: str, variable: str = "MILLSTREAM_PROBE_PORT", **env: str) -> Iterator[str]:
    """`millstream run ...` until the end of the block; the address where it is ready."""
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        [sys.executable, "-m", "cli", "run", *arguments],
        cwd=ROOT,
        env={**os.environ, **env, variable: str(port)},
    )
    try:
        wait_ready(url, process)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def gateway(*arguments: str, **env: str) -> Any:
    """A gateway of the fraud pipeline beside the deployed one; see `started`."""
    return started("gateway", "-p", "fraud", *arguments, variable="MILLSTREAM_GATEWAY__PORT", **env)


def serving_directly() -> Any:
    """What serves the model over HTTP; see `started`. It is one more worker while it runs."""
    return started("serving", "-m", "fraud", variable="MILLSTREAM_SERVING__PORT")


def wait_ready(url: str, process: "subprocess.Popen[bytes]") -> None:
    deadline, told = time.monotonic() + READY_S, ""
    while time.monotonic() < deadline:
        assert process.poll() is None, "the process has ended"
        try:
            ready, health = httpx.get(f"{url}/ready", timeout=5), httpx.get(f"{url}/health", timeout=5)
        except httpx.TransportError as error:
            told = repr(error)
        else:
            if ready.status_code == 200 and health.json()["status"] == "ok":
                return
            told = ready.text + health.text
        time.sleep(0.05)
    raise AssertionError(f"not ready: {told}")


if __name__ == "__main__":
    plan = load_scoring("fraud")
    answer(plan, settings(), source=BreakableModels(stored_models(plan, settings()), Path(sys.argv[1])))
