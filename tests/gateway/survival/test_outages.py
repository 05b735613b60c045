"""What still works while something is away, as the README says it; and all of it again, without a restart,
once it is back."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import psycopg
import pytest
from websockets.sync.client import ClientConnection, connect

from core.ids import new_id
from gateway.keys import create_key
from schemas.headers import header
from tests.asking.world import payment
from tests.gateway.running import user_event
from tests.gateway.survival.outages import OUTAGES, WELL, Outage, table
from tests.gateway.survival.site import ROOT, TENANT, WITHIN_S, Site, everything, until

pytestmark = [pytest.mark.services, pytest.mark.timeout(900)]

STOPPED = [outage for outage in OUTAGES if outage.service is not None]


def test_the_readme_has_this_very_table() -> None:
    assert table() in (ROOT / "README.md").read_text()


@dataclass
class Ground:
    """What the requests are about. `unseen` is a key that no gateway knows yet."""

    site: Site
    asked: str = field(default_factory=new_id)
    stored: str = field(default_factory=new_id)
    pushed: str = field(default_factory=new_id)
    unseen: str = ""

    def prepare(self) -> None:
        pipeline = self.site.scored.pipeline
        values = (TENANT, self.stored, pipeline)
        with psycopg.connect(self.site.settings.postgres.address, autocommit=True) as connection:
            connection.execute(
                "INSERT INTO transactions (tenant, id, pipeline, entity, occurred_at, status, rank,"
                " changed_at) VALUES (%s, %s, %s, 'e', now(), 'in_review', 1, now())",
                values,
            )
            connection.execute(
                "INSERT INTO reviews (tenant, id, pipeline, entity, occurred_at, reasons, state, opened_at)"
                " VALUES (%s, %s, %s, 'e', now(), '[]', 'open', now())",
                values,
            )
        with self.site.http() as http:
            later = {"idempotency-key": self.asked, "prefer": "respond-async"}
            assert http.post(f"{_of(self.site)}/infer", json=payment(ms=5), headers=later).status_code == 202
        self.site.push(self.site.scored, [self.pushed])

    def forget_keys(self) -> None:
        self.unseen = create_key(self.site.settings, TENANT, name="unseen")


def _of(site: Site) -> str:
    return f"/api/v1/pipelines/{site.scored.pipeline}"


def _event(ground: Ground, http: httpx.Client, **headers: str) -> httpx.Response:
    return http.post(f"{_of(ground.site)}/events", json=payment(ms=5, id=new_id()), headers=headers)


def _ask(ground: Ground, http: httpx.Client, prefer: str) -> httpx.Response:
    return http.post(f"{_of(ground.site)}/infer", json=payment(ms=5000), headers={"prefer": prefer})


def _verdict(ground: Ground, http: httpx.Client) -> httpx.Response:
    said = {"verdict": "fraud", "reviewer": "ada"}
    return http.post(f"/api/v1/reviews/{ground.stored}/decision", json=said)


def _many(ground: Ground, http: httpx.Client) -> httpx.Response:
    asked = {"features": ["recent:count_1h"], "entities": ["c-1", "c-2"]}
    return http.post("/api/v1/features/read", json=asked)


def _events(ground: Ground, http: httpx.Client) -> httpx.Response:
    params = {"channel": "results", "pipeline": ground.site.scored.pipeline}
    with http.stream("GET", "/api/v1/stream", params=params) as response:
        if response.status_code != 200:
            response.read()
        return response


CALLS: dict[str, Callable[[Ground, httpx.Client], httpx.Response]] = {
    "event": _event,
    "user event": lambda ground, http: http.post("/events", json=user_event(id=new_id())),
    "event of another key": lambda ground, http: _event(
        ground, http, authorization=f"Bearer {ground.unseen}"
    ),
    "ask": lambda ground, http: _ask(ground, http, "wait=60"),
    "ask later": lambda ground, http: _ask(ground, http, "respond-async"),
    "outcome": lambda ground, http: http.get(f"/api/v1/requests/{ground.asked}"),
    "pushed status": lambda ground, http: http.get(f"/api/v1/transactions/{ground.pushed}"),
    "older status": lambda ground, http: http.get(f"/api/v1/transactions/{ground.stored}"),
    "features": lambda ground, http: http.get("/api/v1/features/recent/c-1"),
    "features of many": _many,
    "reviews": lambda ground, http: http.get("/api/v1/reviews"),
    "models": lambda ground, http: http.get("/api/v1/models"),
    "trainings": lambda ground, http: http.get("/api/v1/training/jobs"),
    "verdict": _verdict,
    "events": _events,
}


def answered(ground: Ground, url: str) -> dict[str, str]:
    """What a gateway answers to each request, in the words of the table."""
    found = {"named": _named(ground, url)}
    with ground.site.http(url) as http:
        http.timeout = httpx.Timeout(10)
        for name, call in CALLS.items():
            try:
                answer = call(ground, http)
            except httpx.TransportError as error:
                found[name] = repr(error)
                continue
            body = json.loads(answer.content) if name != "events" or answer.status_code != 200 else {}
            found[name] = " ".join([str(answer.status_code), *_said(name, body)])
            if answer.status_code == 503:
                assert int(answer.headers["retry-after"]) >= 1
                assert answer.headers["content-type"] == "application/problem+json"
                assert body["retryable"] is True
        assert http.get("/livez").status_code == 200
        assert http.get("/health").status_code == 200
    return found


def _said(name: str, body: dict[str, Any]) -> list[str]:
    said = body.get("code") or (body.get("level") if name == "ask" else None)
    return [said] if said else []


class Followed:
    """One socket on the results of a pipeline."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket

    def say(self, frame: dict[str, Any]) -> None:
        self._socket.send(json.dumps(frame))

    def next(self, *kinds: str) -> Any:
        while (frame := json.loads(self._socket.recv(WITHIN_S)))["type"] not in kinds:
            assert frame["type"] == "ping", frame
            self.say({"type": "pong"})
        return frame


