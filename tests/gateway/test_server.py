"""The server itself, on a real socket: routing, admission, problem documents, limits, draining."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import httpx
import pytest

import gateway.wire.connection
from core.clock import ManualClock
from core.errors import Unavailable
from core.telemetry.metrics import REGISTRY
from gateway.admission import Admission
from gateway.exchange import Request, Response, json_response
from gateway.health import Health
from gateway.keyring import Keyring
from gateway.keys import Key, mint
from gateway.principals import EVENTS_WRITE, PUBLIC, TRANSACTIONS_READ
from gateway.problems import status_of
from gateway.routing import Route, Router
from gateway.server import Application
from gateway.wire.listener import Listener
from tests.gateway.samples import NOW, KeysInMemory

KEY, ID, HASH = mint()
LIMIT = 1000


async def echo(request: Request) -> Response:
    body = await request.body(LIMIT)
    return json_response(200, {"size": len(body), "tenant": request.principal.tenant} | request.parameters)


async def fail(request: Request) -> Response:
    raise RuntimeError("password=hunter2")


async def away(request: Request) -> Response:
    raise Unavailable("Kafka is away", retry_after_s=1.5)


async def broken(request: Request) -> Response:
    return Response(200, headers=[("x-said", "a\r\nx-more: b\x7f"), ("x-other", "gr\u00fcn \u20ac")])


def theirs(error: BaseException, request_id: str) -> Response:
    return Response(status_of(error), b"theirs", "text/plain")


class Serving:
    def __init__(self, *, origins: Sequence[str] = ()) -> None:
        source = KeysInMemory(Key(ID, HASH, "acme", "", frozenset({EVENTS_WRITE}), NOW))
        self.health = Health()
        routes = (
            Route("POST", "/echo/{name}", EVENTS_WRITE, echo),
            Route("GET", "/secret", TRANSACTIONS_READ, echo),
            Route("GET", "/fail", PUBLIC, fail),
            Route("GET", "/away", PUBLIC, away),
            Route("GET", "/broken", PUBLIC, broken),
            Route("POST", "/theirs", EVENTS_WRITE, echo, refusal=theirs),
            *self.health.routes(),
        )
        admission = Admission(Router(routes), Keyring(source, clock=ManualClock(NOW)))
        self.application = Application(admission, origins=origins)
        with socket.socket() as held:
            held.bind(("127.0.0.1", 0))
            self.port: int = held.getsockname()[1]
        self.listener = Listener(self.application, "127.0.0.1", self.port)


@asynccontextmanager
async def running(made: Serving) -> AsyncIterator[httpx.AsyncClient]:
    made.listener.start()
    async with asyncio.timeout(60):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", made.port)
                writer.close()
                break
            except OSError:
                await asyncio.sleep(0.01)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{made.port}") as client:
        yield client
    await made.listener.stop(5)


@pytest.fixture
def serving() -> Serving:
    return Serving()


@pytest.fixture
async def http(serving: Serving) -> AsyncIterator[httpx.AsyncClient]:
    async with running(serving) as client:
        yield client


AUTH = {"authorization": f"Bearer {KEY}"}


async def test_a_request_goes_in_and_out(http: httpx.AsyncClient) -> None:
    answer = await http.post("/echo/a%20b", content=b"x" * LIMIT, headers=AUTH)
    assert answer.status_code == 200
    assert answer.json() == {"size": LIMIT, "tenant": "acme", "name": "a b"}
    assert (await http.post("/echo/a", headers={"x-api-key": KEY})).status_code == 200


async def test_every_answer_has_the_request_id(http: httpx.AsyncClient) -> None:
    assert (await http.get("/livez", headers={"x-request-id": "mine-1"})).headers["x-request-id"] == "mine-1"
    made = (await http.get("/livez", headers={"x-request-id": "no good id!"})).headers["x-request-id"]
    assert len(made) == 36
    refused = await http.get("/nowhere", headers={"x-request-id": "mine-2"})
    assert refused.json()["request_id"] == refused.headers["x-request-id"] == "mine-2"


@pytest.mark.parametrize(
    ("method", "path", "headers", "status", "code"),
    [
        ("GET", "/nowhere", AUTH, 404, "not_found"),
        ("GET", "/echo/../secret/x", AUTH, 404, "not_found"),
        ("GET", "/echo/%00", AUTH, 404, "not_found"),
        ("POST", "/echo/%ff%fe", AUTH, 200, None),
        ("GET", "/echo/a", AUTH, 405, "method_not_allowed"),
        ("POST", "/echo/a", {}, 401, "unauthenticated"),
        ("POST", "/echo/a", {"authorization": "Bearer nonsense"}, 401, "unauthenticated"),
        ("POST", "/echo/a", {"authorization": f"Basic {KEY}"}, 401, "unauthenticated"),
        ("POST", "/echo/a", {"authorization": f"Bearer {mint()[0]}"}, 401, "unauthenticated"),
        ("GET", "/secret", AUTH, 403, "forbidden"),
        ("GET", "/fail", {}, 500, "internal_error"),
        ("GET", "/away", {}, 503, "unavailable"),
    ],
)
async def test_refusals_are_problem_documents(
    http: httpx.AsyncClient, method: str, path: str, headers: dict[str, str], status: int, code: str | None
) -> None:
    answer = await http.request(method, path, headers=headers)
    assert answer.status_code == status
    if code is not None:
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["code"] == code
    assert "hunter2" not in answer.text


async def test_away_says_when_to_come_back(http: httpx.AsyncClient) -> None:
    assert (await http.get("/away")).headers["retry-after"] == "2"


async def test_a_body_over_the_limit_is_413_and_one_without_a_length_411(http: httpx.AsyncClient) -> None:
    assert (await http.post("/echo/a", content=b"x" * (LIMIT + 1), headers=AUTH)).status_code == 413

    async def chunks() -> AsyncIterator[bytes]:
        yield b"x" * 10

    answer = await http.post("/echo/a", content=chunks(), headers=AUTH)
    assert (answer.status_code, answer.json()["code"]) == (411, "length_required")
    assert answer.headers["connection"] == "close"
    assert (await http.get("/livez")).status_code == 200


@pytest.mark.usefixtures("http")
async def test_a_client_that_is_still_sending_sees_why_it_is_refused(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway.wire.connection, "LINGER_S", 60.0)
    reader, writer = await asyncio.open_connection("127.0.0.1", serving.port)
    size = 600_000
    lines = ["POST /echo/a HTTP/1.1", "host: a", f"authorization: Bearer {KEY}", f"content-length: {size}"]
    writer.write("\r\n".join([*lines, "", ""]).encode())
    for _ in range(20):
        writer.write(b"x" * (size // 20))
        await writer.drain()
        await asyncio.sleep(0.01)
    assert (await reader.readline()).startswith(b"HTTP/1.1 413")
    writer.close()


async def test_readiness_follows_the_needed_dependencies(serving: Serving, http: httpx.AsyncClient) -> None:
    assert (await http.get("/readyz")).status_code == 503
    serving.health.started = True
    assert (await http.get("/ready")).status_code == 200
    broken = True

    def check() -> None:
        if broken:
            raise Unavailable("10.0.0.7 is gone")

    serving.health.dependency("redis", check, needed=False)
    await _until(http, "/health", lambda answer: answer.json()["status"] == "degraded")
    assert (await http.get("/health")).status_code == 200
    assert (await http.get("/ready")).status_code == 200
    serving.health.dependency("kafka", check, needed=True)
    await _until(http, "/ready", lambda answer: answer.status_code == 503)
    assert (await http.get("/readyz?verbose")).json()["checks"]["kafka"] == "Unavailable"
    assert (await http.get("/livez")).status_code == 200
    broken = False
    await _until(http, "/ready", lambda answer: answer.status_code == 200)
    broken = True
    serving.health.part("reader", check)
    await _until(http, "/health", lambda answer: answer.status_code == 503)
    serving.health.probe.close()


async def test_startup_is_told_once_every_part_has_worked(serving: Serving, http: httpx.AsyncClient) -> None:
    broken = True

    def check() -> None:
        if broken:
            raise Unavailable("not yet")

    serving.health.started = True
    serving.health.part("reader", check)
    serving.health.dependency("kafka", check, needed=True)
    await _until(http, "/startupz", lambda answer: answer.status_code == 503)
    assert (await http.get("/startupz")).json() == {"status": "starting", "waits_for": ["reader"]}
    broken = False
    await _until(http, "/startupz", lambda answer: answer.status_code == 200)
    broken = True
    await _until(http, "/health", lambda answer: answer.status_code == 503)
    assert (await http.get("/startupz")).status_code == 200
    serving.health.probe.close()


async def test_what_a_dependency_said_too_long_ago_is_not_told(
    serving: Serving, http: httpx.AsyncClient
) -> None:
    stuck = threading.Event()

    def hang() -> None:
        stuck.wait(60)

    serving.health.dependency("kafka", hang, needed=False)
    try:
        await _until(http, "/health", lambda answer: "no answer" in answer.json()["checks"]["kafka"])
        assert (await http.get("/health")).json()["status"] == "degraded"
    finally:
        stuck.set()
        serving.health.probe.close()


async def test_a_line_of_an_answers_head_stays_one(http: httpx.AsyncClient) -> None:
    answer = await http.get("/broken")
    assert "x-more" not in answer.headers
    assert answer.headers["x-said"] == "a  x-more: b"
    assert answer.headers["x-other"] == "gr\u00fcn ?"


async def test_every_answer_says_what_a_browser_must_not_do_with_it(http: httpx.AsyncClient) -> None:
    for path in ("/livez", "/nowhere", "/secret", "/fail", "/metrics"):
        headers = (await http.get(path)).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store"
        assert headers["server"] == "millstream"
        assert not [name for name in headers if name.startswith("access-control")]


async def test_pages_of_other_origins_are_told_nothing_unless_they_are_named() -> None:
    named, page = Serving(origins=["https://page.example"]), "https://page.example"
    asks = {"access-control-request-method": "POST", "access-control-request-headers": "authorization, x-a"}
    async with running(named) as http:
        asked = await http.options("/echo/a", headers=asks | {"origin": page})
        assert asked.status_code == 204
        assert asked.headers["access-control-allow-origin"] == page
        assert asked.headers["access-control-allow-methods"] == "POST"
        assert asked.headers["access-control-allow-headers"] == "authorization, x-a"
        assert "access-control-allow-credentials" not in asked.headers
        for method, path, status in (("POST", "/echo/a", 200), ("GET", "/nowhere", 404)):
            answer = await http.request(method, path, headers=AUTH | {"origin": page})
            assert answer.status_code == status
            assert answer.headers["access-control-allow-origin"] == page
            assert "X-Request-ID" in answer.headers["access-control-expose-headers"]
            assert answer.headers["vary"] == "Origin"
        for other in ("https://evil.example", "null", "https://page.example.evil.example", ""):
            refused = await http.options("/echo/a", headers=asks | {"origin": other})
            assert refused.status_code == 405
            assert "access-control-allow-origin" not in refused.headers
            assert refused.headers["vary"] == "Origin"
        assert (await http.options("/nowhere", headers=asks | {"origin": page})).status_code == 404
    async with running(Serving()) as http:
        refused = await http.options("/echo/a", headers=asks | {"origin": page})
        assert (refused.status_code, refused.headers["allow"]) == (405, "POST")
        assert not [name for name in refused.headers if name.startswith("access-control") or name == "vary"]


async def test_a_path_with_a_shape_of_its_own_refuses_in_it_before_a_route_is_found(
    http: httpx.AsyncClient,
) -> None:
    for method, headers, status in (
        ("GET", {}, 405),
        ("POST", {}, 401),
        ("POST", {"x": "a" * 40_000}, 431),
    ):
        answer = await http.request(method, "/theirs", headers=headers)
        assert (answer.status_code, answer.text) == (status, "theirs")


async def test_metrics_are_prometheus_text(http: httpx.AsyncClient) -> None:
    text = (await http.get("/metrics")).text
    assert "millstream_restarts" in text
    assert "millstream_gateway_requests_total" in text


async def test_every_request_is_timed_by_its_route_and_every_problem_counted(http: httpx.AsyncClient) -> None:
    def told(name: str, **labels: str) -> float:
        return REGISTRY.get_sample_value(f"millstream_gateway_{name}", labels) or 0

    def all_told() -> tuple[float, ...]:
        return (
            told("request_ms_count", route="/livez"),
            told("request_ms_count", route="none"),
            told("problems_total", code="not_found"),
            told("problems_total", code="unauthenticated"),
        )

    before = all_told()
    for path in ("/livez", "/nowhere", "/nowhere/else", "/secret"):
        await http.get(path)
    assert [now - then for now, then in zip(all_told(), before, strict=True)] == [1, 2, 2, 1]


async def test_draining_waits_for_what_was_begun(serving: Serving, http: httpx.AsyncClient) -> None:
    assert await serving.application.drained(0.1)
    serving.application.draining = True
    assert (await http.get("/livez")).headers["connection"] == "close"


async def _until(http: httpx.AsyncClient, path: str, good: Callable[[httpx.Response], bool]) -> None:
    deadline = asyncio.get_running_loop().time() + 60
    while not good(await http.get(path)):
        assert asyncio.get_running_loop().time() < deadline, f"{path} does not change"
        await asyncio.sleep(0.02)
