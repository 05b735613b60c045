"""Accepting events: the protocol of reserve, produce and mark, and an outcome for each event."""

import asyncio
import json
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from core.clock import ManualClock
from core.errors import (
    Conflict,
    InvalidInput,
    Malformed,
    MillstreamError,
    QueueFull,
    RateLimited,
    Rejected,
    TooLarge,
    Unavailable,
    UnknownName,
)
from core.settings import Gateway
from gateway.acceptance import InMemoryAcceptance
from gateway.events import Door, EventsEndpoint
from gateway.exchange import Request, Response
from gateway.intake import Intake
from gateway.limits import NamedLimit, PublishingLimits
from gateway.principals import SCOPES, Principal
from gateway.problems import UnsupportedMediaType
from gateway.publisher import Outgoing
from gateway.routing import Handler
from gateway.standing import Policy
from operators.limits import InMemoryLimiter, Limit
from schemas.codec import RecordCodec
from schemas.headers import header
from schemas.topic import Topic
from tests.gateway.samples import NOW, Payment, payment

TOPIC = Topic("test.payments.events.v1", Payment)
LIMIT = Limit(1.0, 9)


class OneSchema:
    """A registry with one schema."""

    def id_of(self, subject: str, text: str) -> int:
        return 7

    def schema(self, schema_id: int) -> str:
        raise UnknownName("schema id", str(schema_id), ())


class Kafka:
    """A publisher that keeps what was produced. `failing` is the outcome of every message, if any."""

    def __init__(self) -> None:
        self.produced: list[Outgoing] = []
        self.failing: MillstreamError | None = None
        self.refusing: Unavailable | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    def require(self, count: int) -> None:
        if self.refusing is not None:
            raise self.refusing

    async def publish(self, messages: Sequence[Outgoing]) -> list[MillstreamError | None]:
        self.require(len(messages))
        await self.gate.wait()
        if self.failing is None:
            self.produced.extend(messages)
        return [self.failing] * len(messages)


class Schemas:
    def require(self) -> None: ...


class AwayStore(InMemoryAcceptance):
    away = False

    async def reserve(self, tenant: str, events: Any) -> Any:
        if self.away:
            raise Unavailable("away")
        return await super().reserve(tenant, events)

    async def mark(self, tenant: str, events: Any, *, reserved: bool) -> None:
        if self.away:
            raise Unavailable("away")
        await super().mark(tenant, events, reserved=reserved)


class Setting:
    """One endpoint and its surroundings."""

    def __init__(self) -> None:
        self.clock = ManualClock(NOW)
        self.kafka = Kafka()
        self.store = AwayStore(ttl=timedelta(days=1), clock=self.clock)
        self.recent = InMemoryAcceptance(ttl=timedelta(days=1), clock=self.clock)
        intake = Intake(Payment, max_age=timedelta(days=7), max_ahead=timedelta(minutes=5), clock=self.clock)
        codec: Any = RecordCodec(Payment, OneSchema(), TOPIC.subject)
        kafka: Any = self.kafka
        schemas: Any = Schemas()
        self.endpoint = EventsEndpoint(
            Gateway(max_event_bytes=2048, max_batch_events=10),
            {name: Door(name, TOPIC, intake, codec) for name in ("payments", "refunds")},
            store=self.store,
            recent=self.recent,
            publisher=kafka,
            schemas=schemas,
            clock=self.clock,
            limits=PublishingLimits(
                NamedLimit(Policy("events", LIMIT), InMemoryLimiter(LIMIT, clock=self.clock))
            ),
        )

    async def post(
        self,
        body: Any,
        *,
        pipeline: str = "payments",
        kind: str = "application/json",
        tenant: str = "acme",
        key: str | None = None,
        to: Handler | None = None,
    ) -> Response:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()

        async def read(limit: int) -> bytes:
            if len(raw) > limit:
                raise TooLarge("body")
            return raw

        request = Request(
            method="POST",
            path="/",
            headers={"content-type": kind} | ({"idempotency-key": key} if key is not None else {}),
            body=read,
            request_id="r-1",
            parameters={"pipeline": pipeline},
            principal=Principal(tenant, "key-1", SCOPES),
        )
        return await (to or self.endpoint.post)(request)

    async def outcomes(self, body: Any, **more: Any) -> tuple[int, list[int]]:
        response = await self.post(body, **more)
        return response.status, [row["status"] for row in msgspec.json.decode(response.body)["outcomes"]]


@pytest.fixture
def at() -> Setting:
    return Setting()