@contextmanager
def following(ground: Ground, url: str) -> Iterator[Followed]:
    with connect(f"{url.replace('http', 'ws')}/api/v1/stream", close_timeout=1) as socket:
        followed = Followed(socket)
        followed.say({"type": "connect", "token": ground.site.key()})
        followed.next("connected")
        yield followed


def _subscribe(ground: Ground, followed: Followed, **more: str) -> str:
    """`subscribed`, or the code of what was refused."""
    pipeline = ground.site.scored.pipeline
    followed.say({"type": "subscribe", "channel": "results", "pipeline": pipeline, **more})
    frame = followed.next("subscribed", "error")
    return str(frame["type"] if frame["type"] == "subscribed" else frame["problem"]["code"])


def _named(ground: Ground, url: str) -> str:
    with following(ground, url) as followed:
        return _subscribe(ground, followed, name=f"desk-{new_id()}")


@pytest.fixture(scope="module")
def ground(site: Site) -> Ground:
    made = Ground(site)
    made.prepare()
    return made


def well(ground: Ground) -> None:
    """Everything works, of both gateways."""
    expected = {name: answer for answers in WELL.values() for name, answer in answers.items()}
    ground.forget_keys()
    for url in ground.site.urls:
        found: dict[str, str] = {}

        def works() -> bool:
            found.update(answered(ground, url))  # noqa: B023
            return found == expected  # noqa: B023

        until(works, f"all is well at {url}", lambda: _other(found, expected))  # noqa: B023


def _other(found: dict[str, str], expected: dict[str, str]) -> dict[str, str]:
    return {name: answer for name, answer in found.items() if answer != expected[name]}


@pytest.mark.parametrize("outage", STOPPED, ids=lambda outage: outage.service)
def test_what_still_works_and_that_all_does_again(ground: Ground, outage: Outage) -> None:
    site, services, service = ground.site, ground.site.services, outage.service or ""
    expected = outage.answers()
    assert expected.keys() == CALLS.keys() | {"named"}
    until(lambda: all(map(site.complete, site.urls)), "all is there")
    well(ground)
    ground.forget_keys()
    with following(ground, site.url) as followed:
        assert _subscribe(ground, followed) == "subscribed"
        refused = new_id()
        services.stop(service)
        try:
            for url in site.urls:
                until(lambda: not site.complete(url), f"{url} sees it")  # noqa: B023
                found: dict[str, str] = {}

                def told() -> bool:
                    found.update(answered(ground, url))  # noqa: B023
                    return found == expected  # noqa: B023

                until(told, f"{service} away, {url}", lambda: _other(found, expected))  # noqa: B023
                assert (httpx.get(f"{url}/ready", timeout=60).status_code == 200) == outage.ready
                assert httpx.get(f"{url}/health", timeout=60).json()["status"] == "degraded"
            if outage.pushes:
                _pushed_to(ground, followed)
            DURING.get(service, lambda ground, id: None)(ground, refused)
        finally:
            services.start(service)
            services.wait_ready([service], WITHIN_S)
        until(lambda: all(map(site.complete, site.urls)), "it is back")
        _pushed_to(ground, followed)
    well(ground)
    AFTER.get(service, lambda ground, id: None)(ground, refused)


def _pushed_to(ground: Ground, followed: Followed) -> None:
    id = new_id()
    ground.site.push(ground.site.scored, [id])
    while followed.next("event")["id"] != id:
        pass  # of a test before


def _is_refused(ground: Ground, id: str) -> None:
    with ground.site.http() as http:
        answer = http.post(f"{_of(ground.site)}/events", json=payment(ms=5, id=id))
        assert answer.status_code == 503
        assert http.get(f"/api/v1/transactions/{id}").status_code == 404


def _is_taken_once(ground: Ground, id: str) -> None:
    source = ground.site.scored.source
    with ground.site.http() as http:
        assert http.post(f"{_of(ground.site)}/events", json=payment(ms=5, id=id)).status_code == 202
    messages = everything(ground.site.settings, source.name, source.partitions)
    assert [header(message.headers(), "ce_id") for message in messages].count(id) == 1


def _repeats_are_answered_alike(ground: Ground, id: str) -> None:
    """The worker's own memory stands in for the store."""
    path, body, keyed = f"{_of(ground.site)}/infer", payment(ms=5000), {"idempotency-key": id}
    with ground.site.http() as http:
        first = http.post(path, json=body, headers=keyed)
        again = http.post(path, json=body, headers=keyed)
        assert (first.status_code, again.json()) == (200, first.json())
        assert http.post(path, json=body | {"amount_cents": 1}, headers=keyed).status_code == 409


DURING = {"kafka": _is_refused, "registry": _is_refused, "redis": _repeats_are_answered_alike}
AFTER = {"kafka": _is_taken_once, "registry": _is_taken_once}
