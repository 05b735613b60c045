"""The gateway on the real stack: what it accepts, refuses and pushes."""

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import psycopg
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from core.clock import to_millis
from core.errors import InvalidInput, Unavailable
from core.ids import new_id
from core.settings import Settings
from gateway.client import GatewayClient, Listening, PushedEvent
from gateway.keys import parse, revoke_key
from pipelines.changes import apply_topics
from schemas.broker import producer
from schemas.catalog.training import STATUS, SYSTEM_TENANT, TrainingStatus
from schemas.catalog.training import TOPICS as TRAINING_TOPICS
from schemas.catalog.transactions import Transaction
from schemas.codec import RecordCodec
from schemas.headers import header
from schemas.registry import SchemaRegistry
from stack.local import Stack
from tests.gateway.running import (
    FRAUD,
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
JSON = {"content-type": "application/json"}
WITHIN_S = 20.0


@pytest.fixture(scope="module")
def settings_of_gateway(stack: Stack) -> Settings:
    """A small ring, so that resuming reaches beyond it."""
    given = stack.settings
    return given.model_copy(update={"gateway": given.gateway.model_copy(update={"push_ring": 100})})


@pytest.fixture(scope="module")
def gateway(settings_of_gateway: Settings) -> Iterator[RunningGateway]:
    with RunningGateway(settings_of_gateway) as running:
        yield running


@pytest.fixture(scope="module")
def http(gateway: RunningGateway) -> Iterator[httpx.Client]:
    with gateway.http() as client:
        yield client


def test_an_accepted_event_is_on_kafka_as_it_was_sent(gateway: RunningGateway, http: httpx.Client) -> None:
    id = new_id()
    answer = http.post(EVENTS, json=transaction(id=id, amount_cents=4321, card_id="a|b"))
    assert answer.status_code == 202
    message = on_the_topic(gateway.settings, {id})[id]
    codec = RecordCodec(Transaction, SchemaRegistry.of(gateway.settings), FRAUD.source.subject)
    record = codec.decode(message.value())
    assert (record.tenant, record.id, record.amount_cents, record.card_id) == ("acme", id, 4321, "a|b")
    assert message.key() == b"acme|a%7Cb"
    assert message.timestamp()[1] == to_millis(record.occurred_at)
    received = datetime.fromisoformat(answer.json()["received_at"])
    assert header(message.headers(), "ce_receivedat") == str(to_millis(received))
    assert abs((datetime.now(UTC) - received).total_seconds()) < 30


def test_a_get_right_after_the_202_finds_the_transaction(http: httpx.Client, gateway: RunningGateway) -> None:
    for _ in range(20):
        id = http.post(EVENTS, json=transaction()).json()["id"]
        found = http.get(f"/api/v1/transactions/{id}")
        assert (found.status_code, found.json()["status"], found.json()["id"]) == (200, "provisional", id)
    with gateway.http("other") as other:
        assert other.get(f"/api/v1/transactions/{id}").status_code == 404
    assert http.get("/api/v1/transactions/absent").status_code == 404


OWN = [
    ("GET", "/api/v1/transactions/{id}", None),
    ("GET", "/api/v1/requests/{id}", None),
    ("POST", "/api/v1/reviews/{id}/decision", {"verdict": "fraud"}),
]


def test_what_is_anothers_looks_as_if_it_were_not_there(gateway: RunningGateway) -> None:
    with gateway.http("owner") as http, gateway.http("other") as other:
        id = f"{new_id()}-0"
        event = transaction(id=id, card_id=id)
        assert http.post(EVENTS, json=event).status_code == 202
        asked = {"idempotency-key": id, "prefer": "respond-async"}
        infer = "/api/v1/pipelines/fraud/infer"
        question = transaction(card_id=id)
        eventually(lambda: http.post(infer, json=question, headers=asked).status_code == 202, "asked")
        assert http.get(f"/api/v1/requests/{id}").status_code == 200
        with psycopg.connect(gateway.settings.postgres.address, autocommit=True) as connection:
            connection.execute(
                "INSERT INTO reviews (tenant, id, pipeline, entity, occurred_at, reasons, state, opened_at)"
                " VALUES ('owner', %s, 'fraud', 'e', now(), '[]', 'open', now())",
                (id,),
            )
        for method, path, body in OWN:
            seen = []
            for name in (id, f"{id[:-1]}1"):
                answer = other.request(method, path.format(id=name), json=body)
                told = answer.text.replace(name, "ID").replace(answer.headers["x-request-id"], "REQUEST")
                seen.append((answer.status_code, told, answer.headers.get("content-type")))
            assert seen[0] == seen[1], path
            assert seen[0][0] == 404, path
        assert id not in other.get("/api/v1/reviews").text
        # the same names are the other's own too
        assert other.post(EVENTS, json=event | {"amount_cents": 5}).status_code == 202
        assert other.post(infer, json=transaction(card_id="x"), headers=asked).status_code == 202
        assert http.get(f"/api/v1/transactions/{id}").json()["id"] == id


def test_the_row_in_the_database_wins_over_the_acceptance(
    gateway: RunningGateway, http: httpx.Client
) -> None:
    id = http.post(EVENTS, json=transaction()).json()["id"]
    with psycopg.connect(gateway.settings.postgres.address, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO transactions (tenant, id, pipeline, entity, occurred_at, status, rank, changed_at)"
            " VALUES ('acme', %s, 'fraud', 'e', now(), 'blocked', 1, now())",
            (id,),
        )
    assert http.get(f"/api/v1/transactions/{id}").json()["status"] == "blocked"


def test_repeating_gives_the_same_answer_and_other_content_a_conflict(
    gateway: RunningGateway, http: httpx.Client
) -> None:
    event = transaction(id=new_id())
    first = http.post(EVENTS, json=event)
    again = http.post(EVENTS, content=json.dumps(event, indent=1), headers=JSON)
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json() == again.json()
    other = http.post(EVENTS, json=event | {"amount_cents": 2})
    assert (other.status_code, other.json()["code"]) == (409, "conflict")
    on_the_topic(gateway.settings, {event["id"]})  # fails where it is there twice


@pytest.mark.parametrize(
    ("path", "content", "headers", "status", "code"),
    [
        (EVENTS, b"{", JSON, 400, "malformed_body"),
        (EVENTS, b'{"d1":NaN}', JSON, 400, "malformed_body"),
        (EVENTS, b'{"card_id":"a","card_id":"a"}', JSON, 400, "duplicate_key"),
        (EVENTS, b'{"card_id":"\xff"}', JSON, 400, "malformed_body"),
        (EVENTS, b"{}", {"content-type": "text/csv"}, 415, "unsupported_media_type"),
        (EVENTS, b'{"x":"' + b"y" * 65_536 + b'"}', JSON, 413, "too_large"),
        (EVENTS, b"[" + b"{}," * 1000 + b"{}]", JSON, 413, "too_many_events"),
        (EVENTS, b"x" * (17 * 1024 * 1024), JSON, 413, "too_large"),
        ("/api/v1/pipelines/frod/events", b"{}", JSON, 404, "unknown_pipeline"),
        (EVENTS, b"{}", JSON | {"authorization": "Bearer nonsense"}, 401, "unauthenticated"),
        (EVENTS, b"{}", JSON | {"authorization": ""}, 401, "unauthenticated"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_bad_input_is_a_problem_document(
    http: httpx.Client, path: str, content: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    answer = http.post(path, content=content, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    assert http.post(EVENTS, json=transaction()).status_code == 202


def test_422_names_every_field(http: httpx.Client) -> None:
    event = transaction(amount_cents="5", card1=2**31, nonsense=1, occurred_at="2001-01-01T00:00:00Z")
    del event["product"]
    answer = http.post(EVENTS, json=event)
    assert answer.status_code == 422
    named = {field["pointer"] for field in answer.json()["errors"]}
    assert named == {"/amount_cents", "/card1", "/nonsense", "/occurred_at", "/product"}


def test_event_times_out_of_bounds_are_422(http: httpx.Client) -> None:
    for at in (datetime.now(UTC) - timedelta(days=8), datetime.now(UTC) + timedelta(minutes=6)):
        answer = http.post(EVENTS, json=transaction(occurred_at=at.isoformat()))
        assert answer.status_code == 422
        assert [field["pointer"] for field in answer.json()["errors"]] == ["/occurred_at"]


def test_unknown_views_and_reviews_are_404(gateway: RunningGateway, http: httpx.Client) -> None:
    answer = http.get("/api/v1/features/card_activty/1-2-3")
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_view")
    assert "card_activity" in answer.json()["mend"]
    assert http.get("/api/v1/features/card_activity/never-seen").status_code == 200
    with gateway.http(f"of-{new_id()}") as another:
        assert another.get("/api/v1/reviews").json() == {"reviews": [], "after": None}
    assert http.get("/api/v1/reviews?limit=0").status_code == 400
    assert http.get("/api/v1/reviews?after=garbage").status_code == 422
    assert http.post("/api/v1/reviews/absent/decision", json={"verdict": "fraud"}).status_code == 404
    assert http.post("/api/v1/reviews/absent/decision", json={"verdikt": "fraud"}).status_code == 422


async def test_a_batch_is_accepted_by_the_client(gateway: RunningGateway) -> None:
    events = [transaction(id=new_id(), card_id=f"card-{n % 50}") for n in range(2000)]
    async with GatewayClient(gateway.url, gateway.key()) as client:
        outcomes = await client.publish("fraud", events)
        assert [outcome.id for outcome in outcomes] == [event["id"] for event in events]
        mixed = await client.publish_batch("fraud", [transaction(), {"a": 1}])
        assert [outcome.status for outcome in mixed.outcomes] == [202, 422]
        assert {"validate", "publish"} <= mixed.server_ms.keys()
    found = await asyncio.to_thread(on_the_topic, gateway.settings, {event["id"] for event in events})
    assert len(found) == len(events)


def put(settings: Settings, topic: str, values: list[bytes]) -> None:
    """Put messages on the first partition of a topic."""
    client = producer(settings)
    for number, value in enumerate(values):
        client.produce(topic, value=value, key=str(number), partition=0)
    assert client.flush(30) == 0


async def take(events: Any, count: int) -> list[PushedEvent]:
    """The first `count` events, within the time."""
    found: list[PushedEvent] = []
    async with asyncio.timeout(WITHIN_S):
        async for event in events:
            found.append(event)
            if len(found) == count:
                break
    return found


async def test_push_and_resume_beyond_the_ring_without_loss_or_repeat(gateway: RunningGateway) -> None:
    prefix, spied = new_id(), Listening()
    async with GatewayClient(gateway.url, gateway.key()) as client:
        state = Listening()
        listening = client.listen("fraud", state=state)
        other = GatewayClient(gateway.url, gateway.key("other"))
        spy = asyncio.create_task(take(other.listen("fraud", state=spied), 1))
        first = asyncio.create_task(take(listening, 50))
        async with asyncio.timeout(WITHIN_S):
            await state.subscribed.wait()
            await spied.subscribed.wait()
        ids = [f"{prefix}-{n}" for n in range(1500)]
        await asyncio.to_thread(produce, gateway.settings, [change(id) for id in ids[:50]])
        seen = [event.id for event in await first]
        await listening.aclose()  # type: ignore[attr-defined]

        # while nobody listens: more than the ring holds, and repeats of what was pushed already
        missed = [change(id) for id in ids[50:]] + [change(id) for id in ids[:20]]
        await asyncio.to_thread(produce, gateway.settings, missed)
        resumed = Listening(positions=dict(state.positions))
        rest = await take(client.listen("fraud", state=resumed), 1450)
        seen += [event.id for event in rest]
        assert sorted(seen) == sorted(ids)
        assert resumed.gaps == []
        by_partition: dict[int, list[int]] = {}
        for event in rest:
            by_partition.setdefault(event.partition, []).append(int(event.id.rpartition("-")[2]))
        assert all(numbers == sorted(numbers) for numbers in by_partition.values())
        assert rest[0].data["result"]["score"] == 7.5
        assert not spy.done()
        spy.cancel()
        await other.__aexit__(None, None, None)


async def test_what_was_pushed_can_be_read_and_never_older(gateway: RunningGateway) -> None:
    async with GatewayClient(gateway.url, gateway.key()) as client:
        (outcome,) = await client.publish("fraud", [transaction()])
        assert outcome.id is not None
        state = Listening()
        pushed = asyncio.create_task(take(client.listen("fraud", state=state), 1))
        async with asyncio.timeout(WITHIN_S):
            await state.subscribed.wait()
        await asyncio.to_thread(produce, gateway.settings, [change(outcome.id, status="blocked")])
        (event,) = await pushed
        found = await client.transaction(outcome.id)
        assert found is not None
        assert (event.data["status"], found["status"], found["score"]) == ("blocked", "blocked", 7.5)


async def test_a_named_subscription_and_an_event_stream_go_on_on_the_real_stack(
    gateway: RunningGateway,
) -> None:
    name, prefix, state = new_id(), new_id(), Listening()
    ids = [f"{prefix}-{n}" for n in range(40)]
    mine = {"id": ids}
    async with GatewayClient(gateway.url, gateway.key()) as client:
        first = asyncio.create_task(take(client.listen("fraud", name=name, state=state, filter=mine), 20))
        async with asyncio.timeout(WITHIN_S):
            await state.subscribed.wait()
        await asyncio.to_thread(produce, gateway.settings, [change(id) for id in ids])
        seen = [event.id for event in await first]
        async with client.stream() as stream:
            await stream.subscribe("results", pipeline="fraud", name=name)
            for position in state.positions.values():
                await stream.acknowledge(name, position)
            missing = {"card_id": 5}
            with pytest.raises(InvalidInput):
                await stream.publish("fraud", missing)
            accepted = await stream.publish("fraud", transaction())
            assert accepted["status"] == "provisional"
            with pytest.raises(Unavailable) as late:  # nobody answers here
                await stream.ask("fraud", transaction(), wait_s=1)
            assert late.value.code == "deadline_exceeded"
            with pytest.raises(InvalidInput):  # not applied
                await stream.subscribe("chat")
        rest = await take(client.listen("fraud", name=name, filter=mine), 20)
        assert sorted(seen + [event.id for event in rest]) == sorted(ids)
        assert {event.channel for event in rest} == {"results:fraud"}

    headers = {
        "authorization": f"Bearer {gateway.key()}",
        "last-event-id": ".".join(state.positions.values()),
    }
    params = {"channel": "results", "pipeline": "fraud", "filter": json.dumps({"id": ids})}
    async with (
        httpx.AsyncClient(base_url=gateway.url, headers=headers, timeout=60) as http,
        http.stream("GET", "/api/v1/stream", params=params) as response,
    ):
        found: list[str] = []
        async for line in response.aiter_lines():
            if line.startswith("data: ") and '"type":"event"' in line:
                found.append(json.loads(line[6:])["id"])
            if len(found) == 20:
                break
        assert sorted(found) == sorted(event.id for event in rest)


async def test_trainings_are_pushed_once_their_topics_are_there(gateway: RunningGateway) -> None:
    await asyncio.to_thread(apply_topics, TRAINING_TOPICS, gateway.settings)
    codec = RecordCodec(TrainingStatus, SchemaRegistry.of(gateway.settings), STATUS.subject)
    now, state = datetime.now(UTC), Listening()
    async with GatewayClient(gateway.url, gateway.key()) as client:
        while True:  # the gateway looks for the topic each few seconds
            try:
                async with client.stream() as stream:
                    await stream.subscribe("jobs")
                break
            except Unavailable:
                await asyncio.sleep(0.1)
        pushed = asyncio.create_task(take(client.listen(None, channel="jobs", state=state), 2))
        async with asyncio.timeout(WITHIN_S):
            await state.subscribed.wait()
        mine, foreign, everyones = (
            TrainingStatus(
                tenant=tenant, id=new_id(), model="fraud", state="running", created_at=now, changed_at=now
            )
            for tenant in ("acme", "other", SYSTEM_TENANT)
        )
        records = [codec.encode(status) for status in (foreign, mine, everyones)]
        await asyncio.to_thread(put, gateway.settings, STATUS.name, records)
        assert [event.id for event in await pushed] == [mine.id, everyones.id]


async def test_garbage_positions_recover_nothing_and_go_on(gateway: RunningGateway) -> None:
    async with GatewayClient(gateway.url, gateway.key()) as client:
        state, id = Listening(positions={"0": "garbage"}), new_id()
        pushed = asyncio.create_task(take(client.listen("fraud", state=state), 1))
        async with asyncio.timeout(WITHIN_S):
            await state.subscribed.wait()
        assert state.gaps
        await asyncio.to_thread(produce, gateway.settings, [change(id)])
        assert [event.id for event in await pushed] == [id]


async def test_a_revoked_key_ends_requests_and_sockets_within_two_seconds(gateway: RunningGateway) -> None:
    key = gateway.key()
    url = gateway.url.replace("http", "ws") + "/api/v1/stream"
    async with connect(url, additional_headers={"authorization": f"Bearer {key}"}) as socket:
        await socket.send('{"type":"connect"}')
        assert json.loads(await socket.recv())["type"] == "connected"
        parsed = parse(key)
        assert parsed is not None
        await asyncio.to_thread(revoke_key, gateway.settings, parsed[0])
        with pytest.raises(ConnectionClosed) as closed:
            async with asyncio.timeout(2.0):
                await socket.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 4401
    refused = httpx.get(f"{gateway.url}/api/v1/reviews", headers={"authorization": f"Bearer {key}"})
    assert refused.status_code == 401


async def test_stopping_closes_sockets_with_1001_and_finishes_what_was_begun(
    settings_of_gateway: Settings, free_port: int
) -> None:
    alone = settings_of_gateway.gateway.model_copy(update={"port": free_port})
    running = RunningGateway(settings_of_gateway.model_copy(update={"gateway": alone}))
    await asyncio.to_thread(running.__enter__)
    key, body = running.key(), json.dumps(transaction()).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", free_port)
    head = f"POST {EVENTS} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Authorization: Bearer {key}\r\nContent-Length: {len(body)}\r\n\r\n".encode())
    writer.write(body[:10])
    async with connect(running.url.replace("http", "ws") + "/api/v1/stream") as socket:
        await socket.send(json.dumps({"type": "connect", "token": key}))
        assert json.loads(await socket.recv())["type"] == "connected"
        stopping = asyncio.create_task(asyncio.to_thread(running.__exit__))
        with pytest.raises(ConnectionClosed) as closed:
            async with asyncio.timeout(60):
                await socket.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1001
        writer.write(body[10:])
        async with asyncio.timeout(60):
            answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 202 "), answer
        assert b"connection: close\r\n" in answer.lower()
        await stopping
    writer.close()
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{running.url}/livez", timeout=2)


@pytest.fixture
def free_port() -> int:
    import socket

    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port: int = held.getsockname()[1]
        return port
