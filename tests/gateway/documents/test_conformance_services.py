"""A gateway on the real stack answers as its documents say: to what schemathesis makes of them, over HTTP;
and over a socket and an event stream.

A small pipeline with an answering process stands in for the shipped one that scores: its record has 400
fields, of which requests cannot be made in the time of a test.
"""

import json
import re
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from schemathesis import GenerationMode
from websockets.sync.client import ClientConnection, connect

from core.clock import SystemClock
from core.ids import new_id
from core.settings import settings
from gateway.exchange import Request
from gateway.main import Assembly
from pipelines.changes import apply_topics
from pipelines.load import load_services
from pipelines.outbox import RecordOutbox
from schemas.catalog.experiments import EXPERIMENTS
from schemas.catalog.training import TOPICS
from schemas.registry import SchemaRegistry
from stack.local import Stack
from tests.asking.world import Process
from tests.gateway.documents.conformance import Api, now, unchanged
from tests.gateway.documents.made import validator
from tests.gateway.running import PLANS, START_S, RunningGateway, change, eventually, forget_trainings
from tests.jobs.worker.payments import plan

pytestmark = pytest.mark.services

DOMAIN = "documented"
SECONDS = 75.0
EXAMPLES = 12
ENDLESS = "GET /api/v1/stream"
READ = (
    "/api/v1/reviews", "/api/v1/training/jobs", "/api/v1/models", "/livez", "/startupz", "/health", "/ready",
    "/readyz", "/metrics", "/openapi.json", "/asyncapi.json", "/docs",
)  # fmt: skip


@pytest.fixture(scope="module")
def gateway(stack: Stack) -> Iterator[RunningGateway]:
    given = stack.settings
    patient = given.asking.model_copy(update={"wait_s": 60.0})
    given = given.model_copy(update={"asking": patient})
    plans = {name: one for name, one in PLANS.items() if name != "fraud"} | {DOMAIN: plan(DOMAIN)}
    apply_topics([*TOPICS, EXPERIMENTS], given)
    with RunningGateway(given, plans) as running:
        worker = Process("scoring", DOMAIN, {}, "0").wait_ready()
        yield running
        worker.stop()
    forget_trainings(given)


@pytest.fixture(scope="module")
def key(gateway: RunningGateway) -> str:
    return gateway.key()


@pytest.fixture(scope="module")
def document(gateway: RunningGateway) -> Any:
    return httpx.get(f"{gateway.url}/openapi.json", timeout=30).json()


@pytest.fixture(scope="module")
def api(gateway: RunningGateway, key: str, document: Any) -> Iterator[Api]:
    made = Api(document, gateway.url, key, ready=lambda: gateway.wait_ready(START_S))
    with gateway.http() as http:  # what is read of Kafka is there a moment after the gateway
        for path in ("/api/v1/models", "/api/v1/training/jobs"):
            eventually(lambda path=path: http.get(path).status_code == 200, path, within_s=120)
    yield made
    made.close()


def test_answers_are_as_the_document_says(api: Api) -> None:
    """No 5xx; status, type, headers and body as documented; what breaks the document is refused."""
    operations = [one for one in api.operations() if one.label != ENDLESS]
    share = SECONDS / (2 * len(operations))
    for operation in operations:
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            until = time.monotonic() + share
            adapt = now if mode is GenerationMode.POSITIVE else unchanged
            api.check(operation, mode, examples=EXAMPLES, until=until, adapt=adapt)
    assert len(api.statuses) == len(operations)


def test_what_is_written_can_be_read_as_the_document_says(gateway: RunningGateway, api: Api) -> None:
    operations = {one.label: one for one in api.operations()}

    def send(label: str, status: int, **given: Any) -> Any:
        answer = api.send(operations[label], **given)
        assert answer.status_code == status, answer.text
        return answer

    def path(id: str) -> dict[str, dict[str, str]]:
        return {"path_parameters": {"id": id}}

    for one in READ:
        send(f"GET {one}", 200)
    event = {"card_id": new_id(), "occurred_at": datetime.now(UTC).isoformat(), "amount_cents": 4_200}
    published = send(f"POST /api/v1/pipelines/{DOMAIN}/events", 202, body=event)
    send(f"POST /api/v1/pipelines/{DOMAIN}/events", 207, body=[event | {"id": new_id()}, {}])
    send("GET /api/v1/transactions/{id}", 200, **path(published.json()["id"]))
    send("GET /api/v1/features/recent/{entity}", 200, path_parameters={"entity": event["card_id"]})
    infer, key = f"POST /api/v1/pipelines/{DOMAIN}/infer", new_id()
    send(infer, 200, body=event, headers={"Idempotency-Key": key})
    send(infer, 409, body=event | {"amount_cents": 1}, headers={"Idempotency-Key": key})
    later = send(infer, 202, body=event, headers={"Prefer": "respond-async"})
    for id in (key, later.json()["id"]):
        send("GET /api/v1/requests/{id}", 200, **path(id))
    wanted = {"features": ["recent:count_1h", "recent:mean_1h"], "entities": [event["card_id"], "unknown"]}
    send("POST /api/v1/features/read", 200, body=wanted)
    job = send("POST /api/v1/training/jobs", 202, body={"model": "fraud", "search": {"trials": 2}})
    send("GET /api/v1/training/jobs/{id}", 200, **path(job.json()["id"]))
    send("POST /api/v1/training/jobs/{id}/acknowledge", 409, **path(job.json()["id"]))
    send("GET /api/v1/models/{id}", 404, **path("nothing"))


