"""What is done over a real socket besides listening: publish, ask, be suggested; and bad frames."""

import asyncio
import json
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from core.errors import Denied, InvalidInput, Unavailable
from gateway.client import GatewayClient
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
    Streaming,
    limited,
    only,
    streaming,
)
from tests.operators.generating import World, until, words, world

WITHIN_S = 60.0


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
        assert (last[-1].final, last[-1].partial) == (True, words(20, after=1))
        assert w.fakes[0].left == 3
        assert w.fakes[0].open == 0

        calls = len(w.fakes[0].seen)
        said = words(20, after=1)
        (kept,) = await type_("Dear" + said[:7])
        assert (kept.source, kept.partial, kept.final) == ("cache", said[7:], True)
        assert len(w.fakes[0].seen) == calls


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
