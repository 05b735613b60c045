"""Sockets and event streams of a real server: cut at random, idle by the thousand, publishing and asking."""

import asyncio
import json
import resource
from collections.abc import AsyncIterator
from itertools import pairwise
from random import Random
from typing import Any

import httpx
import msgspec
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from core.errors import Denied, InvalidInput, Unavailable
from gateway.client import GatewayClient, Listening
from gateway.keys import Key
from gateway.limits import TokenLimits
from gateway.principals import STREAM_READ
from gateway.push import frames
from gateway.push.requests import GENERATE
from tests.gateway.samples import NOW, payment
from tests.gateway.streaming import (
    HASH,
    ID,
    KEY,
    PARTITIONS,
    Cutter,
    Streaming,
    limited,
    only,
    partition_of,
    streaming,
)
from tests.operators.generating import World, until, words, world

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


@pytest.fixture
async def w() -> AsyncIterator[World]:
    async with world("fake") as made:
        yield made


@pytest.fixture
async def answering(w: World) -> AsyncIterator[Streaming]:
    async with streaming(generate=w.generate) as made:
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


async def test_events_are_published_over_the_socket_as_over_http(served: Streaming) -> None:
    async with GatewayClient(served.url, KEY) as client, client.stream() as stream:
        accepted = await stream.publish("payments", payment(id="p-1"))
        assert (accepted["id"], accepted["status"]) == ("p-1", "provisional")
        mixed = await stream.publish("payments", [payment(id="p-2"), {"card_id": 5}])
        assert [outcome["status"] for outcome in mixed["outcomes"]] == [202, 422]
        assert [message.key for message in served.events.kafka.produced] == ["acme|c-1"] * 2
        for data, code in (
            ({"card_id": "c-1"}, "invalid_record"),
            (payment(id="p-1", amount_cents=1), "conflict"),
            (payment(tenant="other"), "invalid_record"),
            ([], "no_events"),
        ):
            with pytest.raises(InvalidInput) as refused:
                await stream.publish("payments", data)
            assert refused.value.code == code
        served.events.kafka.refusing = Unavailable("no broker", code="kafka_unavailable")
        with pytest.raises(Unavailable):
            await stream.publish("payments", payment())


async def test_what_the_key_may_not_do_is_refused_call_by_call(answering: Streaming) -> None:
    answering.source.keys[ID] = Key(ID, HASH, "acme", "", frozenset({STREAM_READ}), NOW)
    async with GatewayClient(answering.url, KEY) as client, client.stream() as stream:
        with pytest.raises(Denied):
            await stream.publish("payments", payment())
        with pytest.raises(Denied):
            await stream.ask("generate", {"prompt": "Hello."})
        with pytest.raises(Denied):
            await anext(aiter(stream.suggest("Hel")))
        assert answering.events.kafka.produced == []
        assert answering.asking is not None
        assert answering.asking.asked == []


@pytest.mark.parametrize("name", ["key", "tenant", "POST /api/v1/pipelines/{pipeline}/events"])
async def test_what_is_published_over_a_socket_counts_as_requests(name: str) -> None:
    async with (
        streaming(limits=limited({name: 2})) as served,
        GatewayClient(served.url, KEY) as client,
        client.stream() as stream,
    ):
        for id in ("p-1", "p-2"):
            await stream.publish("payments", payment(id=id))
        with pytest.raises(Unavailable) as refused:
            await stream.publish("payments", payment(id="p-3"))
        assert refused.value.code == "rate_limited"
        assert len(served.events.kafka.produced) == 2
        await stream.subscribe("results", pipeline="fraud")


