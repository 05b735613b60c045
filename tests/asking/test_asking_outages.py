"""What still works while Redis or the broker is away, and that all of it works again after."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from core.ids import new_id
from stack.local import Stack
from tests.asking.world import World, payment, until, world
from tests.features.redis_server import RedisServer, own_redis

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
def http(here: World) -> Iterator[httpx.Client]:
    gateway, worker = here.start("gateway"), here.start("scoring", "0")
    gateway.wait_ready()
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
