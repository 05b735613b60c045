"""The balancer itself, Envoy under the supervisor, before gateways that fail as they are told to."""

import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from core.errors import StackError
from core.ids import new_id
from core.settings import Balancer as BalancerSettings
from core.settings import Gateway, Settings
from stack.balancer import envoy_binary
from stack.balancer_rules import KEPT_BODY_BYTES
from stack.local import Stack
from tests.stack.scripted_gateways import (
    BREAK,
    EVENTS,
    HANG,
    REFUSE,
    RESET,
    Script,
    ScriptedGateway,
    Seen,
)
from tests.stack_fixture import consecutive_ports, free_ports, services_required

WITHIN_S = 60.0
SOON_S = 2.0
"""How long a gateway is waited for: once for each one that hangs, and never for one that does not."""


@dataclass
class World:
    """The balancer, and the two gateways behind it."""

    stack: Stack
    script: Script
    gateways: list[ScriptedGateway]

    @property
    def port(self) -> int:
        return self.stack.settings.gateway.port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def does(self, *what: str) -> str:
        """A path of its own at whose sights this is done."""
        path = f"/{new_id()}"
        self.script.does[path] = list(what)
        return path

    def seen(self, path: str) -> list[Seen]:
        return self.script.seen[path]

    def told(self, name: str) -> int:
        """A counter or gauge of the balancer about the gateways."""
        admin = self.stack.settings.balancer.admin_port
        name = f"cluster.gateways.{name}"
        answer = httpx.get(
            f"http://127.0.0.1:{admin}/stats", params={"filter": f"^{name}$"}, timeout=WITHIN_S
        )
        return int(answer.text.partition(": ")[2] or 0)

    def usable(self, count: int) -> None:
        """Until the balancer uses so many gateways: they are ready, and none is out for its failures."""
        eventually(
            lambda: (
                self.told("membership_healthy") == count
                and self.told("outlier_detection.ejections_active") == 0
            ),
            f"{count} gateways are used",
        )


def eventually(good: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not good():
        assert time.monotonic() < deadline, f"not within {WITHIN_S:g} s: {what}"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def balanced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    if envoy_binary() is None:
        if services_required():
            pytest.fail("there is no Envoy, and MILLSTREAM_REQUIRE_SERVICES=1")
        pytest.skip("NOT TESTED: there is no Envoy for this platform")
    (public, admin), behind = free_ports(2), consecutive_ports()
    given = Settings(
        home=tmp_path_factory.mktemp("balanced"),
        gateway=Gateway(port=public, publish_timeout_s=SOON_S / 2),
        balancer=BalancerSettings(gateways=2, first_port=behind[0], admin_port=admin, grace_s=SOON_S / 2),
    )
    script, stack = Script(), Stack(given)
    gateways = [ScriptedGateway(number, port, script) for number, port in enumerate(behind)]
    for gateway in gateways:
        gateway.start()
    stack.up(only={"balancer"})
    try:
        yield World(stack, script, gateways)
    finally:
        stack.down()
        script.go_on.set()
        for gateway in gateways:
            gateway.kill()


@pytest.fixture
def world(balanced: World) -> World:
    balanced.usable(2)
    balanced.script.go_on.clear()
    return balanced


@pytest.fixture
def client(world: World) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=world.url, timeout=WITHIN_S) as made:
        yield made


def request(client: httpx.Client, method: str, path: str, **headers: str) -> httpx.Response:
    body = None if method in ("GET", "HEAD") else b"what is asked"
    return client.request(method, path, content=body, headers=headers)


@pytest.mark.parametrize(
    ("method", "key", "fault"),
    [
        ("GET", None, REFUSE),
        ("HEAD", None, REFUSE),
        ("PUT", None, REFUSE),
        ("DELETE", None, REFUSE),
        ("POST", "order-17", REFUSE),
        ("GET", None, RESET),
        ("PUT", None, RESET),
        ("POST", "order-17", RESET),
        ("GET", None, HANG),
        ("POST", "order-17", HANG),
    ],
)
def test_what_may_be_sent_again_is_one_success(
    world: World, client: httpx.Client, method: str, key: str | None, fault: str
) -> None:
    before = world.told("upstream_rq_retry_success")
    path = world.does(fault)
    answer = request(client, method, path, **({"idempotency-key": key} if key else {}))
    assert answer.status_code == 202
    first, second = world.seen(path)
    assert {first.gateway, second.gateway} == {0, 1}
    if method != "HEAD":
        assert answer.json() == {"by": second.gateway}
    assert (first.method, first.body) == (second.method, second.body)
    assert first.headers.get("idempotency-key") == second.headers.get("idempotency-key") == key
    assert first.headers["x-request-id"] == second.headers["x-request-id"]
    assert world.told("upstream_rq_retry_success") == before + 1