async def test_prompts_count_as_requests_and_their_answers_as_tokens(w: World) -> None:
    limits, tokens = limited({f"POST {GENERATE}": 5}), TokenLimits(only("tokens", 50))
    async with (
        streaming(generate=w.generate, limits=limits, tokens=tokens) as served,
        GatewayClient(served.url, KEY) as client,
        client.stream() as stream,
    ):

        async def suggested(text: str) -> str:
            return [one.source async for one in stream.suggest(text, max_tokens=20)][-1]

        assert await suggested("Dear") == "model"
        await stream.ask("generate", {"prompt": "Tell me.", "max_tokens": 20})
        for call in (suggested("Hello"), stream.ask("generate", {"prompt": "Hello", "max_tokens": 20})):
            with pytest.raises(Unavailable) as refused:
                await call
            assert "tokens" in str(refused.value)
        assert await suggested("Dear") == "cache"
        with pytest.raises(Unavailable) as refused:
            await suggested("Dear")
        assert "requests" in str(refused.value)
        assert len(w.fakes[0].seen) == 2


async def test_a_prompt_is_asked_over_the_socket_whole_and_in_pieces(answering: Streaming) -> None:
    asked = {"prompt": "Tell me.", "max_tokens": 6}
    async with GatewayClient(answering.url, KEY) as client, client.stream() as stream:
        assert (await stream.ask("generate", asked))["text"] == words(6)
        pieces: list[Any] = []
        whole = await stream.ask("generate", asked | {"stream": True}, piece=pieces.append)
        assert "".join(piece["text"] for piece in pieces) == whole["text"] == words(6)
        with pytest.raises(InvalidInput) as wrong:
            await stream.ask("generate", {"prompt": 5})
        assert wrong.value.code == "invalid_request"


async def test_a_conversation_is_pushed_to_all_who_follow_it(answering: Streaming) -> None:
    asked = {"messages": [{"role": "user", "content": "Tell me."}], "max_tokens": 4}
    async with GatewayClient(answering.url, KEY) as client, client.stream() as one, client.stream() as two:
        await two.subscribe("chat", entity="c-1")
        answer = await one.ask("generate", asked, conversation="c-1")
        await one.ask("generate", asked, conversation="c-2")
        await one.ask("generate", asked | {"max_tokens": 3}, conversation="c-1")
        turns = []
        async with asyncio.timeout(WITHIN_S):
            async for event in two:
                turns.append(event.data)
                if len(turns) == 4:
                    break
        assert [(turn["role"], turn["text"]) for turn in turns] == [
            ("user", "Tell me."),
            ("assistant", answer["text"]),
            ("user", "Tell me."),
            ("assistant", words(3)),
        ]
        assert turns[1]["in_reply_to"] == turns[0]["id"]
        answering.turns.refusing = Unavailable("no broker", code="kafka_unavailable")
        with pytest.raises(Unavailable):
            await one.ask("generate", asked, conversation="c-1")


async def test_leaving_cancels_what_was_asked(answering: Streaming, w: World) -> None:
    w.fakes[0].seconds_per_token = 0.05
    asked = {"prompt": "Tell me.", "max_tokens": 300}
    async with GatewayClient(answering.url, KEY) as client:
        async with client.stream() as stream:
            task = asyncio.create_task(stream.ask("generate", asked))
            await until(lambda: w.fakes[0].open == 1, within_s=WITHIN_S)
            task.cancel()
            await until(lambda: w.fakes[0].open == 0, within_s=WITHIN_S)
            gone = asyncio.create_task(stream.ask("generate", asked))
            await until(lambda: w.fakes[0].open == 1, within_s=WITHIN_S)
        await until(lambda: w.fakes[0].open == 0, within_s=WITHIN_S)
        with pytest.raises(Unavailable):
            await gone


