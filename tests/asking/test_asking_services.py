"""Asking over Kafka, with gateways and workers as processes that can be killed."""

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from core.errors import InvalidInput, Unavailable
from core.ids import new_id
from gateway.client import GatewayClient
from stack.local import Stack
from tests.asking.world import Process, World, payment, until, world

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def here(stack: Stack) -> Iterator[World]:
    with world(stack.settings) as made:
        yield made


@pytest.fixture(scope="module")
def gateway(here: World) -> Process:
    return here.start("gateway")


@pytest.fixture(scope="module")
def echo(here: World, gateway: Process) -> Process:
    made = here.start("echo")
    gateway.wait_ready()
    return made.wait_ready()


@pytest.fixture
def http(here: World, gateway: Process, echo: Process) -> Iterator[httpx.Client]:
    with here.client(gateway) as client:
        yield client


def test_asked_and_answered(here: World, http: httpx.Client) -> None:
    key = new_id()
    answer = http.post(here.path, json=payment(card_id="c-1"), headers={"idempotency-key": key})
    assert answer.status_code == 200, answer.text
    assert (answer.json()["id"], answer.json()["card"]) == (key, "c-1")
    found = http.get(f"/api/v1/requests/{key}").json()
    assert (found["state"], found["status"], found["answer"]) == ("answered", 200, answer.json())


def test_a_repeat_is_answered_alike_and_another_body_is_a_conflict(here: World, http: httpx.Client) -> None:
    headers, body = {"idempotency-key": new_id()}, payment()
    first = http.post(here.path, json=body, headers=headers)
    again = http.post(here.path, json=body, headers=headers)
    assert (first.status_code, again.status_code) == (200, 200)
    assert first.json() == again.json()
    assert again.headers["idempotent-replayed"] == "true"
    assert here.notes(headers["idempotency-key"]) == ["began", "finished"]
    other = http.post(here.path, json=body | {"amount_cents": 1}, headers=headers)
    assert (other.status_code, other.json()["code"]) == (409, "conflict")


def test_repeats_at_once_are_one_work(here: World, http: httpx.Client) -> None:
    headers, body = {"idempotency-key": new_id()}, payment(ms=400)
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(http.post, here.path, json=body, headers=headers) for _ in range(8)]
        answers = [one.result() for one in asked]
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.text for answer in answers}) == 1
    assert here.notes(headers["idempotency-key"]) == ["began", "finished"]


def test_another_tenant_finds_nothing(here: World, gateway: Process, http: httpx.Client) -> None:
    key = new_id()
    http.post(here.path, json=payment(), headers={"idempotency-key": key})
    with here.client(gateway, "other") as other:
        found, absent = other.get(f"/api/v1/requests/{key}"), other.get(f"/api/v1/requests/{new_id()}")
        assert (found.status_code, absent.status_code) == (404, 404)
        assert found.json()["code"] == absent.json()["code"]
        own = other.post(here.path, json=payment(), headers={"idempotency-key": key})
        assert own.status_code == 200  # the same key of another tenant is another request


def test_answered_later(here: World, http: httpx.Client) -> None:
    headers = {"prefer": "respond-async"}
    answer = http.post(here.path, json=payment(ms=300), headers=headers)
    assert (answer.status_code, answer.headers["preference-applied"]) == (202, "respond-async")
    place = answer.headers["location"]
    assert http.get(place).json()["state"] == "pending"
    found = until(lambda: (now := http.get(place).json())["state"] == "answered" and now, "answered")
    assert found["answer"]["id"] == answer.json()["id"]


def test_waiting_a_while_and_then_coming_back(here: World, http: httpx.Client) -> None:
    headers = {"prefer": "respond-async, wait=1"}
    soon = http.post(here.path, json=payment(ms=10), headers=headers)
    assert (soon.status_code, soon.headers["preference-applied"]) == (200, "respond-async, wait=1")
    began = time.monotonic()
    late = http.post(here.path, json=payment(ms=1500), headers=headers)
    assert late.status_code == 202
    assert time.monotonic() - began > 0.9
    until(lambda: http.get(late.headers["location"]).json()["state"] == "answered", "answered")


def test_the_deadline_is_504_and_the_work_is_stopped(here: World, http: httpx.Client) -> None:
    key = new_id()
    began = time.monotonic()
    answer = http.post(here.path, json=payment(ms=5000), headers={"prefer": "wait=1", "idempotency-key": key})
    assert (answer.status_code, answer.json()["code"]) == (504, "deadline_exceeded")
    assert time.monotonic() - began > 0.9
    until(lambda: here.notes(key) == ["began", "cancelled"], "the work is cancelled", 3)
    until(lambda: http.get(f"/api/v1/requests/{key}").json()["state"] == "expired", "it is expired", 3)


