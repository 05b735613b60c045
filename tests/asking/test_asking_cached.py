"""Answers that are given again, on real services: two gateways, one worker, and a Redis that dies."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from core.clock import SystemClock
from core.ids import new_id
from pipelines.outbox import RecordOutbox
from schemas.catalog.alerts import SYSTEM_TENANT
from schemas.catalog.models import ROUTING, Route, Routing
from schemas.registry import SchemaRegistry
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
def gateways(here: World) -> Iterator[list[httpx.Client]]:
    worker = here.start("versions")
    made = [here.start("cached-gateway") for _ in range(2)]
    clients = [here.client(one.wait_ready()) for one in made]
    worker.wait_ready()
    until(lambda: kept(here, clients[0], payment(ms=100)), "the version is known, and features are read", 60)
    until(lambda: kept(here, clients[1], payment(ms=100)), "the version is known there too", 60)
    yield clients
    for client in clients:
        client.close()


def ask(here: World, http: httpx.Client, body: dict[str, Any], **headers: str) -> httpx.Response:
    return http.post(here.path, json=body, headers={"prefer": "wait=60", **headers})


def kept(here: World, http: httpx.Client, body: dict[str, Any]) -> bool:
    answer = ask(here, http, body)
    return answer.status_code == 200 and "stored" in answer.headers.get("cache-status", "")


def test_memory_then_redis_then_the_pipeline(here: World, gateways: list[httpx.Client]) -> None:
    one, other = gateways
    body = payment(ms=5000)
    first = ask(here, one, body)
    assert first.headers["cache-status"] == "redis; fwd=miss; stored, memory; fwd=miss; stored"
    assert (first.headers["cache-control"], first.headers["age"]) == ("private, max-age=60", "0")
    again = ask(here, one, body)
    assert again.headers["cache-status"].startswith("memory; hit; ttl=")
    elsewhere = until(
        lambda: (answer := ask(here, other, body | {"id": new_id()}, **{"cache-control": "only-if-cached"}))
        .is_success and answer,
        "it is in Redis",
    )  # fmt: skip
    assert elsewhere.headers["cache-status"].startswith("redis; hit; ttl=")
    assert len({answer.json()["decided_at"] for answer in (first, again, elsewhere)}) == 1
    assert len({answer.json()["id"] for answer in (first, again, elsewhere)}) == 3
    assert "no-store" in one.get(f"/api/v1/requests/{first.json()['id']}").headers["cache-control"]
    metrics = one.get("/metrics").text
    for level in ("memory", "miss"):
        assert f'millstream_gateway_cached_asks_total{{level="{level}",pipeline="{here.domain}"}}' in metrics


def test_a_key_has_one_answer_on_both_gateways(here: World, gateways: list[httpx.Client]) -> None:
    one, other = gateways
    body, keyed = payment(ms=2500), {"idempotency-key": new_id()}
    ask(here, one, body)
    hit = ask(here, one, body, **keyed)
    assert "memory; hit" in hit.headers["cache-status"]
    for gateway in gateways:
        again = ask(here, gateway, body, **keyed)
        assert (again.content, again.headers["idempotent-replayed"]) == (hit.content, "true")
        assert ask(here, gateway, body | {"amount_cents": 1}, **keyed).status_code == 409
    found = other.get(f"/api/v1/requests/{keyed['idempotency-key']}").json()
    assert (found["state"], found["answer"]) == ("answered", hit.json())


def test_redis_away_leaves_memory_and_the_pipeline(
    here: World, gateways: list[httpx.Client], server: RedisServer
) -> None:
    http, body = gateways[0], payment(ms=2500)
    until(lambda: kept(here, http, body), "features are read")
    server.kill()
    try:
        assert "memory; hit" in ask(here, http, body).headers["cache-status"]
        keyed = ask(here, http, body, **{"idempotency-key": new_id()})
        assert (keyed.status_code, keyed.headers["cache-status"]) == (200, "memory; fwd=bypass")
        # no features without Redis: answered, degraded, and so not kept
        other = ask(here, http, payment(ms=2500))
        assert (other.status_code, other.json()["degraded"]) == (200, True)
        assert "stored" not in other.headers["cache-status"]
    finally:
        server.start()
    until(lambda: kept(here, http, payment(ms=2500)), "features are read again", 60)


def test_another_version_in_service_answers_anew(
    here: World, gateways: list[httpx.Client], stack: Stack
) -> None:
    http, body = gateways[0], payment(ms=5000)
    assert ask(here, http, body).json()["model_version"] == "1"
    assert "memory; hit" in ask(here, http, body).headers["cache-status"]
    now = SystemClock().now()
    routing = Routing(
        tenant=SYSTEM_TENANT, id=new_id(), model=here.domain, revision=1, routes=[Route("2")], salt="s",
        previous="1", decided_at=now,
    )  # fmt: skip
    outbox = RecordOutbox(stack.settings, SchemaRegistry.of(stack.settings), source="test")
    outbox.publish(ROUTING, [routing])
    outbox.close()
    changed = until(
        lambda: (answer := ask(here, http, body)).json()["model_version"] == "2" and answer, "version 2", 60
    )
    assert "hit" not in changed.headers["cache-status"]
    until(lambda: "memory; hit" in ask(here, http, body).headers["cache-status"], "its answers are kept")
    assert ask(here, http, body).json()["model_version"] == "2"