async def test_one_event_is_accepted_and_lies_on_kafka_as_it_should(at: Setting) -> None:
    response = await at.post(payment(id="t1"))
    assert response.status == 202
    assert msgspec.json.decode(response.body) == {
        "id": "t1", "status": "provisional", "pipeline": "payments", "received_at": "2026-01-01T12:00:00Z",
    }  # fmt: skip
    headers = dict(response.headers)
    assert headers["location"] == "/api/v1/transactions/t1"
    assert "validate;dur=" in headers["server-timing"]
    assert "publish;dur=" in headers["server-timing"]
    (message,) = at.kafka.produced
    assert (message.topic, message.key) == (TOPIC.name, "acme|c-1")
    assert message.at_ms == int(NOW.timestamp() * 1000)
    assert header(message.headers, "ce_tenant") == "acme"
    assert header(message.headers, "ce_id") == "t1"
    assert header(message.headers, "ce_source") == "key-1"
    assert header(message.headers, "ce_receivedat") == str(message.at_ms)
    assert header(message.headers, "ce_type") == "millstream.test.Payment"
    assert (header(message.headers, "traceparent") or "").startswith("00-")


async def test_the_same_again_is_the_same_answer_and_not_produced_again(at: Setting) -> None:
    first = await at.post(payment(id="t1"))
    at.clock.advance(timedelta(minutes=1))
    again = await at.post(payment(id="t1"))
    assert (again.status, again.body) == (202, first.body)
    assert ("idempotent-replayed", "true") in again.headers
    assert len(at.kafka.produced) == 1


async def test_the_same_content_written_otherwise_is_the_same(at: Setting) -> None:
    await at.post(payment(id="t1"))
    spaced = json.dumps(dict(reversed(payment(id="t1", tenant="acme").items())), indent=3).encode()
    assert (await at.post(spaced)).status == 202
    assert len(at.kafka.produced) == 1


async def test_the_same_id_with_other_content_is_a_conflict(at: Setting) -> None:
    await at.post(payment(id="t1"))
    with pytest.raises(Conflict):
        await at.post(payment(id="t1", amount_cents=1))
    assert len(at.kafka.produced) == 1


async def test_a_repeated_key_names_an_event_that_has_no_id(at: Setting) -> None:
    """As one who sends again what may have been taken: the balancer, or a client that saw no answer."""
    event = payment()
    first = await at.post(event, key="order-17")
    again = await at.post(event, key="order-17")
    assert (again.status, again.body) == (202, first.body)
    assert msgspec.json.decode(first.body)["id"] == "order-17"
    assert len(at.kafka.produced) == 1
    with pytest.raises(Conflict):
        await at.post(event | {"amount_cents": 1}, key="order-17")
    named = await at.post(payment(id="t1"), key="order-17")
    assert msgspec.json.decode(named.body)["id"] == "t1"  # its own id wins


async def test_a_repeated_key_names_every_event_of_a_request(at: Setting) -> None:
    events = [payment(id="t1"), *(payment(amount_cents=cents) for cents in (1, 2))]
    first, again = [await at.post(events, key="k" * 128) for _ in range(2)]
    other = await at.post(events[1:], key="another")
    ids = [
        [row["accepted"]["id"] for row in msgspec.json.decode(answer.body)["outcomes"]]
        for answer in (first, again, other)
    ]
    assert ids[0] == ids[1]
    assert ids[0][0] == "t1"
    assert len({*ids[0], *ids[2]}) == 5
    assert len(at.kafka.produced) == 5


