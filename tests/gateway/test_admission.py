"""The door: which check answers where several fail, and what it leaves alone."""

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import httpx
import msgspec
import pytest

from core.clock import ManualClock
from core.errors import (
    DeadlineExceeded,
    Malformed,
    MillstreamError,
    ModelFailed,
    ModelUnavailable,
    QueueFull,
    Rejected,
    ServerFailed,
    Unavailable,
)
from core.settings import Limits
from gateway.admission import Admission
from gateway.exchange import Request, Response, json_response
from gateway.generating.chat import error_response
from gateway.health import Health
from gateway.keyring import Keyring
from gateway.keys import Key, mint
from gateway.limits import CallerLimits, NamedLimit
from gateway.principals import ASK, FEATURES_READ, PUBLIC
from gateway.routing import Route, Router
from gateway.server import STREAM_PATH, Application
from gateway.standing import Policy
from gateway.wire.websocket import WebSocket
from operators.limits import InMemoryLimiter, Limit
from tests.gateway.in_memory import InMemoryTransport, opened
from tests.gateway.samples import NOW, KeysInMemory

WIDE = Limit(1.0, 1_000)
MAY, MAY_NOT, ELSEWHERE = mint(), mint(), mint()
PATH = "/ask/fraud"


def bearing(key: tuple[str, str, bytes]) -> dict[str, str]:
    return {"authorization": f"Bearer {key[0]}"}


@dataclass
class World:
    """A gateway in memory. `fails` is what the asked one raises."""

    limits: dict[str, Limit] = field(default_factory=dict)
    settings: Limits = field(default_factory=Limits)
    fails: MillstreamError | None = None
    patience_s: float = 5.0
    waits: asyncio.Event | None = None
    clock: ManualClock = field(default_factory=lambda: ManualClock(NOW))
    entered: int = 0

    def __post_init__(self) -> None:
        keys = KeysInMemory(
            Key(MAY[1], MAY[2], "acme", "", frozenset({ASK}), NOW),
            Key(MAY_NOT[1], MAY_NOT[2], "acme", "", frozenset({FEATURES_READ}), NOW),
            Key(ELSEWHERE[1], ELSEWHERE[2], "other", "", frozenset({ASK}), NOW),
        )
        routes = (
            Route("POST", "/ask/{pipeline}", ASK, self.ask, guarded=True),
            Route("POST", "/chat", ASK, self.ask, refusal=error_response),
            Route("GET", "/open", PUBLIC, self.open),
            *Health().routes(),
        )
        named = {name: self._named(name) for name in ("address", "key", "tenant", "route")}
        limits = CallerLimits(
            named["address"], named["key"], named["tenant"], {route.name: named["route"] for route in routes}
        )
        admission = Admission(
            Router(routes),
            Keyring(keys, clock=self.clock),
            limits=limits,
            settings=self.settings,
            patience_s=self.patience_s,
            clock=self.clock,
        )
        self.application = Application(admission, self.stream, settings=self.settings)

    def _named(self, name: str) -> NamedLimit:
        limit = self.limits.get(name, WIDE)
        return NamedLimit(Policy(name, limit), InMemoryLimiter(limit, clock=self.clock))

    async def ask(self, request: Request) -> Response:
        self.entered += 1
        if self.waits is not None:
            await self.waits.wait()
        body = await request.body(100)
        try:
            asked = msgspec.json.decode(body)
        except msgspec.MsgspecError as error:
            raise Malformed(str(error)) from None
        if not isinstance(asked, dict):
            raise Rejected("no object", fields={"": "no object"})
        if self.fails is not None:
            raise self.fails
        return json_response(200, {"tenant": request.principal.tenant})

    async def open(self, request: Request) -> Response:
        return json_response(200, {})

    async def stream(self, headers: Any, socket: WebSocket) -> None:
        socket.accept()

    def http(self, address: str = "10.0.0.1") -> httpx.AsyncClient:
        transport = InMemoryTransport(self.application, peer=address)
        return httpx.AsyncClient(transport=transport, base_url="http://gateway")


ONE = Limit(0.01, 1)
CHUNKED = {"transfer-encoding": "chunked"}
GOOD: dict[str, Any] = {"method": "POST", "url": PATH, "headers": bearing(MAY), "content": b"{}"}

