"""What still works while Redis or the broker is away, and that all of it works again after."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from core.ids import new_id
from stack.local import Stack
from tests.asking.world import Process, World, payment, until, world
from tests.features.redis_server import RedisServer, own_redis
from tests.jobs.worker.on_kafka import Alerts

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with own_redis() as made:
        yield made


@pytest.fixture(scope="module")
def here(stack: Stack, server: RedisServer) -> Iterator[World]:
    with world(stack.settings, {"MILLSTREAM_REDIS__PORT": str(server.port)}) as made:
        yield made


@pytest.fixture(scope="module")
def worker(here: World) -> Process:
    return here.start("scoring", "0")


@pytest.fixture(scope="module")
def http(here: World, worker: Process) -> Iterator[httpx.Client]:
    gateway = here.start("gateway").wait_ready()
    worker.wait_ready()
    with here.client(gateway) as client:
        yield client


def ask(here: World, http: httpx.Client, **headers: str) -> httpx.Response:
    return http.post(here.path, json=payment(ms=5000), headers=headers)


def level(here: World, http: httpx.Client) -> Any:
    answer = ask(here, http, prefer="wait=10")
    return answer.json()["level"] if answer.status_code == 200 else answer.text


def test_without_redis_who_waits_is_answered_and_told_so(
    here: World, http: httpx.Client, server: RedisServer
) -> None:
    until(lambda: level(here, http) == "live", "features are read")
    known = new_id()
    assert ask(here, http, **{"idempotency-key": known}).status_code == 200
    server.kill()
    try:
        until(lambda: level(here, http) == "no_features", "answered without features")
        later = ask(here, http, prefer="respond-async")
        assert later.status_code == 503
        assert later.json()["retryable"]
        assert "retry-after" in later.headers
        assert http.get(f"/api/v1/requests/{known}").status_code == 503
        # the worker's own memory stands in for the store: a repeat is answered alike, another body refused
        key, body = new_id(), payment(ms=5000)
        first = http.post(here.path, json=body, headers={"idempotency-key": key})
        again = http.post(here.path, json=body, headers={"idempotency-key": key})
        other = http.post(here.path, json=body | {"amount_cents": 1}, headers={"idempotency-key": key})
        assert (first.status_code, again.json()) == (200, first.json())
        assert other.status_code == 409
    finally:
        server.start()
    until(lambda: level(here, http) == "live", "features are read again")
    until(lambda: ask(here, http, prefer="respond-async").status_code == 202, "answered later again")


def test_without_the_broker_asking_is_refused_and_goes_on_after(
    here: World, http: httpx.Client, stack: Stack
) -> None:
    until(lambda: level(here, http) == "live", "it works")
    stack.stop("kafka")
    try:
        refused = until(
            lambda: (answer := ask(here, http, prefer="wait=2")).status_code == 503 and answer, "it is 503"
        )
        assert refused.json()["code"] == "kafka_unavailable"
    finally:
        stack.start("kafka")
        stack.wait_ready(["kafka"])
    until(lambda: level(here, http) == "live", "it works again", 60)
    for _ in range(20):
        assert level(here, http) == "live"


def test_a_model_that_hangs_is_answered_for_and_raises_an_alert(
    here: World, http: httpx.Client, worker: Process, tmp_path: Path
) -> None:
    """The declared decision, with a warning; and the rate of what the model did not answer."""
    file, told = tmp_path / "rates.toml", Alerts(here.domain)
    file.write_text('[[threshold]]\noperator = "infer"\nrate = 0.5\nminutes = 1\ncalls = 5\n')
    assert worker.stop() == 0
    hanging = here.start(
        "levels", "60000", MILLSTREAM_ALERTING__THRESHOLDS=str(file), MILLSTREAM_ALERTING__PERIOD_S="0.1"
    ).wait_ready()
    for _ in range(5):
        answer = ask(here, http, prefer="wait=60")
        assert answer.status_code == 200, answer.text
        body = answer.json()
        assert (body["decision"], body["level"], body["degraded"]) == ("review", "static", True)
        assert (body["score"], body["model_version"]) == (None, None)
        assert body["warning"].startswith("answered by static: version 1")
    until(lambda: told.kinds() == ["error_rate"], "the alert is raised", 60)
    assert told.all()[0].subject == "infer"
    assert 'fallback_answers_total{chain="' in httpx.get(f"{hanging.url}/metrics").text
    assert hanging.stop() == 0, "what hangs keeps no process"
