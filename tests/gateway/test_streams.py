"""Sockets and event streams of a real server: cut at random, idle by the thousand."""

import asyncio
import json
import resource
from collections.abc import AsyncIterator
from random import Random
from typing import Any

import httpx
import pytest

from core.errors import InvalidInput
from gateway.client import GatewayClient, Listening
from gateway.keys import Key
from gateway.principals import STREAM_READ
from gateway.push import frames
from tests.gateway.samples import NOW
from tests.gateway.streaming import (
    HASH,
    ID,
    KEY,
    PARTITIONS,
    Cutter,
    Streaming,
    partition_of,
    streaming,
)
from tests.operators.generating import until

WITHIN_S = 60.0
IDLE = 1000
HANDSHAKE = (
    b"GET /api/v1/stream HTTP/1.1\r\nHost: gateway\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


@pytest.fixture
async def served() -> AsyncIterator[Streaming]:
    async with streaming() as made:
        yield made


@pytest.mark.parametrize("seed", range(3))
async def test_random_cuts_of_the_connection_lose_nothing_and_repeat_nothing(seed: int) -> None:
    random = Random(seed)
    async with streaming(ring=48, queue=30) as made:
        cutter = Cutter(made.port, random)
        await cutter.start()
        state, got = Listening(), {partition: list[str]() for partition in range(PARTITIONS)}
        ids = [f"t{number}" for number in range(600)]

        async def follow() -> None:
            async with GatewayClient(cutter.url, KEY) as client:
                events = client.listen("fraud", state=state, backoff_s=0.001, longest_backoff_s=0.01)
                async for event in events:
                    got[event.partition].append(event.id)
                    if sum(map(len, got.values())) == len(ids):
                        return

        following = asyncio.create_task(follow())
        async with asyncio.timeout(WITHIN_S):
            await state.subscribed.wait()
        start = 0
        while start < len(ids):
            size = random.choice([1, 5, 20, 60])
            made.push(ids[start : start + size])
            made.push([f"foreign-{start}"], tenant="other")
            made.push(ids[max(0, start - 5) : start])  # outcomes that were there before
            start += size
            await asyncio.sleep(random.choice([0.0, 0.001, 0.01]))
        async with asyncio.timeout(WITHIN_S):
            await following
        await cutter.close()
    assert cutter.cuts > 3
    assert state.gaps == []
    for partition, found in got.items():
        assert found == [id for id in ids if partition_of(id) == partition]


async def test_a_thousand_idle_sockets_end_and_the_next_good_one_works(
    served: Streaming, monkeypatch: pytest.MonkeyPatch
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4 * IDLE)), hard))
    monkeypatch.setattr(frames, "CONNECT_WITHIN_S", 1.0)

    async def idle() -> int:
        """The close code of a socket that was opened by hand and says nothing."""
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(HANDSHAKE)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
        (head, length) = await reader.readexactly(2)
        assert head == 0x88, "a whole close frame"
        closing = await reader.readexactly(length)
        writer.close()
        return int.from_bytes(closing[:2])

    try:
        async with asyncio.timeout(3 * WITHIN_S):
            idling = [asyncio.create_task(idle()) for _ in range(IDLE)]
            codes = set(await asyncio.gather(*idling))
        assert codes == {4408}
        monkeypatch.setattr(frames, "CONNECT_WITHIN_S", WITHIN_S)
        async with GatewayClient(served.url, KEY) as client, client.stream() as stream:
            await stream.subscribe("results", pipeline="fraud")
            served.push(["a"])
            async with asyncio.timeout(WITHIN_S):
                assert (await anext(aiter(stream))).id == "a"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_filters_entities_and_names_on_one_socket(served: Streaming) -> None:
    async with GatewayClient(served.url, KEY) as client, client.stream() as stream:
        await stream.subscribe("results", pipeline="fraud", filter={"id": ["a", "c"]})
        await stream.subscribe("entity", pipeline="fraud", entity="card-2")
        served.push(["a", "b"], entity="card-1")
        served.push(["c", "d"], entity="card-2")
        found = []
        async with asyncio.timeout(WITHIN_S):
            async for event in stream:
                found.append((event.channel, event.id))
                if len(found) == 4:
                    break
        assert sorted(found) == [
            ("entity:fraud:card-2", "c"),
            ("entity:fraud:card-2", "d"),
            ("results:fraud", "a"),
            ("results:fraud", "c"),
        ]
        with pytest.raises(InvalidInput) as wrong:
            await stream.subscribe("alerts")
        assert wrong.value.code == "unknown_channel"