# What is wrong with the second request; all of it but the first thing would be refused later. The first
# request is good, and uses up the limits that are 1.
ORDER: list[tuple[str, dict[str, Limit], dict[str, Any], int, str]] = [
    ("address before the path", {"address": ONE}, {"url": "/nowhere"}, 429, "rate_limited"),
    ("address before the head", {"address": ONE}, {"headers": CHUNKED}, 429, "rate_limited"),
    ("address before the key", {"address": ONE}, {"headers": {}}, 429, "rate_limited"),
    ("the head before the path", {}, {"url": "/nowhere?" + "a" * 9_000}, 414, "target_too_long"),
    ("the path before the key", {"key": ONE}, {"url": "/nowhere", "headers": {}}, 404, "not_found"),
    ("the method before the key", {"key": ONE}, {"method": "PUT", "headers": {}}, 405, "method_not_allowed"),
    ("the key before its limits", {"tenant": ONE}, {"headers": {}}, 401, "unauthenticated"),
    ("no other's limits", {"key": ONE}, {"headers": bearing(mint())}, 401, "unauthenticated"),
    ("key's limit before the scope", {"tenant": ONE}, {"headers": bearing(MAY_NOT)}, 429, "rate_limited"),
    ("route's limit before the scope", {"route": ONE}, {"headers": bearing(MAY_NOT)}, 429, "rate_limited"),
    ("the scope before the body", {}, {"headers": bearing(MAY_NOT), "content": b"{"}, 403, "forbidden"),
    ("the limit before the body", {"key": ONE}, {"content": b"{"}, 429, "rate_limited"),
    ("the body's size before its sense", {}, {"content": b"{" * 101}, 413, "too_large"),
    ("malformed before invalid", {}, {"content": b"["}, 400, "malformed_body"),
    ("invalid", {}, {"content": b"[]"}, 422, "invalid_record"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("limits", "change", "status", "code"), [row[1:] for row in ORDER], ids=[row[0] for row in ORDER]
)
async def test_the_first_check_that_fails_answers(
    limits: dict[str, Limit], change: dict[str, Any], status: int, code: str
) -> None:
    world = World(limits)
    async with world.http() as http:
        assert (await http.request(**GOOD)).status_code == 200
        world.fails = QueueFull("full")
        asked = GOOD | change
        asked["headers"] = {"x-request-id": "mine", **asked["headers"]}
        answer = await http.request(**asked)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["x-request-id"] == answer.json()["request_id"] == "mine"
    if status == 429:
        assert int(answer.headers["retry-after"]) >= 99
        assert answer.headers["ratelimit"].endswith(";r=0;t=100")


async def test_the_breaker_comes_after_the_scope_and_before_the_body_and_the_queue() -> None:
    world = World()
    async with world.http() as http:
        world.fails = ServerFailed("failed", "ill")
        for _ in range(5):
            assert (await http.request(**GOOD)).json()["code"] == "server_failed"
        entered = world.entered
        world.fails = QueueFull("full")
        answer = await http.request(**GOOD | {"content": b"{"})
        assert (answer.status_code, answer.json()["code"]) == (503, "circuit_open")
        assert 1 <= int(answer.headers["retry-after"]) <= 5
        refused = await http.request(**GOOD | {"headers": bearing(MAY_NOT)})
        assert refused.status_code == 403
        assert world.entered == entered
        assert (await http.request(**GOOD | {"url": "/ask/demand"})).json()["code"] == "queue_full"
        assert (await http.request(**GOOD | {"headers": bearing(ELSEWHERE)})).json()["code"] == "queue_full"
        world.clock.advance(timedelta(seconds=5))
        world.fails = None
        assert (await http.request(**GOOD)).status_code == 200
        assert (await http.request(**GOOD | {"content": b"{"})).status_code == 400


@pytest.mark.parametrize(
    ("error", "opens"),
    [
        (ServerFailed("refused", "ill"), True),
        (ModelFailed("not finite"), True),
        (ModelUnavailable("it broke, and there is no other"), True),
        (QueueFull("full"), False),
        (Unavailable("Kafka is away", code="kafka_unavailable"), False),
        (Malformed("no"), False),
        (DeadlineExceeded("the caller's own time, a short one"), False),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_only_what_the_answering_side_is_at_fault_for_opens_the_circuit(
    error: MillstreamError, opens: bool
) -> None:
    world = World(fails=error)
    async with world.http() as http:
        found = [(await http.request(**GOOD)).json()["code"] for _ in range(6)]
    assert (found[-1] == "circuit_open") == opens


async def test_answers_that_do_not_come_in_the_usual_time_open_the_circuit() -> None:
    world = World(fails=DeadlineExceeded("late"), patience_s=0.0)
    async with world.http() as http:
        found = [(await http.request(**GOOD)).json()["code"] for _ in range(6)]
    assert found == ["deadline_exceeded"] * 5 + ["circuit_open"]


async def test_probes_are_answered_whatever_is_used_up() -> None:
    world = World({"address": ONE}, Limits(requests=1), waits=asyncio.Event())
    async with world.http() as http:
        asked = asyncio.create_task(http.request(**GOOD))
        while not world.entered:
            await asyncio.sleep(0)
        for path in ("/livez", "/health", "/readyz", "/metrics"):
            answer = await http.get(path)
            assert answer.status_code in (200, 503)
            assert answer.json()["status"] if path != "/metrics" else answer.text
            assert "ratelimit" not in answer.headers
        assert (await http.get("/open")).status_code == 429
        assert world.waits is not None
        world.waits.set()
        assert (await asked).status_code == 200


async def test_no_more_are_handled_at_once_than_is_set_and_a_place_comes_back() -> None:
    world = World(settings=Limits(requests=2), waits=asyncio.Event())
    assert world.waits is not None
    async with world.http() as http:
        asked = [asyncio.create_task(http.request(**GOOD)) for _ in range(2)]
        while world.entered < 2:
            await asyncio.sleep(0)
        refused = await http.request(**GOOD)
        assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
        assert refused.headers["retry-after"] == "1"
        assert (await http.request(**GOOD | {"headers": {}})).status_code == 401
        world.waits.set()
        assert [answer.status_code for answer in await asyncio.gather(*asked)] == [200, 200]
        assert (await http.request(**GOOD)).status_code == 200


async def test_addresses_have_their_own_and_a_trusted_proxy_says_whose() -> None:
    world = World({"address": Limit(0.01, 1)})
    async with (
        world.http("10.0.0.1") as one,
        world.http("10.0.0.2") as other,
        world.http("127.0.0.1") as proxy,
    ):
        assert (await one.get("/open")).status_code == 200
        assert (await one.get("/open", headers={"x-forwarded-for": "10.9.9.9"})).status_code == 429
        assert (await other.get("/open")).status_code == 200
        forwarded = {"x-forwarded-for": "192.0.2.7, 10.0.0.3"}
        assert (await proxy.get("/open", headers=forwarded)).status_code == 200
        assert (await proxy.get("/open", headers=forwarded)).status_code == 429
        assert (await proxy.get("/open", headers={"x-forwarded-for": "10.0.0.1"})).status_code == 429


async def test_answers_say_what_is_left() -> None:
    world = World({"tenant": Limit(10.0, 20)})
    async with world.http() as http:
        for left in (19, 18):
            answer = await http.request(**GOOD)
            assert answer.headers["ratelimit-policy"] == '"tenant";q=20;w=2'
            assert answer.headers["ratelimit"] == f'"tenant";r={left};t=1'
        assert (await http.get("/open")).headers["ratelimit-policy"] == '"address";q=1000;w=1000'


async def test_a_route_may_refuse_in_a_shape_of_its_own() -> None:
    world = World({"key": ONE})
    async with world.http() as http:
        denied = await http.post("/chat", content=b"{}")
        assert (denied.status_code, denied.json()["error"]["code"]) == (401, "unauthenticated")
        assert (await http.post("/chat", content=b"{}", headers=bearing(MAY))).status_code == 200
        limited = await http.post("/chat", content=b"{}", headers=bearing(MAY))
        assert (limited.status_code, limited.json()["error"]["code"]) == (429, "rate_limited")
        assert limited.headers["ratelimit"] == '"key";r=0;t=100'


@pytest.mark.parametrize(
    "named",
    [
        {"x-tenant": "other"}, {"x-millstream-tenant": "other"}, {"forwarded": "for=other;host=other"},
        {"cookie": "tenant=other"},
    ],
)  # fmt: skip
async def test_the_tenant_is_the_credentials(named: dict[str, str]) -> None:
    async with World().http() as http:
        answer = await http.request(**GOOD | {"url": f"{PATH}?tenant=other", "headers": bearing(MAY) | named})
    assert answer.json() == {"tenant": "acme"}


async def test_sockets_count_for_their_address() -> None:
    world = World({"address": ONE})
    assert await opened(world.application, STREAM_PATH, "10.0.0.1") == [{"type": "websocket.accept"}]
    sent = await opened(world.application, STREAM_PATH, "10.0.0.1")
    assert [message["type"] for message in sent] == ["websocket.accept", "websocket.close"]
    assert sent[1]["code"] == 4429
    assert await opened(world.application, STREAM_PATH, "10.0.0.2") == [{"type": "websocket.accept"}]
