"""A small pipeline that can be asked: its topics, gateways and answering processes, and what they noted."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import redis

from core.ids import new_id
from core.settings import Settings
from gateway.keys import create_key
from pipelines.changes import apply
from tests.jobs.worker.payments import plan
from tests.stack_fixture import free_ports

ROOT = Path(__file__).resolve().parents[2]
READY_S = 150.0


def until(true: Callable[[], Any], what: str, within_s: float = 20.0) -> Any:
    """Poll until it gives something true; fails with `what`."""
    deadline = time.monotonic() + within_s
    while not (found := true()):
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {what}"
        time.sleep(0.05)
    return found


class Process:
    """One process of `tests.asking.processes`; killed when its world ends."""

    def __init__(self, kind: str, domain: str, env: dict[str, str], *more: str) -> None:
        (self.port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{self.port}"
        variable = "MILLSTREAM_GATEWAY__PORT" if kind.endswith("gateway") else "MILLSTREAM_PROBE_PORT"
        self._ended = subprocess.Popen(
            [sys.executable, "-m", "tests.asking.processes", kind, domain, *more],
            cwd=ROOT,
            env={**os.environ, **env, variable: str(self.port)},
        )

    def ready(self) -> bool:
        assert self._ended.poll() is None, "the process has ended"
        try:
            answer = httpx.get(f"{self.url}/ready", timeout=2)
            checks = httpx.get(f"{self.url}/health", timeout=2).json()["checks"]
        except httpx.HTTPError:
            return False
        return answer.status_code == 200 and checks.get("replies", "ok") == "ok"

    def wait_ready(self) -> "Process":
        deadline = time.monotonic() + READY_S
        while not self.ready():
            assert time.monotonic() < deadline, f"not ready: {self.told()}"
            time.sleep(0.05)
        return self

    def told(self) -> str:
        """What it says of itself."""
        try:
            return httpx.get(f"{self.url}/ready", timeout=2).text + httpx.get(f"{self.url}/health").text
        except httpx.HTTPError as error:
            return repr(error)

    def signal(self, number: int) -> None:
        self._ended.send_signal(number)

    def stop(self) -> int:
        self._ended.terminate()
        return self._ended.wait(timeout=30)

    def kill(self) -> None:
        if self._ended.poll() is None:
            self._ended.send_signal(signal.SIGKILL)
            self._ended.wait(timeout=10)


class World:
    """Topics of its own on the session's stack. `env` is added to every process's environment."""

    def __init__(self, settings: Settings, env: dict[str, str] | None = None) -> None:
        self.settings = settings
        self.env = env or {}
        self.domain = f"t{new_id().replace('-', '')}"
        self.plan = plan(self.domain)
        self.path = f"/api/v1/pipelines/{self.domain}/infer"
        apply([self.plan], settings)
        self.keys = {tenant: create_key(settings, tenant) for tenant in ("acme", "other")}
        self._processes: list[Process] = []

    def start(self, kind: str, *more: str, **env: str) -> Process:
        """`gateway`, `echo` or `scoring`; returns at once."""
        made = Process(kind, self.domain, self.env | env, *more)
        self._processes.append(made)
        return made

    def client(self, gateway: Process, tenant: str = "acme", **more: Any) -> httpx.Client:
        headers = {"authorization": f"Bearer {self.keys[tenant]}"}
        return httpx.Client(base_url=gateway.url, headers=headers, timeout=60, **more)

    def notes(self, id: str) -> list[str]:
        """What the echo noted of a request, in order."""
        with redis.Redis.from_url(self.settings.redis.address) as client:
            found: list[bytes] = client.lrange(f"echo:{self.domain}", 0, -1)  # type: ignore[assignment]
        pairs = [note.decode().split(" ", 1) for note in found]
        return [what for what, whose in pairs if whose == id]

    def close(self) -> None:
        for process in self._processes:
            process.kill()


@contextmanager
def world(settings: Settings, env: dict[str, str] | None = None) -> Iterator[World]:
    made = World(settings, env)
    try:
        yield made
    finally:
        made.close()


def payment(*, ms: int = 0, **changes: Any) -> dict[str, Any]:
    """A payment as a client sends it; the echo takes `ms` for its answer."""
    base = {"card_id": f"card-{new_id()}", "occurred_at": datetime.now(UTC).isoformat(), "amount_cents": ms}
    return base | changes
