"""`POST /events` on the real stack: accepted once, repeated without harm, limited, refused in good order."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import redis
from confluent_kafka import TopicPartition

from core.ids import new_id
from core.settings import Settings
from gateway.client import GatewayClient
from gateway.principals import EVENTS_WRITE, FEATURES_READ
from schemas.broker import consumer, watermarks
from schemas.catalog.user_events import USER_EVENTS, UserEvent
from schemas.codec import RecordCodec
from schemas.headers import header
from schemas.registry import SchemaRegistry
from stack.local import Stack
from tests.gateway.running import RunningGateway, user_event

pytestmark = pytest.mark.services

JSON = {"content-type": "application/json"}
RATE, BURST = 5.0, 40
WITHIN_S = 30.0


@pytest.fixture(scope="module")
def gateway(stack: Stack) -> Iterator[RunningGateway]:
    limited = stack.settings.gateway.model_copy(update={"events_per_s": RATE, "events_burst": BURST})
    with RunningGateway(stack.settings.model_copy(update={"gateway": limited})) as running:
        yield running


@pytest.fixture
def tenant() -> str:
    """A tenant of the test's own, with a limit that nobody has taken from."""
    return new_id()


@pytest.fixture
def http(gateway: RunningGateway, tenant: str) -> Iterator[httpx.Client]:
    with gateway.http(tenant) as client:
        yield client


def on_the_topic(settings: Settings, tenant: str) -> dict[str, Any]:
    """The tenant's messages of the topic by event id; fails where one is there twice."""
    client = consumer(settings, None)
    found: dict[str, Any] = {}
    counted: Counter[str] = Counter()
    deadline = time.monotonic() + WITHIN_S
    try:
        places = [
            TopicPartition(USER_EVENTS.name, partition, 0) for partition in range(USER_EVENTS.partitions)
        ]
        left = {place.partition: end for place in places if (end := watermarks(client, place, 5)[1])}
        client.assign(places)
        while left:
            assert time.monotonic() < deadline, "the topic was not read to its end"
            for message in client.consume(500, timeout=0.2):
                assert message.error() is None
                if message.offset() + 1 >= left.get(message.partition(), 0):
                    left.pop(message.partition(), None)
                if header(message.headers(), "ce_tenant") == tenant:
                    id = header(message.headers(), "ce_id") or ""
                    counted[id] += 1
                    found[id] = message
    finally:
        client.close()
    assert set(counted.values()) <= {1}, f"on Kafka more than once: {counted.most_common(3)}"
    return found


