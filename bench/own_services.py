"""Services of a benchmark's own: a local stack in a folder and on ports of its own, gone at the end."""

import os
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from bench.http_peers import process
from core.errors import StackError
from core.settings import LOOPBACK, Settings, settings
from stack.local import Stack
from stack.managed import free_port

ROOT = Path(__file__).resolve().parents[1]
SERVICES = ("kafka", "registry", "redis", "postgres")
_PORTS = (
    "KAFKA__PORT", "KAFKA__CONTROLLER_PORT", "REGISTRY__PORT", "REGISTRY__MANAGEMENT_PORT", "REDIS__PORT",
    "POSTGRES__PORT", "GATEWAY__PORT", "LLM__PORT",
)  # fmt: skip
_READY_S = 120.0


@dataclass(frozen=True)
class Services:
    """`settings` are those of this process and of those that it starts."""

    settings: Settings
    stack: Stack

    def processes(self) -> dict[str, int]:
        """The ids of the broker's and Redis' processes."""
        return {
            row.name: row.pid for row in self.stack.status() if row.pid and row.name in ("kafka", "redis")
        }


@contextmanager
def own_services(names: Collection[str] = SERVICES, **more: str) -> Iterator[Services]:
    """Up and ready. `more`: further variables of the environment, without their prefix."""
    with ExitStack() as exits:
        home = exits.enter_context(tempfile.TemporaryDirectory(prefix="millstream-bench-"))
        own = {name: str(free_port()) for name in _PORTS} | {"HOME": home} | more
        exits.callback(settings.cache_clear)
        for name, value in own.items():
            exits.callback(_restore, f"MILLSTREAM_{name}", os.environ.get(f"MILLSTREAM_{name}"))
            os.environ[f"MILLSTREAM_{name}"] = value
        settings.cache_clear()
        sys.stderr.write("starting services\n")
        stack = Stack(settings())
        stack.up(only=set(names), resume_jobs=False)
        exits.callback(stack.down)
        yield Services(settings(), stack)


@dataclass(frozen=True)
class Running:
    """A job in a process of its own."""

    port: int
    pid: int


@contextmanager
def job(name: str, *options: str, env: Mapping[str, str] | None = None) -> Iterator[Running]:
    """`millstream run NAME`, ready."""
    variable = "MILLSTREAM_GATEWAY__PORT" if name == "gateway" else "MILLSTREAM_PROBE_PORT"
    command = [sys.executable, "-P", "-m", "cli", "run", name, *options]
    with _started(command, variable, env or {}) as running:
        if name == "gateway":
            _wait_for_replies(running.port)
        yield running


@contextmanager
def echo(pipeline: str) -> Iterator[Running]:
    """The worker `bench.gateway_echo`, ready."""
    command = [sys.executable, "-m", "bench.gateway_echo", pipeline]
    with _started(command, "MILLSTREAM_PROBE_PORT", {}) as running:
        yield running


@contextmanager
def _started(command: list[str], variable: str, env: Mapping[str, str]) -> Iterator[Running]:
    port = free_port()
    ready = f"http://{LOOPBACK}:{port}/ready"
    with process(command, {variable: str(port), **env}, ROOT, ready) as pid:
        yield Running(port, pid)


def _wait_for_replies(port: int) -> None:
    """A gateway is ready before it reads replies."""
    until = time.monotonic() + _READY_S
    while httpx.get(f"http://{LOOPBACK}:{port}/health", timeout=10).json()["checks"]["replies"] != "ok":
        if time.monotonic() > until:
            raise StackError(f"the gateway reads no replies within {_READY_S:g} s", where=f"port {port}")
        time.sleep(0.05)


def _restore(name: str, value: str | None) -> None:
    os.environ.pop(name, None)
    if value is not None:
        os.environ[name] = value