async def test_a_keystroke_supersedes_the_one_before_it(answering: Streaming, w: World) -> None:
    w.fakes[0].seconds_per_token = 0.02
    async with GatewayClient(answering.url, KEY) as client, client.stream() as stream:

        async def type_(text: str) -> list[Any]:
            return [suggestion async for suggestion in stream.suggest(text, max_tokens=20)]

        typing = []
        for text in ("D", "De", "Dea", "Dear"):
            typing.append(asyncio.create_task(type_(text)))
            await until(lambda: len(w.fakes[0].seen) == len(typing), within_s=WITHIN_S)
        async with asyncio.timeout(WITHIN_S):
            *earlier, last = await asyncio.gather(*typing)
        assert not any(suggestion.final for found in earlier for suggestion in found)
        assert [suggestion.source for suggestion in last] == ["model"] * len(last)
        texts = [suggestion.partial for suggestion in last]
        assert all(later.startswith(before) for before, later in pairwise(texts))
        assert (last[-1].final, last[-1].partial) == (True, words(20))
        assert w.fakes[0].left == 3
        assert w.fakes[0].open == 0

        calls = len(w.fakes[0].seen)
        (kept,) = await type_("Dear" + words(20)[:7])
        assert (kept.source, kept.partial, kept.final) == ("cache", words(20)[7:], True)
        assert len(w.fakes[0].seen) == calls


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
    ids=str,
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


BAD = [
    "", "null", "5", "[]", "{}", "\x00", "{" * 100_000, '"' + "x" * 2_000_000 + '"', '{"type":5}',
    '{"type":"publish","id":"1","pipeline":"payments","data":' + "[" * 50_000 + "]" * 50_000 + "}",
    '{"type":"subscribe","channel":"results","pipeline":"fraud","since":"x"}',
    '{"type":"subscribe","channel":"results","pipeline":"fraud","nope":1}',
    '{"type":"prompt","id":1,"prompt":"x"}', '{"type":"ask","id":"1","pipeline":"fraud","data":{},"key":5}',
    '{"type":"ack","name":["x"],"position":""}', '{"type":"cancel"}', '{"type":"ping","id":{}}',
]  # fmt: skip
TOLD = [
    '{"type":"publish","id":"1","pipeline":"payments","data":{"card_id":"c","card_id":"d"}}',
    '{"type":"publish","id":"1","pipeline":"payments","data":{"card_id":' + "[" * 100 + "]" * 100 + "}}",
    '{"type":"publish","id":"1","pipeline":"payments","data":"\'; DROP TABLE transactions; --"}',
    '{"type":"publish","id":"1","pipeline":"payments","data":{"card_id":"' + "x" * 5_000 + '"}}',
    '{"type":"publish","id":"1","pipeline":"../../etc/passwd","data":{}}',
    '{"type":"publish","id":"1","pipeline":"","data":{}}',
    '{"type":"ask","id":"1","pipeline":"payments/events?","data":{}}',
    '{"type":"ask","id":"1","pipeline":"generate","data":{},"key":"no key"}',
    '{"type":"prompt","id":"1","prompt":"x","max_tokens":-1}',
    '{"type":"subscribe","channel":"../results","pipeline":"fraud"}',
    '{"type":"subscribe","channel":"entity"}',
    '{"type":"subscribe","channel":"results","pipeline":"fraud","name":"no name"}',
    '{"type":"ack","name":"nope","position":"x"}',
]


@pytest.mark.parametrize("frame", [*BAD, *TOLD], ids=lambda frame: frame[:60])
async def test_no_frame_breaks_the_gateway(answering: Streaming, frame: str) -> None:
    url = f"ws://127.0.0.1:{answering.port}/api/v1/stream"
    async with connect(url, subprotocols=[Subprotocol(frames.SUBPROTOCOL)]) as socket:
        await socket.send(msgspec.json.encode({"type": "connect", "token": KEY}).decode())
        assert json.loads(await socket.recv())["type"] == "connected"
        await socket.send(frame)
        async with asyncio.timeout(WITHIN_S):
            told = json.loads(await socket.recv())
        assert told["type"] == "error"
        assert 400 <= told["problem"]["status"] < 500, told
        if frame in TOLD:
            await socket.send('{"type":"ping","id":"after"}')
            assert json.loads(await socket.recv()) == {"type": "pong", "id": "after"}
        else:
            with pytest.raises(ConnectionClosed) as closed:
                async with asyncio.timeout(WITHIN_S):
                    await socket.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 4400
    async with GatewayClient(answering.url, KEY) as client, client.stream() as stream:
        assert (await stream.publish("payments", payment()))["status"] == "provisional"