def eventually(good: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not good():
        assert time.monotonic() < deadline, f"not within {WITHIN_S} s: {what}"
        time.sleep(0.05)


def test_an_accepted_event_is_on_kafka_once_keyed_by_region(
    gateway: RunningGateway, http: httpx.Client, tenant: str
) -> None:
    answer = http.post("/events", json=user_event(id="e1", region="a|b"))
    assert (answer.status_code, answer.json()["id"], answer.json()["status"]) == (202, "e1", "accepted")
    assert "location" not in answer.headers, "there is no status to follow"
    message = on_the_topic(gateway.settings, tenant)["e1"]
    codec = RecordCodec(UserEvent, SchemaRegistry.of(gateway.settings), USER_EVENTS.subject)
    record = codec.decode(message.value())
    assert (record.tenant, record.id, record.region, record.kind) == (tenant, "e1", "a|b", "search")
    assert message.key() == f"{tenant}|a%7Cb".encode()


def test_a_repeat_is_202_again_without_a_second_record(
    gateway: RunningGateway, http: httpx.Client, tenant: str
) -> None:
    event = user_event(id=new_id())
    first = http.post("/events", json=event)
    again = http.post("/events", content=json.dumps(event, indent=1), headers=JSON)
    elsewhere = http.post("/api/v1/pipelines/demand/events", json=event)
    assert [answer.status_code for answer in (first, again, elsewhere)] == [202, 202, 202]
    assert first.json() == again.json() == elsewhere.json()
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == elsewhere.headers["idempotent-replayed"] == "true"
    assert on_the_topic(gateway.settings, tenant).keys() == {event["id"]}


def test_an_id_is_remembered_for_a_day(stack: Stack, http: httpx.Client, tenant: str) -> None:
    http.post("/events", json=user_event(id="e1"))
    with redis.Redis.from_url(stack.settings.redis.address) as client:
        left = client.ttl(f"millstream:accepted:{tenant}|demand|e1")
    assert isinstance(left, int)
    assert 86_300 < left <= 86_400


def test_other_content_under_the_same_id_is_a_conflict(
    gateway: RunningGateway, http: httpx.Client, tenant: str
) -> None:
    event = user_event(id="e1")
    assert http.post("/events", json=event).status_code == 202
    other = http.post("/events", json=event | {"kind": "booking"})
    assert (other.status_code, other.json()["code"], other.json()["retryable"]) == (409, "conflict", False)
    assert on_the_topic(gateway.settings, tenant).keys() == {"e1"}


def test_tenants_do_not_share_ids_or_limits(gateway: RunningGateway, http: httpx.Client) -> None:
    other_tenant = new_id()
    with gateway.http(other_tenant) as other:
        batch = [user_event(id=f"e{n}") for n in range(BURST)]
        assert http.post("/events", json=batch).status_code == 202
        assert http.post("/events", json=batch).status_code == 429
        answer = other.post("/events", json=batch[0] | {"kind": "booking"})
    assert answer.status_code == 202
    assert on_the_topic(gateway.settings, other_tenant).keys() == {"e0"}


def test_over_the_limit_is_429_that_says_when(
    gateway: RunningGateway, http: httpx.Client, tenant: str
) -> None:
    first = http.post("/events", json=[user_event(id=f"a{n}") for n in range(BURST)])
    refused = http.post("/events", json=[user_event(id=f"b{n}") for n in range(16)])
    one = http.post("/api/v1/pipelines/demand/events", json=user_event(id="c"))
    assert [answer.status_code for answer in (first, refused, one)] == [202, 429, 429]
    problem = refused.json()
    assert (problem["code"], problem["retryable"]) == ("rate_limited", True)
    assert refused.headers["content-type"] == "application/problem+json"
    wait = int(refused.headers["retry-after"])
    assert problem["retry_after_s"] == wait
    assert wait in (3, 4), "16 events at 5 a second, less what has passed since"
    assert one.headers["retry-after"] == "1"
    time.sleep(wait)
    assert http.post("/events", json=[user_event(id=f"b{n}") for n in range(16)]).status_code == 202
    expected = {f"a{n}" for n in range(BURST)} | {f"b{n}" for n in range(16)}
    assert on_the_topic(gateway.settings, tenant).keys() == expected


def test_more_than_the_burst_in_one_request_says_the_limit(http: httpx.Client) -> None:
    answer = http.post("/events", json=[user_event() for _ in range(BURST + 1)])
    assert (answer.status_code, answer.json()["code"]) == (413, "over_burst")
    assert f"the limit is {BURST}" in answer.json()["detail"]
    assert answer.json()["retryable"] is False
    assert http.post("/events", json=[user_event() for _ in range(BURST)]).status_code == 202


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b"", JSON, 400),
        (b"{", JSON, 400),
        (b"\xff\xfe{}", JSON, 400),
        (b'{"kind":"search","kind":"booking"}', JSON, 400),
        (b"[]", JSON, 400),
        (b"[" * 60_000, JSON, 400),
        (b"null", JSON, 422),
        (b"{}", JSON, 422),
        (json.dumps(user_event(kind="")).encode(), JSON, 422),
        (json.dumps(user_event(region="x" * 65)).encode(), JSON, 422),
        (json.dumps(user_event(region="a\x00b")).encode(), JSON, 422),
        (json.dumps(user_event(tenant="someone else")).encode(), JSON, 422),
        (json.dumps(user_event(id="a b")).encode(), JSON, 422),
        (json.dumps(user_event(occurred_at="2001-01-01T00:00:00Z")).encode(), JSON, 422),
        (json.dumps(user_event(occurred_at="now")).encode(), JSON, 422),
        (json.dumps(user_event(more=1)).encode(), JSON, 422),
        (b'{"user_id":"' + b"x" * 70_000 + b'"}', JSON, 413),
        (b"{}", {"content-type": "text/html"}, 415),
        (b"{}", JSON | {"content-encoding": "gzip"}, 415),
        (b"{}", JSON | {"authorization": "Bearer nonsense"}, 401),
    ],
    ids=lambda value: str(value)[:24],
)
def test_hostile_bodies_are_4xx_and_leave_nothing(
    gateway: RunningGateway,
    http: httpx.Client,
    tenant: str,
    content: bytes,
    headers: dict[str, str],
    status: int,
) -> None:
    answer = http.post("/events", content=content, headers=headers)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert http.post("/events", json=user_event(id="good")).status_code == 202
    assert on_the_topic(gateway.settings, tenant).keys() == {"good"}


def test_a_key_needs_the_scope_and_the_path_the_method(gateway: RunningGateway, http: httpx.Client) -> None:
    reading = gateway.key(new_id(), scopes=[FEATURES_READ])
    answer = http.post("/events", json=user_event(), headers={"authorization": f"Bearer {reading}"})
    assert (answer.status_code, EVENTS_WRITE in answer.json()["detail"]) == (403, True)
    assert http.get("/events").status_code == 405


async def test_the_client_ingests_and_tells_what_can_be_sent_again(
    gateway: RunningGateway, tenant: str
) -> None:
    async with GatewayClient(gateway.url, gateway.key(tenant)) as client:
        batch = await client.ingest([*(user_event(id=f"e{n}") for n in range(BURST - 1)), {"id": "bad"}])
        assert [outcome.status for outcome in batch.outcomes] == [202] * (BURST - 1) + [422]
        limited = (await client.ingest([user_event(), user_event()])).outcomes
        assert [(outcome.status, outcome.again) for outcome in limited] == [(429, True)] * 2


def test_without_redis_events_are_accepted_and_limited_by_the_gateway(
    stack: Stack, gateway: RunningGateway, http: httpx.Client, tenant: str
) -> None:
    assert http.post("/events", json=user_event(id="before")).status_code == 202
    stack.stop("redis")
    try:
        event = user_event(id="during")
        answers = [http.post("/events", json=event) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [202, 202]
        assert answers[1].headers["idempotent-replayed"] == "true"
        rest = http.post("/events", json=[user_event(id=f"d{n}") for n in range(BURST - 10)])
        assert rest.status_code == 202
        assert http.post("/events", json=[user_event() for _ in range(20)]).status_code == 429
    finally:
        stack.start("redis")
        stack.wait_ready(["redis"])
    eventually(lambda: http.post("/events", json=user_event(id="after")).status_code == 202, "accepted again")
    expected = {"before", "during", "after"} | {f"d{n}" for n in range(BURST - 10)}
    assert on_the_topic(gateway.settings, tenant).keys() == expected