def test_a_client_that_leaves_cancels_and_may_ask_again(here: World, http: httpx.Client) -> None:
    key = new_id()
    body, headers = payment(ms=3000), {"idempotency-key": key, "prefer": "wait=20"}
    with pytest.raises(httpx.ReadTimeout):
        http.post(here.path, json=body, headers=headers, timeout=0.5)
    until(lambda: here.notes(key) == ["began", "cancelled"], "the work is cancelled", 2)
    until(lambda: http.get(f"/api/v1/requests/{key}").json()["state"] == "cancelled", "it is told", 3)
    again = http.post(here.path, json=body, headers=headers)
    assert again.status_code == 200
    assert here.notes(key) == ["began", "cancelled", "began", "finished"]


def test_one_who_stays_keeps_the_work_alive(here: World, http: httpx.Client) -> None:
    key = new_id()
    body, headers = payment(ms=1500), {"idempotency-key": key, "prefer": "wait=20"}
    with ThreadPoolExecutor(1) as pool:
        stays = pool.submit(http.post, here.path, json=body, headers=headers)
        with pytest.raises(httpx.ReadTimeout):
            http.post(here.path, json=body, headers=headers, timeout=0.5)
        assert stays.result().status_code == 200
    assert here.notes(key) == ["began", "finished"]


def test_requests_about_one_entity_keep_their_order(here: World, http: httpx.Client) -> None:
    keys, card = [new_id() for _ in range(4)], f"one-{new_id()}"
    with ThreadPoolExecutor(4) as pool:
        asked = []
        for key, ms in zip(keys, (300, 200, 100, 0), strict=True):
            body = payment(card_id=card, ms=ms)
            asked.append(pool.submit(http.post, here.path, json=body, headers={"idempotency-key": key}))
            until(lambda: http.get(f"/api/v1/requests/{key}").status_code == 200, "it is reserved")  # noqa: B023
            time.sleep(0.03)
        ended = [one.result().elapsed for one in asked]
    assert len(ended) == 4
    for key in keys:
        assert here.notes(key) == ["began", "finished"]


def events(lines: Iterator[str]) -> Iterator[dict[str, str]]:
    """Server-sent events, each as its fields; lines of data joined."""
    event: dict[str, str] = {}
    for line in lines:
        if not line:
            if event:
                yield event
            event = {}
            continue
        name, _, value = line.partition(": ")
        event[name] = f"{event[name]}\n{value}" if name in event else value


def test_a_streamed_answer_comes_piece_by_piece_and_can_be_resumed(here: World, http: httpx.Client) -> None:
    key, body = new_id(), payment(card_id="pieces-40")
    headers = {"idempotency-key": key, "accept": "text/event-stream"}
    with http.stream("POST", here.path, json=body, headers=headers) as answer:
        assert answer.headers["content-type"] == "text/event-stream"
        come, began = [], 0.0
        for event in events(answer.iter_lines()):
            began = began or time.monotonic()
            come.append(event)
        assert time.monotonic() - began > 0.1, "the first piece waits for the last"
    assert [event["event"] for event in come] == ["piece"] * 40 + ["answer"]
    assert [event["data"].strip() for event in come[:-1]] == [str(n) for n in range(40)]
    resumed = headers | {"last-event-id": come[29]["id"]}
    with http.stream("POST", here.path, json=body, headers=resumed) as answer:
        rest = list(events(answer.iter_lines()))
    assert rest == come[30:]
    assert here.notes(key) == ["began", "finished"]


def test_a_cut_stream_goes_on_where_it_was(here: World, gateway: Process, http: httpx.Client) -> None:
    """Another gateway, in the middle of the answer: what was sent comes from the worker's memory."""
    second = here.start("gateway").wait_ready()
    key, body = new_id(), payment(card_id="pieces-60")
    headers = {"idempotency-key": key, "accept": "text/event-stream", "prefer": "wait=20"}
    with (
        here.client(second) as other,
        http.stream("POST", here.path, json=body, headers=headers) as one,
    ):
        first = events(one.iter_lines())
        come = [next(first) for _ in range(10)]
        resumed = headers | {"last-event-id": come[-1]["id"]}
        with other.stream("POST", here.path, json=body, headers=resumed) as two:
            rest = list(events(two.iter_lines()))
    assert [event["data"].strip() for event in (come + rest)[:-1]] == [str(n) for n in range(60)]
    second.kill()
    assert here.notes(key) == ["began", "finished"]


JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b"", JSON, 400),
        (b"{", JSON, 400),
        (b"[]", JSON, 422),
        (b"null", JSON, 422),
        (b"[" * 100_000, JSON, 400),
        (b'{"a":' * 50_000, JSON, 400),
        (b'{"card_id":"\xff"}', JSON, 400),
        (b'{"card_id":"a","card_id":"b"}', JSON, 400),
        (b'{"card_id":"a","occurred_at":"2020-01-01T00:00:00Z","amount_cents":1}', JSON, 422),
        (b'{"card_id":1}', JSON, 422),
        (b"x" * 300_000, JSON, 413),
        (b"{}", {"content-type": "text/plain"}, 415),
        (b"{}\n{}", {"content-type": "application/x-ndjson"}, 415),
        (b"{}", JSON | {"prefer": "wait=soon"}, 400),
        (b"{}", JSON | {"idempotency-key": "a b"}, 400),
        (b"{}", JSON | {"idempotency-key": "x" * 129}, 400),
    ],
)
def test_a_hostile_body_is_refused_at_the_door(
    here: World, http: httpx.Client, content: bytes, headers: dict[str, str], status: int
) -> None:
    answer = http.post(here.path, content=content, headers=headers)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert http.post(here.path, json=payment()).status_code == 200


def test_who_may_not_ask_does_not(here: World, gateway: Process, http: httpx.Client) -> None:
    assert httpx.post(gateway.url + here.path, json=payment()).status_code == 401
    assert http.post("/api/v1/pipelines/absent/infer", json=payment()).status_code == 404
    assert http.get(here.path).status_code == 405
    assert http.get("/api/v1/requests/a%20b").status_code == 404


def test_replies_to_nobody_change_nothing(here: World, http: httpx.Client) -> None:
    """Unknown ids, a guessed epoch, no Avro at all: ignored; the next answer comes."""
    from schemas import broker
    from schemas.catalog.asking import REPLIES

    client = broker.producer(here.settings)
    for partition in range(REPLIES.partitions):
        for headers in ([("correlation_id", b"x-1")], [("correlation_id", b"")], None):
            client.produce(REPLIES.name, value=b"\x00garbage", partition=partition, headers=headers)
    assert client.flush(20) == 0
    assert http.post(here.path, json=payment()).status_code == 200


def test_garbage_among_the_requests_is_dead_lettered(here: World, http: httpx.Client) -> None:
    from schemas import broker
    from tests.jobs.worker.on_kafka import Bench

    client = broker.producer(here.settings)
    for value in (b"", b"garbage", b"\x00\x00\x00\x00\x01garbage", None):
        client.produce(here.plan.requests.name, value=value, key=b"acme|x")
    assert client.flush(20) == 0
    assert http.post(here.path, json=payment()).status_code == 200
    until(lambda: Bench.count(_Topics(), here.plan.requests.dlq) == 4, "four dead letters")  # type: ignore[arg-type]


class _Topics:
    """What `Bench.count` needs of itself: nothing."""


async def test_of_two_thousand_at_once_some_are_told_to_wait(
    here: World, stack: Stack, echo: Process
) -> None:
    import aiohttp

    small = here.start("gateway", MILLSTREAM_ASKING__MAX_WAITING="300").wait_ready()
    headers = {"authorization": f"Bearer {here.keys['acme']}", "prefer": "wait=30"}
    refused: list[Any] = []

    async with aiohttp.ClientSession(
        base_url=small.url, headers=headers, connector=aiohttp.TCPConnector(limit=0)
    ) as session:

        async def one() -> int:
            async with session.post(here.path, json=payment(ms=500)) as answer:
                if answer.status == 503:
                    refused.append((await answer.json(), answer.headers["retry-after"]))
                await answer.read()
                return answer.status

        statuses = await asyncio.gather(*(one() for _ in range(2_000)))
        assert set(statuses) == {200, 503}
        assert statuses.count(200) >= 300
        assert {problem["code"] for problem, _ in refused} == {"queue_full"}
        assert all(int(after) >= 1 for _, after in refused)
        assert await one() == 200
    small.kill()


def test_a_gateway_dies_and_the_other_gives_the_same_answer(here: World, echo: Process) -> None:
    one, two = here.start("gateway").wait_ready(), here.start("gateway").wait_ready()
    key, body = new_id(), payment(ms=1500)
    headers = {"idempotency-key": key, "prefer": "wait=20"}
    with here.client(one) as first, here.client(two) as second, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(first.post, here.path, json=body, headers=headers)
        until(lambda: here.notes(key) == ["began"], "it is under way")
        one.kill()
        with pytest.raises(httpx.TransportError):
            asked.result()
        answer = second.post(here.path, json=body, headers=headers)
        assert answer.status_code == 200
        assert second.post(here.path, json=body, headers=headers).json() == answer.json()
    assert here.notes(key) == ["began", "finished"]
    two.kill()