def test_without_a_key_answers_are_as_the_document_says(api: Api) -> None:
    for operation in api.operations():
        parameters = {one.name: "x" for one in operation.path_parameters}
        secured = bool(operation.definition.raw.get("security"))
        if secured:
            answer = api.unauthorized(operation, path_parameters=parameters)
            assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated"), operation.label


async def test_the_documents_list_the_routes_that_are_served_and_no_others(gateway: RunningGateway) -> None:
    async with AsyncExitStack() as exits:
        made = await Assembly.make(settings(), PLANS, load_services(), True, SystemClock(), exits)
        router = made.application._admission._router

        async def get(path: str) -> Any:
            async def empty(limit: int) -> bytes:
                return b""

            route, _ = router.find("GET", path)
            answer = await route.handler(Request("GET", path, {}, empty, "request"))
            return json.loads(answer.body)

        document = await get("/openapi.json")
        listed = {
            router.find(method.upper(), re.sub(r"{[^}]*}", "x", path))[0].name
            for path, methods in document["paths"].items()
            for method in methods
        }
        assert listed == {route.name for route in router.routes}
        addresses = {channel["address"] for channel in (await get("/asyncapi.json"))["channels"].values()}
        pushed = made.connections.hub.channels.values()
        assert {channel.feed.topic.name for channel in pushed} <= addresses


@pytest.fixture(scope="module")
def pushed(gateway: RunningGateway) -> Any:
    return httpx.get(f"{gateway.url}/asyncapi.json", timeout=30).json()


class Checked:
    """Frames of one channel, each held against the message of its name."""

    def __init__(self, document: Any, channel: str) -> None:
        self._document = document
        self._messages = document["channels"][channel]["messages"]

    def __call__(self, text: str) -> Any:
        frame = json.loads(text)
        kind: str = frame["type"]
        if kind == "event":
            kind = "event_" + "_".join(frame["channel"].split(":")[:2])
        validator(self._document, self._messages[kind]["payload"]).validate(frame)
        return frame


def _until(socket: ClientConnection, checked: Checked, kind: str) -> Any:
    while (frame := checked(str(socket.recv(timeout=90))))["type"] != kind:
        pass
    return frame


def _change(gateway: RunningGateway) -> None:
    registry = SchemaRegistry.of(gateway.settings)
    outbox = RecordOutbox(gateway.settings, registry, source="test", settle_s=90.0)
    gateway.wait_ready()
    outbox.publish(plan(DOMAIN).status, [change(new_id())])
    outbox.close()
    registry.close()


def test_frames_are_as_the_document_says(gateway: RunningGateway, key: str, pushed: Any) -> None:
    checked = Checked(pushed, "stream")
    body = {"card_id": "c", "occurred_at": "2020-01-01T00:00:00Z", "amount_cents": 1}
    url = f"{gateway.url.replace('http', 'ws')}/api/v1/stream"
    with connect(url, subprotocols=["millstream.v1.json"]) as socket:  # type: ignore[list-item]

        def send(kind: str, **more: Any) -> None:
            socket.send(json.dumps({"type": kind, **more}))

        send("connect", token=key)
        assert _until(socket, checked, "connected")["tenant"] == "acme"
        send("subscribe", channel="results", pipeline=DOMAIN, name="desk")
        subscribed = _until(socket, checked, "subscribed")
        _change(gateway)
        event = _until(socket, checked, "event")
        send("ack", name="desk", position=next(iter(event["positions"].values())))
        send("ack", name="nobody", position="p")
        assert _until(socket, checked, "error")["problem"]["code"] == "unknown_subscription"
        send("publish", id="1", pipeline=DOMAIN, data=body)
        assert _until(socket, checked, "error")["problem"]["code"] == "invalid_record"
        current = body | {"occurred_at": datetime.now(UTC).isoformat()}
        send("publish", id="2", pipeline=DOMAIN, data=current)
        assert _until(socket, checked, "published")["status"] == 202
        send("ask", id="3", pipeline=DOMAIN, data=current)
        assert _until(socket, checked, "answer")["status"] == 200
        send("ping", id="7")
        assert _until(socket, checked, "pong")["id"] == "7"
        send("unsubscribe", channel="results", pipeline=DOMAIN)
        assert _until(socket, checked, "unsubscribed")["channel"] == subscribed["channel"]


def test_events_of_a_stream_are_as_the_document_says(gateway: RunningGateway, key: str, pushed: Any) -> None:
    checked = Checked(pushed, "event_stream")
    headers = {"authorization": f"Bearer {key}"}
    options = {"channel": "results", "pipeline": DOMAIN}
    url = f"{gateway.url}/api/v1/stream"
    with httpx.stream("GET", url, params=options, headers=headers, timeout=90) as answer:
        assert answer.headers["content-type"] == "text/event-stream"
        data = (line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data: "))
        assert checked(next(data))["type"] == "subscribed"
        _change(gateway)
        assert checked(next(data))["type"] == "event"