def test_what_may_not_be_sent_again_is_sent_once(world: World, client: httpx.Client) -> None:
    refused = world.does(REFUSE)
    answer = request(client, "POST", refused)
    assert (answer.status_code, "by" in answer.json()) == (503, True)
    broken = world.does(RESET)
    answer = request(client, "POST", broken, **{"x-request-id": "mine-1"})
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["retry-after"] == "1"
    assert answer.headers["x-request-id"] == "mine-1"
    problem = answer.json()
    assert (problem["code"], problem["status"], problem["request_id"]) == ("no_gateway", 503, "mine-1")
    assert problem["retryable"] is True
    silent = world.does(HANG)
    answer = request(client, "POST", silent)
    assert (answer.status_code, answer.json()["code"]) == (504, "gateway_timeout")
    assert [len(world.seen(path)) for path in (refused, broken, silent)] == [1, 1, 1]


def test_it_is_sent_again_once_and_not_twice(world: World, client: httpx.Client) -> None:
    path = world.does(REFUSE, REFUSE, REFUSE)
    answer = request(client, "GET", path, **{"x-envoy-max-retries": "5", "x-envoy-retry-on": "5xx"})
    assert (answer.status_code, len(world.seen(path))) == (503, 2)
    path = world.does(REFUSE, REFUSE)
    answer = request(client, "POST", path, **{"x-envoy-max-retries": "5", "x-envoy-retry-on": "5xx"})
    assert (answer.status_code, len(world.seen(path))) == (503, 1)


def test_an_answer_that_breaks_off_is_not_begun_anew(world: World, client: httpx.Client) -> None:
    path = world.does(BREAK)
    with client.stream("GET", path) as answer:
        pieces = answer.iter_bytes()
        assert next(pieces) == b"the first half"
        world.script.go_on.set()
        with pytest.raises(httpx.RemoteProtocolError):
            next(pieces)
    assert len(world.seen(path)) == 1