def test_a_worker_dies_and_the_next_answers(stack: Stack) -> None:
    with world(stack.settings) as own:
        gateway, worker = own.start("gateway"), own.start("echo")
        gateway.wait_ready()
        worker.wait_ready()
        keys = [new_id() for _ in range(20)]
        with own.client(gateway) as client, ThreadPoolExecutor(20) as pool:
            asked = [
                pool.submit(
                    client.post,
                    own.path,
                    json=payment(ms=1000),
                    headers={"idempotency-key": key, "prefer": "wait=50"},
                )
                for key in keys
            ]
            until(lambda: all(own.notes(key) for key in keys), "all are under way")
            worker.kill()
            own.start("echo")
            answers = [one.result() for one in asked]
            assert {answer.status_code for answer in answers} == {200}
            assert {answer.json()["id"] for answer in answers} == set(keys)


def test_a_stream_whose_worker_dies_begins_again_and_says_so(stack: Stack) -> None:
    with world(stack.settings) as own:
        gateway, worker = own.start("gateway"), own.start("echo")
        gateway.wait_ready()
        worker.wait_ready()
        headers = {"idempotency-key": new_id(), "accept": "text/event-stream", "prefer": "wait=60"}
        body = payment(card_id="pieces-30")
        with (
            own.client(gateway) as client,
            client.stream("POST", own.path, json=body, headers=headers) as answer,
        ):
            come = events(answer.iter_lines())
            before = [next(come) for _ in range(5)]
            worker.kill()
            own.start("echo")
            rest = list(come)
        assert [event["data"].strip() for event in before] == [str(n) for n in range(5)]
        kinds = [event["event"] for event in rest]
        again = kinds.index("restart")
        assert kinds[again:] == ["restart"] + ["piece"] * 29 + ["answer"]
        assert [event["data"].strip() for event in rest[again:-1]] == [str(n) for n in range(30)]


async def test_the_client_of_the_package_asks(here: World, gateway: Process, echo: Process) -> None:
    async with GatewayClient(gateway.url, here.keys["acme"]) as client:
        key, body = new_id(), payment()
        answer = await client.ask(here.domain, body, key=key)
        assert answer["id"] == key
        assert await client.ask(here.domain, body, key=key) == answer
        with pytest.raises(InvalidInput) as conflict:
            await client.ask(here.domain, body | {"amount_cents": 1}, key=key)
        assert conflict.value.code == "conflict"
        with pytest.raises(Unavailable) as late:
            await client.ask(here.domain, payment(ms=5000), wait_s=1)
        assert late.value.code == "deadline_exceeded"
        id = await client.ask_later(here.domain, payment(ms=200))
        async with asyncio.timeout(10):
            while (found := await client.outcome(id)) is None or found["state"] == "pending":
                await asyncio.sleep(0.05)
        assert found["answer"]["id"] == id
        assert await client.outcome(new_id()) is None


def test_workers_come_and_go_and_every_request_is_answered(stack: Stack) -> None:
    with world(stack.settings) as own:
        gateway, first = own.start("gateway"), own.start("echo")
        gateway.wait_ready()
        first.wait_ready()
        stop, taken = threading.Event(), []

        def asking() -> None:
            with own.client(gateway) as client:
                while not stop.is_set():
                    began = time.monotonic()
                    answer = client.post(own.path, json=payment(ms=5), headers={"prefer": "wait=30"})
                    taken.append((answer.status_code, time.monotonic() - began))

        threads = [threading.Thread(target=asking) for _ in range(4)]
        for thread in threads:
            thread.start()
        second = own.start("echo").wait_ready()
        time.sleep(1)
        first.stop()
        time.sleep(1)
        third = own.start("echo").wait_ready()
        second.stop()
        time.sleep(1)
        stop.set()
        for thread in threads:
            thread.join()
        third.kill()
        assert {status for status, _ in taken} == {200}
        longest = max(seconds for _, seconds in taken)
        assert longest < 5, f"an answer took {longest:.1f} s of {len(taken)}"


def test_what_waited_too_long_is_not_begun(stack: Stack) -> None:
    with world(stack.settings) as own:
        gateway, key = own.start("gateway").wait_ready(), new_id()
        with own.client(gateway) as client:
            headers, body = {"idempotency-key": key, "prefer": "wait=1"}, payment(ms=500)
            assert client.post(own.path, json=body, headers=headers).status_code == 504
            own.start("echo").wait_ready()
            until(lambda: client.get(f"/api/v1/requests/{key}").json().get("ended_at"), "it ended as expired")
            assert client.get(f"/api/v1/requests/{key}").json()["state"] == "expired"
        assert own.notes(key) == []
        with own.client(gateway) as client:  # asked again, to come back for it: under way, not expired
            later = client.post(
                own.path, json=body, headers={"idempotency-key": key, "prefer": "respond-async"}
            )
            assert later.status_code == 202
            assert client.get(later.headers["location"]).json()["state"] == "pending"
            until(lambda: client.get(later.headers["location"]).json()["state"] == "answered", "answered")
