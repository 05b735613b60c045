"""Security middleware: what comes from outside is bounded, refused with a reason, and learns nothing."""

import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from core.ids import new_id
from tests.integration.levels.measuring import Measure, expecting
from tests.integration.scenario import Deployed
from tests.integration.test_requests import decided, payment

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]
EVENTS = "/api/v1/pipelines/fraud/events"
JSON = {"content-type": "application/json"}
LEAKS = ("Traceback", 'File "', "site-packages", "psycopg", "librdkafka", "msgspec.", "granian")

BAD: dict[str, tuple[int, dict[str, Any]]] = {
    "no JSON": (400, {"content": b"{", "headers": JSON}),
    "a key twice": (400, {"content": b'{"id": "1", "id": "2"}', "headers": JSON}),
    "too deep": (400, {"content": b"[" * 5000 + b"]" * 5000, "headers": JSON}),
    "no UTF-8": (400, {"content": b'{"id": "\xff"}', "headers": JSON}),
    "fields that are wrong": (422, {"json": {"amount_cents": "much"}}),
    "a number that is none": (400, {"content": b'{"amount_cents": NaN}', "headers": JSON}),
    "too large": (413, {"content": b'"' + b"x" * 20_000_000 + b'"', "headers": JSON}),
    "another type": (415, {"content": b"<a/>", "headers": {"content-type": "text/xml"}}),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_body_is_refused_with_a_reason_and_nothing_else(client: httpx.Client, name: str) -> None:
    status, request = BAD[name]
    answer = client.post(EVENTS, **request, **expecting(status))
    assert answer.status_code == status, answer.text
    problem = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert (problem["status"], problem["request_id"]) == (status, answer.headers["x-request-id"])
    assert not [leak for leak in LEAKS if leak.lower() in answer.text.lower()]


def test_every_answer_has_its_headers_and_names_no_software(client: httpx.Client, measure: Measure) -> None:
    for path, statuses in (("/health", (200,)), ("/docs", (200,)), ("/nothing", (404,)), (EVENTS, (405,))):
        headers = client.get(path, **expecting(*statuses)).headers
        assert headers["x-content-type-options"] == "nosniff", path
        assert "default-src" in headers["content-security-policy"], path
        assert headers["referrer-policy"] == "no-referrer", path
        assert headers["server"] == "millstream", path
        assert "access-control-allow-origin" not in headers, path


def test_pages_of_other_origins_are_told_nothing(client: httpx.Client) -> None:
    asking = {"origin": "https://elsewhere.example", "access-control-request-method": "POST"}
    answer = client.options(EVENTS, headers=asking, **expecting(405))
    assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_a_tenant_is_whom_the_key_says_whatever_the_body_says(
    deployed: Deployed, client: httpx.Client, measure: Measure, tenant: str
) -> None:
    victim = f"{tenant}-victim"
    event = payment(tenant=victim)
    answer = client.post(EVENTS, json=event, headers={"x-tenant": victim}, **expecting(202, 422))
    with measure.client(deployed.url, deployed.key(victim)) as theirs:
        if answer.status_code == 202:
            decided(client, event["id"])
        assert theirs.get(f"/api/v1/transactions/{event['id']}", **expecting(404)).status_code == 404
        own = payment()
        theirs.post(EVENTS, json=own, **expecting(202))
        decided(theirs, own["id"])
        foreign = client.get(f"/api/v1/transactions/{own['id']}", **expecting(404)).json()
        absent = client.get(f"/api/v1/transactions/{new_id()}", **expecting(404)).json()
    assert foreign.keys() == absent.keys()
    assert foreign["code"] == absent["code"]


@pytest.fixture
def raw(deployed: Deployed) -> Iterator[socket.socket]:
    address = (deployed.settings.gateway.host, deployed.settings.gateway.port)
    with socket.create_connection(address, timeout=30) as made:
        yield made


@pytest.mark.parametrize(
    "head",
    [
        b"GET /health HTTP/1.1\r\nHost: x\r\nX-Request-ID: a\x00b\r\n\r\n",
        b"GET /../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST " + EVENTS.encode() + b" HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST " + EVENTS.encode() + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
    ids=["a control character", "out of the root", "too long", "a length below zero", "smuggled"],
)  # fmt: skip
def test_a_request_that_is_none_is_refused_and_the_next_is_answered(
    raw: socket.socket, client: httpx.Client, head: bytes
) -> None:
    raw.sendall(head)
    answer = raw.recv(4096)
    assert not answer or answer.split(b" ")[1].startswith(b"4"), answer[:200]
    assert client.get("/health", **expecting(200)).status_code == 200