@pytest.mark.parametrize("key", ["", "a b", "k" * 129, "schlüssel"])
async def test_a_key_that_is_no_id_is_refused(at: Setting, key: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        await at.post(payment(id="t1"), key=key)
    assert caught.value.code == "invalid_key"
    assert at.kafka.produced == []


async def test_tenants_do_not_share_ids(at: Setting) -> None:
    await at.post(payment(id="t1"))
    assert (await at.post(payment(id="t1", amount_cents=1), tenant="other")).status == 202


@pytest.mark.parametrize("away", [False, True])
async def test_pipelines_do_not_share_ids(at: Setting, away: bool) -> None:
    """One id sent to two pipelines is two events, of which each is held against its own first."""
    at.store.away = away
    assert (await at.post(payment(id="t1"))).status == 202
    assert (await at.post(payment(id="t1", amount_cents=1), pipeline="refunds")).status == 202
    with pytest.raises(Conflict):
        await at.post(payment(id="t1", amount_cents=1))
    with pytest.raises(Conflict):
        await at.post(payment(id="t1"), pipeline="refunds")
    repeated = await at.post(payment(id="t1", amount_cents=1), pipeline="refunds")
    assert ("idempotent-replayed", "true") in repeated.headers
    assert len(at.kafka.produced) == 2


async def test_what_kafka_did_not_acknowledge_is_produced_again_with_the_same_content(at: Setting) -> None:
    at.kafka.failing = Unavailable("timed out")
    with pytest.raises(Unavailable):
        await at.post(payment(id="t1"))
    assert await at.store.get("acme", "payments", "t1") is not None
    with pytest.raises(Conflict):
        await at.post(payment(id="t1", amount_cents=1))
    at.kafka.failing = None
    assert (await at.post(payment(id="t1"))).status == 202
    assert len(at.kafka.produced) == 1


async def test_while_refusing_nothing_is_reserved(at: Setting) -> None:
    at.kafka.refusing = QueueFull("full")
    with pytest.raises(QueueFull):
        await at.post(payment(id="t1"))
    assert await at.store.get("acme", "payments", "t1") is None


async def test_there_is_no_answer_before_kafka_acknowledged(at: Setting) -> None:
    at.kafka.gate.clear()
    waiting = asyncio.create_task(at.post(payment(id="t1")))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not waiting.done()
    held = await at.store.get("acme", "payments", "t1")
    assert held is not None
    assert not held.accepted
    at.kafka.gate.set()
    assert (await waiting).status == 202


async def test_with_the_store_away_events_are_still_accepted(at: Setting) -> None:
    at.store.away = True
    assert (await at.post(payment(id="t1"))).status == 202
    assert (await at.post(payment(id="t1"))).status == 202  # this gateway remembers
    assert len(at.kafka.produced) == 1


async def test_several_events_have_an_outcome_each_in_their_order(at: Setting) -> None:
    await at.post(payment(id="taken"))
    body = [
        payment(id="a"),
        payment(amount_cents="x"),
        payment(id="a"),
        payment(id="a", amount_cents=1),
        payment(id="taken", amount_cents=1),
        5,
        payment(id="b"),
    ]
    assert await at.outcomes(body) == (207, [202, 422, 202, 409, 409, 422, 202])
    assert [header(message.headers, "ce_id") for message in at.kafka.produced] == ["taken", "a", "b"]


async def test_ndjson_has_an_outcome_for_each_line(at: Setting) -> None:
    lines = [
        json.dumps(payment()),
        "{",
        '{"a":1,"a":2}',
        '{"x":"' + "y" * 3000 + '"}',
        "",
        json.dumps(payment()),
    ]
    body = "\r\n".join(lines).encode()
    assert await at.outcomes(body, kind="application/x-ndjson; charset=utf-8") == (
        207,
        [202, 400, 400, 413, 202],
    )


async def test_all_accepted_is_202_and_none_for_now_is_503(at: Setting) -> None:
    assert await at.outcomes([payment(), payment()]) == (202, [202, 202])
    at.kafka.failing = Unavailable("away")
    with pytest.raises(Unavailable):
        await at.post([payment(), payment()])
    assert await at.outcomes([payment(), payment(amount_cents=None)]) == (207, [503, 422])


@pytest.mark.parametrize(
    ("body", "kind", "error"),
    [
        (b"{", "application/json", Malformed),
        (b"", "application/json", Malformed),
        (b'[{"a":1},', "application/json", Malformed),
        (b"[" * 100_000, "application/json", TooLarge),
        (b"[]", "application/json", InvalidInput),
        (b"\n\n", "application/x-ndjson", InvalidInput),
        (b"[" + b"{}," * 10 + b"{}]", "application/json", TooLarge),
        (b'{"x":"' + b"y" * 2048 + b'"}', "application/json", TooLarge),
        (b"{}", "text/plain", UnsupportedMediaType),
        (b"{}", "", UnsupportedMediaType),
        (b"{}", "application/json; charset=latin-1", UnsupportedMediaType),
        (b"{}", "application/json", Rejected),
    ],
)
async def test_bodies_that_are_refused(at: Setting, body: bytes, kind: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        await at.post(body, kind=kind)
    assert at.kafka.produced == []


async def test_an_unknown_pipeline_names_the_nearest(at: Setting) -> None:
    with pytest.raises(UnknownName) as caught:
        await at.post(payment(), pipeline="payment")
    assert caught.value.nearest == "payments"


async def test_a_path_of_its_own_leads_to_one_pipeline(at: Setting) -> None:
    handler = at.endpoint.post_to("payments")
    response = await at.post(payment(id="t1"), pipeline="no such", to=handler)
    assert (response.status, msgspec.json.decode(response.body)["pipeline"]) == (202, "payments")
    assert (await at.post(payment(id="t1"))).status == 202
    assert len(at.kafka.produced) == 1
    with pytest.raises(UnknownName):
        at.endpoint.post_to("payment")


async def test_every_event_counts_towards_the_limit_and_a_refused_request_leaves_nothing(at: Setting) -> None:
    first = [payment(id="a"), payment(amount_cents="x"), *(payment(id="b") for _ in range(6))]
    assert (await at.outcomes(first))[0] == 207
    with pytest.raises(RateLimited) as caught:
        await at.post([payment(id="c"), payment(id="d")])
    assert caught.value.retry_after_s == pytest.approx(1.0)
    assert (await at.post(payment(id="a"))).status == 202
    with pytest.raises(RateLimited):
        await at.post(payment(id="a"))
    assert (await at.post(payment(id="a"), tenant="other")).status == 202
    assert await at.store.get("acme", "payments", "c") is None
    at.clock.advance(timedelta(seconds=2))
    assert await at.outcomes([payment(id="c"), payment(id="d")]) == (202, [202, 202])


async def test_more_events_than_the_burst_are_refused_whole(at: Setting) -> None:
    with pytest.raises(TooLarge, match="the limit is 9"):
        await at.post([payment() for _ in range(10)])
    assert at.kafka.produced == []
