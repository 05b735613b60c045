"""Feast's processes on our stores: its command line, and its server's HTTP endpoints."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from features.on_feast.repository import repository
from features.online.rolling import RollingStore
from tests.contract.feast_world import World, ago, demand, feast_world, packed, record
from tests.features.redis_server import RedisServer, own_redis
from tests.features.rolling_behaviour import batch
from tests.features.training_rows import DEMAND
from tests.features.views import VIEW, Swipe
from tests.stack_fixture import free_ports

pytestmark = pytest.mark.services

ROOT = Path(__file__).resolve().parents[2]
FEAST = Path(sys.executable).with_name("feast")
UP_TIMEOUT_S = 120.0
NAMES = DEMAND.feature_names


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with own_redis() as running:
        yield running


@pytest.fixture
def world(server: RedisServer, tmp_path: Path) -> Iterator[World]:
    with feast_world(server, tmp_path) as made:
        made.client.flushall()
        yield made


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT)}


def feast(world: World, *arguments: str) -> str:
    """What the command prints; it must succeed."""
    command = [str(FEAST), "--log-level", "ERROR", "-c", str(repository(world.settings)), *arguments]
    done = subprocess.run(
        command, env=environment(), capture_output=True, text=True, timeout=UP_TIMEOUT_S, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def serving(world: World, log: Path) -> Iterator[httpx.Client]:
    port = free_ports(1)[0]
    command = [str(FEAST), "-c", str(repository(world.settings)), "serve", "-p", str(port), "--no-access-log"]
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment(), stdout=output, stderr=output)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10.0) as client:
            _await(client, process, log)
            yield client
    finally:
        process.terminate()
        process.wait(timeout=30)


def _await(client: httpx.Client, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + UP_TIMEOUT_S
    while True:
        try:
            if client.get("/health").status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail(log.read_text(encoding="utf-8")[-4_000:])
        time.sleep(0.05)


def read(client: httpx.Client, features: object, entities: dict[str, list[str]]) -> dict[str, list[Any]]:
    asked = features if isinstance(features, dict) else {"features": features}
    answer = client.post("/get-online-features", json=asked | {"entities": entities})
    assert answer.status_code == httpx.codes.OK, answer.text
    body = answer.json()
    names = body["metadata"]["feature_names"]
    return {name: result["values"] for name, result in zip(names, body["results"], strict=True)}


def test_the_server_reads_and_pushes(world: World, tmp_path: Path) -> None:
    cities = [f"c{n}" for n in (3, 99, 0, 3)]
    with serving(world, tmp_path / "serve.log") as client:
        world.write([packed(demand(ago(0), rides=n, city=f"c{n}")) for n in range(20)])
        RollingStore(world.client, VIEW).write(
            batch([Swipe(tenant="t", id="1", card="card", at=ago(1), cents=40)])
        )
        entities = {"tenant": ["t"] * 4, "city": cities, "zone": ["z"] * 4}
        found = read(client, [f"demand:{name}" for name in NAMES], entities)
        assert found["rides"] == [3, None, 0, 3]
        for at, city in enumerate(cities):
            assert {name: found[name][at] for name in NAMES} == world.read("t", city, "z", NAMES)
        service = read(client, {"feature_service": "ride"}, entities | {"card": ["card"] * 4})
        assert service["count_60s"] == [1] * 4
        assert service["rides"] == [3, None, 0, 3]
        row = demand(ago(0), city="pushed", rides=77)
        pushed = {name: [value.isoformat() if name == "window_end" else value] for name, value in row.items()}
        answer = client.post("/push", json={"push_source_name": "demand_push", "df": pushed, "to": "online"})
        assert answer.status_code == httpx.codes.OK, answer.text
        assert world.read("t", "pushed", "z", ["rides", "tips"]) == {"rides": 77, "tips": 0.25}


def test_the_command_line_lists_and_materializes(world: World, tmp_path: Path) -> None:
    listed = feast(world, "feature-views", "list")
    assert all(name in listed for name in ("demand", "swipes", "card_activity"))
    at = ago(-3_600).replace(microsecond=0)  # the commands start slowly, and values live for 30 s
    record(tmp_path, [demand(at, rides=5)])
    feast(world, "materialize", ago(60).isoformat()[:19], ago(-7_200).isoformat()[:19])
    assert world.read("t", "a", "z", ["rides"]) == {"rides": 5}


def test_the_settings_file_is_its_owners(world: World) -> None:
    file = repository(world.settings) / "feature_store.yaml"
    assert file.stat().st_mode & 0o077 == 0
