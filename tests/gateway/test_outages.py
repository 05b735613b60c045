"""How the gateway comes through outages of what it leans on."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from websockets.sync.client import connect as connect_blocking

from core.ids import new_id
from stack.local import Stack
from tests.gateway.running import (
    RunningGateway,
    change,
    eventually,
    on_the_topic,
    produce,
    transaction,
)

pytestmark = pytest.mark.services

EVENTS = "/api/v1/pipelines/fraud/events"
INFER = "/api/v1/pipelines/fraud/infer"


@pytest.fixture(scope="module")
def gateway(stack: Stack) -> Iterator[RunningGateway]:
    with RunningGateway(stack.settings) as running:
        yield running


@pytest.fixture(scope="module")
def http(gateway: RunningGateway) -> Iterator[httpx.Client]:
    with gateway.http() as client:
        yield client


@contextmanager
def followed(gateway: RunningGateway) -> Iterator[Callable[[], str]]:
    """One socket on the results, open all the time; waits for the next result and gives its id."""
    with connect_blocking(gateway.url.replace("http", "ws") + "/api/v1/stream") as socket:

        def next_of(kind: str) -> Any:
            while (frame := json.loads(socket.recv(60)))["type"] != kind:
                assert frame["type"] == "ping", frame
                socket.send('{"type":"pong"}')
            return frame

        socket.send(json.dumps({"type": "connect", "token": gateway.key()}))
        next_of("connected")
        socket.send(json.dumps({"type": "subscribe", "channel": "results", "pipeline": "fraud"}))
        next_of("subscribed")
        yield lambda: next_of("event")["id"]


def outage(stack: Stack, gateway: RunningGateway, service: str, during: Callable[[], None]) -> None:
    """Stop a service, look, start it, and see that the gateway is ready again by itself."""
    stack.stop(service)
    try:
        during()
    finally:
        stack.start(service)
        stack.wait_ready([service])
    gateway.wait_ready(60)


@pytest.mark.parametrize("service", ["kafka", "registry"])
def test_without_kafka_or_registry_nothing_is_accepted_and_it_recovers(
    stack: Stack, gateway: RunningGateway, http: httpx.Client, service: str
) -> None:
    event = transaction(id=new_id())

    def refused() -> bool:
        answer = http.post(EVENTS, json=transaction())
        assert answer.status_code in (202, 503)
        return answer.status_code == 503

    def during() -> None:
        eventually(refused, f"{service} away is 503")
        begin = time.monotonic()
        answer = http.post(EVENTS, json=event)
        assert (answer.status_code, answer.json()["code"]) == (503, f"{service}_unavailable")
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.json()["retryable"] is True
        assert time.monotonic() - begin < 1.0, "refused at once, not after a timeout"
        assert http.get(f"/api/v1/transactions/{event['id']}").status_code == 404
        assert http.get("/ready").status_code == 503
        assert http.get("/livez").status_code == 200
        assert http.get("/health").json()["status"] == "degraded"
        assert http.get("/api/v1/features/card_activity/1-2-3").status_code == 200
        assert http.get("/api/v1/reviews").status_code == 200

    with followed(gateway) as pushed:
        outage(stack, gateway, service, during)
        id = new_id()
        produce(gateway.settings, [change(id)])
        assert pushed() == id, "the same socket goes on"
    eventually(lambda: http.post(EVENTS, json=event).status_code == 202, "accepted again", 60)
    on_the_topic(gateway.settings, {event["id"]})


def test_without_redis_events_are_accepted(stack: Stack, gateway: RunningGateway, http: httpx.Client) -> None:
    def during() -> None:
        event = transaction(id=new_id())
        assert http.post(EVENTS, json=event).status_code == 202
        assert http.get(f"/api/v1/transactions/{event['id']}").json()["status"] == "provisional"
        assert http.get("/api/v1/features/card_activity/1-2-3").status_code == 503
        assert http.get("/api/v1/reviews").status_code == 200
        on_the_topic(gateway.settings, {event["id"]})
        id = new_id()
        produce(gateway.settings, [change(id)])
        assert pushed() == id

    with followed(gateway) as pushed:
        outage(stack, gateway, "redis", during)
    assert http.post(EVENTS, json=transaction()).status_code == 202


def test_without_the_database_known_keys_go_on(
    stack: Stack, gateway: RunningGateway, http: httpx.Client
) -> None:
    def during() -> None:
        assert http.post(EVENTS, json=transaction()).status_code == 202
        assert http.get("/api/v1/reviews").status_code == 503
        assert http.get("/api/v1/transactions/absent").status_code == 503
        features = "/api/v1/features/card_activity/1-2-3"
        assert http.get(features).status_code == 200
        assert http.get(features, headers={"authorization": f"Bearer {unseen}"}).status_code == 503
        later = http.post(INFER, json=transaction(), headers={"prefer": "respond-async"})
        assert later.status_code == 202
        assert http.get(later.headers["location"]).status_code == 200
        id = new_id()
        produce(gateway.settings, [change(id)])
        assert pushed() == id
        assert http.get(f"/api/v1/transactions/{id}").json()["status"] == "confirmed"

    unseen = gateway.key()
    with followed(gateway) as pushed:
        outage(stack, gateway, "postgres", during)
    eventually(lambda: http.get("/api/v1/reviews").status_code == 200, "reviews again")