async def test_listening_under_a_name_goes_on_from_what_was_dealt_with(served: Streaming) -> None:
    async with GatewayClient(served.url, KEY) as client:

        async def take(count: int, state: Listening) -> list[str]:
            found: list[str] = []
            events = client.listen("fraud", name="desk", state=state, stop=lambda: len(found) >= count)
            async for event in events:
                found.append(event.id)
            return found

        state = Listening()
        first = asyncio.create_task(take(4, state))
        async with asyncio.timeout(WITHIN_S):
            await state.subscribed.wait()
            served.push([f"t{number}" for number in range(0, 30, 3)])  # of one partition
            before = await first
            assert before + await take(10 - len(before), Listening()) == [f"t{n}" for n in range(0, 30, 3)]


async def test_a_name_goes_on_from_where_it_began_in_what_brought_nothing(served: Streaming) -> None:
    async with GatewayClient(served.url, KEY) as client:
        for pushed in ((), ("a", "b", "c"), ("d",)):
            served.push(pushed)  # while nobody follows
            async with client.stream() as stream:
                subscribed = await stream.subscribe("results", pipeline="fraud", name="desk")
                assert subscribed.recovered
                async with asyncio.timeout(WITHIN_S):
                    for _ in pushed:
                        event = await anext(aiter(stream))
                        await stream.acknowledge("desk", event.positions[str(event.partition)])
                with pytest.raises(InvalidInput):  # and what was acknowledged before is kept
                    await stream.subscribe("results", pipeline="nothing")
        assert len({partition_of(id) for id in "abc"}) == PARTITIONS


class Reading:
    """An event stream as a client reads it."""

    def __init__(self, response: httpx.Response) -> None:
        self._lines = response.aiter_lines()
        self.last_id = ""

    async def next(self) -> tuple[str, Any]:
        """(name, data) of the next event."""
        name, data = "message", None
        async with asyncio.timeout(WITHIN_S):
            async for line in self._lines:
                if line.startswith("event: "):
                    name = line[7:]
                elif line.startswith("id: "):
                    self.last_id = line[4:]
                elif line.startswith("data: "):
                    data = json.loads(line[6:])
                elif line == "" and data is not None:
                    return name, data
        raise AssertionError("the stream has ended")

    async def rest(self) -> list[str]:
        """The lines up to the end of the stream."""
        async with asyncio.timeout(WITHIN_S):
            return [line async for line in self._lines]


HEADERS = {"authorization": f"Bearer {KEY}", "accept": "text/event-stream"}
RESULTS = {"channel": "results", "pipeline": "fraud"}


async def test_event_streams_resume_from_the_last_event_id(served: Streaming) -> None:
    ids = [f"t{number}" for number in range(200)]
    got: dict[int, list[str]] = {partition: [] for partition in range(PARTITIONS)}
    headers, start, random = dict(HEADERS), 0, Random(1)
    async with httpx.AsyncClient(base_url=served.url, timeout=WITHIN_S) as http:
        while sum(map(len, got.values())) < len(ids):
            async with http.stream("GET", "/api/v1/stream", params=RESULTS, headers=headers) as response:
                assert response.headers["content-type"] == "text/event-stream"
                reading = Reading(response)
                name, data = await reading.next()
                assert (name, data["recovered"], data["channel"]) == ("subscribed", True, "results:fraud")
                size = random.randint(5, 60)
                served.push(ids[start : start + size])
                start += size
                waiting = min(start, len(ids)) - sum(map(len, got.values()))
                for _ in range(random.randint(1, waiting)):
                    name, data = await reading.next()
                    assert name == "message"
                    got[int(next(iter(data["positions"])))].append(data["id"])
                headers["last-event-id"] = reading.last_id
    for partition, found in got.items():
        assert found == [id for id in ids if partition_of(id) == partition]


