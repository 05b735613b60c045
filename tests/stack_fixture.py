"""A real local stack for the tests: started once per session on free ports with a data folder of its own.

`tests/conftest.py` imports the fixtures. `services_env` points `core.settings` at the test's stack,
`stack` is that stack, running. Without services the tests that need them are skipped, loudly; with
`MILLSTREAM_REQUIRE_SERVICES=1` they fail.
"""

import gc
import os
import random
import shutil
import socket
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from cli.stack_commands import Lines, local_stack
from core.errors import MillstreamError
from core.settings import settings
from stack.local import Stack
from tests.lanes import STACK

# below the range from which the kernel takes ports for outgoing connections
PORTS = range(20_000, 32_000)
PORT_VARIABLES = (
    "KAFKA__PORT",
    "KAFKA__CONTROLLER_PORT",
    "REGISTRY__PORT",
    "REGISTRY__MANAGEMENT_PORT",
    "FLINK__PORT",
    "FLINK__RPC_PORT",
    "REDIS__PORT",
    "POSTGRES__PORT",
    "GATEWAY__PORT",
    "SERVING__PORT",
    "EMBEDDINGS__PORT",
    "LLM__PORT",
)
UP_TIMEOUT_S = 240.0  # CI machines start with a cold disk


def services_required() -> bool:
    return os.environ.get("MILLSTREAM_REQUIRE_SERVICES") == "1"


def free_ports(count: int) -> list[int]:
    """Distinct ports that nothing on this machine listens on just now."""
    with ExitStack() as held:
        found: list[int] = []
        for number in random.sample(PORTS, len(PORTS)):
            if len(found) == count:
                break
            candidate = held.enter_context(socket.socket())
            try:
                candidate.bind(("127.0.0.1", number))
            except OSError:
                continue
            found.append(number)
        return found


def consecutive_ports() -> tuple[int, int]:
    """Two of them, the second next to the first."""
    while True:
        (first,) = free_ports(1)
        with socket.socket() as second:
            try:
                second.bind(("127.0.0.1", first + 1))
            except OSError:
                continue
            return first, first + 1


def stack_env(home: Path) -> dict[str, str]:
    """Variables that give a stack its own folder and ports, and no external service."""
    env = {"MILLSTREAM_HOME": str(home)}
    ports = free_ports(len(PORT_VARIABLES))
    env |= {f"MILLSTREAM_{name}": str(port) for name, port in zip(PORT_VARIABLES, ports, strict=True)}
    # a test that kills one unit again and again should not wait for the longest back-off
    env["MILLSTREAM_SUPERVISOR__BACKOFF_LONGEST_S"] = "2"
    env["MILLSTREAM_CORRECTIONS__PERIOD_S"] = "3600"  # tests correct when they want it
    env["MILLSTREAM_FLINK__CHECKPOINT_INTERVAL_S"] = "5"  # so that a resume from one is what is tested
    return env


@contextmanager
def environment(env: dict[str, str], without: tuple[str, ...] = ()) -> Iterator[None]:
    """The process environment with these variables; `settings()` reads it anew, before and after."""
    changed = {*env, *without}
    before = {name: os.environ.get(name) for name in changed}
    for name in without:
        os.environ.pop(name, None)
    os.environ.update(env)
    settings.cache_clear()
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        settings.cache_clear()


EXTERNAL_ADDRESSES = (
    "MILLSTREAM_KAFKA__BOOTSTRAP",
    "MILLSTREAM_REGISTRY__URL",
    "MILLSTREAM_FLINK__URL",
    "MILLSTREAM_REDIS__URL",
    "MILLSTREAM_POSTGRES__URL",
)


@pytest.fixture(scope="session")
def services_env(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """The environment of the session's stack, already in `os.environ`; the stack need not run."""
    in_lanes = getattr(request.config.option, "loadgroup", False)
    if in_lanes and f"@{STACK} " not in os.environ["PYTEST_CURRENT_TEST"]:
        pytest.fail("one stack more, for a test in another lane: mark it `on_the_stack` (tests/lanes.py)")
    home = Path(tempfile.mkdtemp(prefix="millstream-test-"))
    env = stack_env(home)
    try:
        with environment(env, without=EXTERNAL_ADDRESSES):
            yield env
    finally:
        if os.environ.get("MILLSTREAM_KEEP_TEST_DATA") == "1":
            print(f"test data kept in {home}", file=sys.stderr)
        else:
            shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def stack(services_env: dict[str, str]) -> Iterator[Stack]:
    """All services, running and ready; stopped at the end of the session."""
    del services_env
    running = local_stack()
    try:
        running.up(progress=Lines(), timeout_s=UP_TIMEOUT_S)
    except MillstreamError as error:
        if services_required():
            pytest.fail(f"the local stack does not start, and MILLSTREAM_REQUIRE_SERVICES=1:\n{error}")
        warnings.warn(f"NOT TESTED: the local stack does not start:\n{error}", stacklevel=1)
        pytest.skip(f"NOT TESTED: the local stack does not start: {error}")
    try:
        yield running
    finally:
        gc.collect()  # clients that are waiting to be collected would complain of the brokers' end
        running.down()
