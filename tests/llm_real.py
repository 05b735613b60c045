"""The real small model behind the real server, started once per session on a free port of its own.

Without network and without the weights in the cache its tests are skipped, loudly; with
`MILLSTREAM_REQUIRE_SERVICES=1` they fail.
"""

import os
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from core.errors import MillstreamError
from core.settings import Settings
from stack.llm import Llm, weights
from stack.service import Silent
from tests.stack_fixture import free_ports, services_required

SLOTS = 2
CONTEXT = 512
START_S = 120.0
MODEL = "smollm2-135m-instruct"


class RealServer:
    """`process` is its own; `stop` ends it by its pid."""

    def __init__(self, url: str, process: "subprocess.Popen[bytes]") -> None:
        self.url = url
        self.model = MODEL
        self.process = process

    async def busy(self) -> int:
        """Slots that are generating."""
        async with httpx.AsyncClient() as client:
            slots = (await client.get(f"{self.url}/slots", timeout=10)).json()
        return sum(bool(slot["is_processing"]) for slot in slots)


@contextmanager
def real_server(log: Path) -> Iterator[RealServer]:
    """A server for one test, which may kill it."""
    settings = Settings()
    try:
        Llm(settings).fetch(Silent())
    except MillstreamError as error:
        if services_required():
            pytest.fail(f"there is no small model, and MILLSTREAM_REQUIRE_SERVICES=1:\n{error}")
        warnings.warn(f"NOT TESTED: there is no small model:\n{error}", stacklevel=1)
        pytest.skip(f"NOT TESTED: there is no small model: {error}")
    (port,) = free_ports(1)
    root = Path(__file__).resolve().parents[1]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                sys.executable, "-P", "-m", "stack.llm_server", "--model", str(weights(settings.cache)),
                "--name", MODEL, "--port", str(port), "--slots", str(SLOTS), "--context", str(CONTEXT),
                "--threads", "1",
            ],
            env={**os.environ, "PYTHONPATH": str(root)},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + START_S
        while True:
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"the server does not start: {log.read_text()[-2000:]}")
            try:
                if httpx.get(f"{url}/health", timeout=2).status_code == 200:
                    break
            except httpx.HTTPError:
                pass
            time.sleep(0.1)
        yield RealServer(url, process)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    """The session's real server; leave it as it is."""
    with real_server(tmp_path_factory.mktemp("llm") / "server.log") as server:
        yield server