@pytest.mark.parametrize("chunked", [False, True])
def test_only_a_body_that_is_kept_is_sent_again(world: World, client: httpx.Client, chunked: bool) -> None:
    key = {"idempotency-key": "order-18"}

    def send(path: str, size: int) -> int:
        body = bytes(range(256)) * (size // 256)
        pieces = (body[start : start + 4096] for start in range(0, len(body), 4096))
        status = client.post(path, content=pieces if chunked else body, headers=key).status_code
        assert all(seen.body == body for seen in world.seen(path))
        return status

    kept, too_large = world.does(REFUSE), world.does(REFUSE)
    assert (send(kept, KEPT_BODY_BYTES // 2), len(world.seen(kept))) == (202, 2)
    assert (send(too_large, 4 * KEPT_BODY_BYTES), len(world.seen(too_large))) == (503, 1)


def test_a_killed_gateway_is_taken_out_and_comes_back(world: World, client: httpx.Client) -> None:
    """No connection to it is a reason to send anything again: nothing of it was seen."""
    checks = world.told("health_check.failure")
    world.gateways[0].kill()
    try:
        for _ in range(20):
            assert client.post("/unkeyed", content=b"x").json() == {"by": 1}
        eventually(lambda: world.told("membership_healthy") == 1, "it is marked")
        eventually(lambda: world.told("health_check.failure") > checks, "a check has failed, too")
    finally:
        world.gateways[0].start()
    world.usable(2)
    eventually(lambda: client.get("/who").json() == {"by": 0}, "it is used again")


def test_a_gateway_that_breaks_connections_is_out_until_it_is_ready(
    world: World, client: httpx.Client
) -> None:
    before = world.told("outlier_detection.ejections_enforced_total")

    def ejected() -> bool:
        assert request(client, "GET", world.does(RESET)).status_code == 202
        return world.told("outlier_detection.ejections_enforced_total") > before

    eventually(ejected, "one is out for its failures")
    world.usable(2)


def test_a_gateway_that_is_not_ready_is_not_used_unless_none_is(world: World, client: httpx.Client) -> None:
    for gateway in world.gateways:
        gateway.ready = False
        world.usable(1 - gateway.number)
        path = world.does()
        for _ in range(10):
            assert request(client, "GET", path).status_code == 202
        if gateway.number == 0:
            assert {seen.gateway for seen in world.seen(path)} == {1}
    world.gateways[0].ready = world.gateways[1].ready = True
    world.usable(2)


def test_without_any_gateway_it_is_a_problem_document(world: World, client: httpx.Client) -> None:
    for gateway in world.gateways:
        gateway.kill()
    try:
        answer = request(client, "GET", "/anything")
        assert (answer.status_code, answer.json()["code"]) == (503, "no_gateway")
        assert answer.json()["request_id"] == answer.headers["x-request-id"]
    finally:
        for gateway in world.gateways:
            gateway.start()


def test_headers_of_the_connection_stay_on_it(world: World, client: httpx.Client) -> None:
    path = world.does()
    answer = request(
        client,
        "GET",
        path,
        **{
            "connection": "keep-alive, x-hop",
            "x-hop": "1",
            "keep-alive": "timeout=9",
            "proxy-connection": "keep-alive",
            "te": "trailers",
            "x-request-id": "0b13e1a2-7a4b-4b6e-9b63-1df1cf5d1d0e",
            "x-forwarded-for": "203.0.113.9",
            "x-envoy-upstream-rq-timeout-ms": "1",
        },
    )
    assert answer.status_code == 202
    (seen,) = world.seen(path)
    assert not {"x-hop", "keep-alive", "proxy-connection"} & seen.headers.keys()
    assert seen.headers["x-request-id"] == "0b13e1a2-7a4b-4b6e-9b63-1df1cf5d1d0e"
    said, _, real = seen.headers["x-forwarded-for"].partition(",")
    assert said == "203.0.113.9"
    assert real
    assert "," not in real
    assert not [name for name in answer.headers if name.startswith("x-envoy")]
    assert answer.headers["server"] == "scripted"


SMUGGLED = b"POST /smuggled HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n"
SHAPES: dict[str, bytes] = {
    "both": b"content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "two lengths": b"content-length: 4\r\ncontent-length: 60\r\n\r\n1234" + SMUGGLED,
    "a signed length": b"content-length: +4\r\n\r\n1234" + SMUGGLED,
    "an unknown coding": b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "chunked twice": b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "a space before the colon": b"transfer-encoding : chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "a bad chunk": b"transfer-encoding: chunked\r\n\r\nzz\r\n" + SMUGGLED,
    "a null": b"x-a: 1\x002\r\ncontent-length: 0\r\n\r\n" + SMUGGLED,
    "no host": b"",
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_request_whose_end_is_not_certain_goes_nowhere(
    world: World, client: httpx.Client, shape: str
) -> None:
    path = world.does()
    host = b"" if shape == "no host" else b"host: x\r\n"
    with socket.create_connection(("127.0.0.1", world.port), timeout=WITHIN_S) as connection:
        connection.sendall(b"POST " + path.encode() + b" HTTP/1.1\r\n" + host + (SHAPES[shape] or b"\r\n"))
        received = connection.recv(65_536)
        connection.shutdown(socket.SHUT_WR)
        while piece := connection.recv(65_536):
            received += piece
    assert received.split(b" ")[1] in (b"400", b"501"), received
    assert received.count(b"HTTP/1.1") == 1
    assert "/smuggled" not in world.script.seen
    assert client.get("/after").status_code == 202


def test_a_folded_header_is_one_line_behind_it(world: World, client: httpx.Client) -> None:
    path = world.does()
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\nx-a: 1\r\n transfer-encoding: chunked\r\n"
    with socket.create_connection(("127.0.0.1", world.port), timeout=WITHIN_S) as connection:
        connection.sendall(head.encode() + b"content-length: 4\r\n\r\n1234")
        assert b" 202 " in connection.recv(65_536)
    (seen,) = world.seen(path)
    assert (seen.body, "transfer-encoding" in seen.headers) == (b"1234", False)
    assert seen.headers["x-a"].split() == ["1", "transfer-encoding:", "chunked"]


def test_server_sent_events_come_as_they_are_sent(world: World, client: httpx.Client) -> None:
    path = world.does(EVENTS)
    with client.stream("GET", path, headers={"accept": "text/event-stream"}) as answer:
        pieces = answer.iter_bytes()
        assert next(pieces) == b"data: 1\n\n"  # the second is not sent yet
        world.script.go_on.set()
        assert b"".join(pieces) == b"data: 2\n\n"


def test_web_sockets_pass_both_ways_and_end_with_their_gateway(world: World) -> None:
    path = world.does()
    head = (
        f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
        "sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", world.port), timeout=WITHIN_S) as connection:
        connection.sendall(head.encode())
        received = b""
        while not received.endswith(b"\r\n\r\n"):
            received += connection.recv(4096)
        assert b" 101 " in received
        assert b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in received
        for frame in (b"\x81\x03one", b"\x81\x03two"):
            connection.sendall(frame)
            assert connection.recv(4096) == frame
        (seen,) = world.seen(path)
        world.gateways[seen.gateway].kill()
        try:
            assert connection.recv(4096) == b""
        finally:
            world.gateways[seen.gateway].start()


def test_a_killed_balancer_is_started_again(world: World, client: httpx.Client) -> None:
    before = world.stack.unit("balancer")
    assert before.pid is not None
    os.kill(before.pid, signal.SIGKILL)
    eventually(lambda: world.stack.unit("balancer").restarts > before.restarts, "the supervisor noticed")
    world.stack.wait_ready(["balancer"])
    assert request(client, "GET", "/again").status_code == 202


def test_one_gateway_needs_no_balancer(tmp_path: Path) -> None:
    stack = Stack(Settings(home=tmp_path))
    with pytest.raises(StackError, match="nothing to balance"):
        stack.up(only={"balancer"})
    assert not stack.running()


def test_the_configuration_is_for_the_gateways_of_the_settings(world: World) -> None:
    made: dict[str, Any] = json.loads((world.stack.settings.root / "balancer" / "envoy.json").read_text())
    (cluster,) = made["static_resources"]["clusters"]
    (group,) = cluster["load_assignment"]["endpoints"]
    ports = [one["endpoint"]["address"]["socket_address"]["port_value"] for one in group["lb_endpoints"]]
    assert tuple(ports) == world.stack.settings.balancer.ports