async def test_an_event_stream_is_filtered_and_ends_when_its_key_does(served: Streaming) -> None:
    params = RESULTS | {"filter": '{"id": ["b"]}', "policy": "drop_oldest"}
    async with (
        httpx.AsyncClient(base_url=served.url, headers=HEADERS, timeout=WITHIN_S) as http,
        http.stream("GET", "/api/v1/stream", params=params) as response,
    ):
        reading = Reading(response)
        await reading.next()
        served.push(["a", "b"])
        assert (await reading.next())[1]["id"] == "b"
        served.source.keys[ID] = Key(ID, HASH, "acme", "", frozenset({STREAM_READ}), NOW, revoked_at=NOW)
        await served.keyring.refresh()
        name, data = await reading.next()
        assert (name, data["problem"]["status"]) == ("error", 401)
        assert await reading.rest() == []


async def test_draining_ends_event_streams(served: Streaming) -> None:
    async with (
        httpx.AsyncClient(base_url=served.url, headers=HEADERS, timeout=WITHIN_S) as http,
        http.stream("GET", "/api/v1/stream", params=RESULTS) as response,
    ):
        reading = Reading(response)
        await reading.next()
        served.push(["a"])
        await served.connections.drain()
        assert (await reading.next())[1]["id"] == "a"
        assert await reading.rest() == []
    async with httpx.AsyncClient(base_url=served.url, headers=HEADERS) as http:
        assert (await http.get("/api/v1/stream", params=RESULTS)).status_code == 503


@pytest.mark.parametrize(
    ("params", "headers", "status"),
    [
        ({}, HEADERS, 400),
        ({"channel": "results"}, HEADERS, 404),
        ({"channel": "results", "pipeline": "frod"}, HEADERS, 404),
        ({"channel": "entity", "pipeline": "fraud"}, HEADERS, 422),
        (RESULTS | {"policy": "hope"}, HEADERS, 400),
        (RESULTS | {"filter": "{"}, HEADERS, 400),
        (RESULTS | {"filter": "[" * 2000}, HEADERS, 400),
        (RESULTS | {"filter": '{"nope":1}'}, HEADERS, 422),
        (RESULTS, HEADERS | {"last-event-id": "x." * 2000}, 400),
        (RESULTS, {"authorization": "Bearer nonsense"}, 401),
        (RESULTS, {}, 401),
    ],
    ids=[
        *("no channel", "no pipeline", "an unknown pipeline", "no entity", "an unknown policy"),
        *("a cut filter", "a deep filter", "a filter of an unknown field", "a long last id"),
        *("a key that is none", "no key"),
    ],
)
async def test_what_is_no_event_stream_is_a_problem_document(
    served: Streaming, params: dict[str, str], headers: dict[str, str], status: int
) -> None:
    async with httpx.AsyncClient(base_url=served.url, timeout=WITHIN_S) as http:
        answer = await http.get("/api/v1/stream", params=params, headers=headers)
        assert answer.status_code == status, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        head = await http.head("/api/v1/stream", params=RESULTS, headers=HEADERS)
        assert (head.status_code, head.headers["content-type"]) == (200, "text/event-stream")
    assert served.hub.channel("results:fraud").subscribers == {}


async def test_a_client_that_leaves_its_stream_leaves_nothing_behind(served: Streaming) -> None:
    channel = served.hub.channel("results:fraud")
    async with (
        httpx.AsyncClient(base_url=served.url, headers=HEADERS, timeout=WITHIN_S) as http,
        http.stream("GET", "/api/v1/stream", params=RESULTS) as response,
    ):
        await Reading(response).next()
        assert "acme" in channel.subscribers
    await until(lambda: channel.subscribers == {}, within_s=WITHIN_S)
