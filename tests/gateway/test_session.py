"""The socket's manners: what is asked first, what is refused, and with which code it ends."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from core.clock import ManualClock
from core.errors import ServerFailed
from gateway.circuits import BREAKING
from gateway.exchange import Request, Response, json_response
from gateway.keys import Key, mint
from gateway.principals import STREAM_READ
from gateway.push import connections as register
from gateway.push import frames
from gateway.push.positions import Position, Signer
from gateway.push.under_way import MOST_CALLS
from gateway.routing import Route
from tests.gateway.samples import NOW, KeysInMemory, position_of, status_entries
from tests.gateway.sockets import (
    HASH,
    ID,
    KEY,
    WEAK_KEY,
    Client,
    connected,
    some_sessions,
)
from tests.gateway.test_hub import CHANNEL, feed


async def test_connect_subscribe_and_be_pushed() -> None:
    hub, sessions, _ = some_sessions()
    client = await connected(sessions)
    assert client.sent[0] == {"type": "websocket.accept", "subprotocol": frames.SUBPROTOCOL}
    client.say({"type": "subscribe", "channel": "results", "pipeline": "fraud"})
    assert (await client.until("subscribed"))["channel"] == CHANNEL
    feed(hub, status_entries([("acme", "a", 1), ("other", "b", 1)]))
    event = await client.until("event")
    assert (event["id"], event["data"]["status"]) == ("a", "rank-1")
    client.say({"type": "ping", "id": "7"})
    assert (await client.until("pong"))["id"] == "7"
    client.say({"type": "unsubscribe", "channel": "results", "pipeline": "fraud"})
    await client.until("unsubscribed")
    feed(hub, status_entries([("acme", "late", 1)], first_offset=2))
    client.inbox.put_nowait({"type": "websocket.disconnect", "code": 1000})
    await client.task
    assert [frame["id"] for frame in client.frames if frame["type"] == "event"] == ["a"]


async def test_the_key_may_come_in_the_header() -> None:
    _, sessions, _ = some_sessions()
    client = Client(sessions, header=KEY)
    client.say({"type": "connect"})
    assert (await client.until("connected"))["tenant"] == "acme"
    await sessions.connections.drain()
    assert await client.code() == 1001


@pytest.mark.parametrize("key", [None, "nonsense", pytest.param(mint()[0], id="unknown")])
async def test_a_bad_key_is_closed_with_4401(key: str | None) -> None:
    _, sessions, _ = some_sessions()
    client = Client(sessions)
    client.say({"type": "connect", "token": key} if key else {"type": "connect"})
    assert await client.code() == 4401


async def test_a_key_without_the_scope_is_closed_with_4403() -> None:
    _, sessions, _ = some_sessions()
    client = Client(sessions)
    client.say({"type": "connect", "token": WEAK_KEY})
    assert await client.code() == 4403
    assert client.frames[0]["problem"]["code"] == "forbidden"


@pytest.mark.parametrize(
    "frame",
    [
        "no json",
        "[]",
        "{}",
        '{"type":"nonsense"}',
        '{"type":"subscribe","channel":"results","pipeline":"fraud"}',
        '{"type":"connect","token":5}',
        '{"type":"connect","unknown":1}',
        '{"type":"connect","positions":{"results:fraud":"x"}}',
        '{"type":"ping"}',
        "[" * 70_000,
        '{"type":"ping","id":"\\ud800"}',
    ],
)
async def test_what_is_no_connect_frame_is_closed_with_4400(frame: str) -> None:
    _, sessions, _ = some_sessions()
    client = Client(sessions)
    client.say(frame)
    assert await client.code() == 4400
    assert client.frames[0]["type"] == "error"


async def test_binary_frames_are_closed_with_4400() -> None:
    _, sessions, _ = some_sessions()
    client = await connected(sessions)
    client.inbox.put_nowait({"type": "websocket.receive", "bytes": b"\x00"})
    assert await client.code() == 4400


@pytest.mark.parametrize(
    ("second", "code"),
    [
        ({"type": "connect", "token": KEY}, 4400),
        ({"type": "subscribe", "channel": "results", "pipeline": "fraud"}, 4409),
        (
            {
                "type": "subscribe",
                "channel": "entity",
                "pipeline": "fraud",
                "entity": "e",
                "since": ["x"] * 2000,
            },
            4400,
        ),
        ({"type": "subscribe", "channel": "results", "pipeline": "fraud", "policy": "hope"}, 4400),
        ({"type": "subscribe", "channel": "results", "filter": {"status": {"$ne": 1}}}, 4400),
        ({"type": "connected", "session": "x"}, 4400),
        ({"type": "event"}, 4400),
        ({"type": "ack", "name": "desk"}, 4400),
        ({"type": "publish", "id": "1", "pipeline": "fraud"}, 4400),
        ({"type": "prompt", "id": "1"}, 4400),
    ],
    ids=lambda value: value.get("type") if isinstance(value, dict) else None,
)
async def test_frames_out_of_order_close_the_socket(second: Any, code: int) -> None:
    hub, sessions, _ = some_sessions()
    client = await connected(sessions)
    client.say({"type": "subscribe", "channel": "results", "pipeline": "fraud"})
    client.say(second)
    assert await client.code() == code
    assert hub.channel(CHANNEL).subscribers == {}


async def test_an_unknown_channel_is_an_error_and_the_socket_stays() -> None:
    _, sessions, _ = some_sessions()
    client = await connected(sessions)
    client.say({"type": "subscribe", "channel": "results", "pipeline": "frod"})
    error = await client.until("error")
    assert (error["problem"]["code"], error["channel"]) == ("unknown_channel", "results:frod")
    client.say({"type": "subscribe", "channel": "results", "pipeline": "fraud"})
    await client.until("subscribed")
    await sessions.connections.drain()
    assert await client.code() == 1001


async def test_no_connect_in_time_is_closed_with_4408(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "CONNECT_WITHIN_S", 0.05)
    _, sessions, _ = some_sessions()
    assert await Client(sessions).code() == 4408


async def test_another_subprotocol_is_closed_with_4406() -> None:
    _, sessions, _ = some_sessions()
    assert await Client(sessions, protocols=("graphql-ws",)).code() == 4406


async def test_a_revoked_key_closes_its_sockets() -> None:
    source = KeysInMemory(Key(ID, HASH, "acme", "", frozenset({STREAM_READ}), NOW))
    _, sessions, keyring = some_sessions(keys=source)
    client = await connected(sessions)
    source.keys[ID] = Key(ID, HASH, "acme", "", frozenset({STREAM_READ}), NOW, revoked_at=NOW)
    await keyring.refresh()
    assert await client.code() == 4401


async def test_too_many_sockets_are_closed_with_1013(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(register, "MOST_CONNECTIONS", 1)
    _, sessions, _ = some_sessions()
    first = await connected(sessions)
    assert await Client(sessions).code() == 1013
    await sessions.connections.drain()
    assert await first.code() == 1001


@pytest.mark.parametrize(
    ("origin", "code"),
    [
        ("https://evil.example", 4403),
        ("null", 4403),
        ("https://gateway.example", 4403),  # another port is another origin
        ("http://[", 4403),
        ("https://gateway.example:8000", 1001),
        ("https://pages.example", 1001),
        (None, 1001),
    ],
)
async def test_pages_of_other_origins_may_not_open_sockets(origin: str | None, code: int) -> None:
    _, sessions, _ = some_sessions()
    client = Client(sessions, header=KEY, origin=origin)
    if code == 1001:
        client.say({"type": "connect"})
        await client.until("connected")
        await sessions.connections.drain()
    assert await client.code() == code


async def test_what_fails_inside_is_closed_with_4500_and_says_nothing() -> None:
    hub, sessions, _ = some_sessions()
    client = await connected(sessions)

    async def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("password=hunter2")

    hub.subscribe = broken
    client.say({"type": "subscribe", "channel": "results", "pipeline": "fraud"})
    assert await client.code() == 4500
    assert "hunter2" not in str(client.sent)
    assert client.frames[-1]["problem"]["code"] == "internal_error"


async def test_a_channel_is_one_pipeline_or_one_entity_of_it() -> None:
    hub, sessions, _ = some_sessions()
    client = await connected(sessions)
    client.say({"type": "subscribe", "channel": "entity", "pipeline": "fraud", "entity": "card-1"})
    assert (await client.until("subscribed"))["channel"] == "entity:fraud:card-1"
    client.say({"type": "subscribe", "channel": "entity", "pipeline": "fraud"})
    assert (await client.until("error"))["problem"]["errors"] == [
        {"pointer": "/entity", "reason": "is missing"}
    ]
    feed(hub, status_entries([("acme", "a", 1)], entity="card-2"))
    feed(hub, status_entries([("acme", "b", 1)], first_offset=1, entity="card-1"))
    event = await client.until("event")
    assert (event["id"], event["channel"]) == ("b", "entity:fraud:card-1")


async def test_a_filter_that_makes_no_sense_is_an_error_and_the_socket_stays() -> None:
    _, sessions, _ = some_sessions()
    client = await connected(sessions)
    wrong = {"nope": 1, "rank": "1", "occurred_at": "2026-01-01", "status": []}
    client.say({"type": "subscribe", "channel": "results", "pipeline": "fraud", "filter": wrong})
    problem = (await client.until("error"))["problem"]
    assert {field["pointer"] for field in problem["errors"]} == {f"/filter/{name}" for name in wrong}
    client.say({"type": "subscribe", "channel": "results", "pipeline": "fraud", "filter": {"rank": [1, 2]}})
    await client.until("subscribed")


async def test_a_named_subscription_goes_on_from_what_was_acknowledged() -> None:
    hub, sessions, _ = some_sessions()
    named = {"type": "subscribe", "channel": "results", "pipeline": "fraud", "name": "desk"}
    client = await connected(sessions)
    client.say(named)
    await client.until("subscribed")
    feed(hub, status_entries([("acme", f"t{i}", 1) for i in range(6)]))
    client.say({"type": "ping", "id": "all"})
    await client.until("pong")
    events = [frame for frame in client.frames if frame["type"] == "event"]
    for event in (events[3], events[1]):  # going back does not move it
        client.say({"type": "ack", "name": "desk", "position": position_of(event)[1]})
    client.inbox.put_nowait({"type": "websocket.disconnect", "code": 1000})
    await client.task

    again = await connected(sessions)
    again.say(named)
    assert (await again.until("subscribed"))["recovered"] is True
    async with asyncio.timeout(60):
        while len([frame for frame in again.frames if frame["type"] == "event"]) < 2:
            await asyncio.sleep(0.01)
    assert [frame["id"] for frame in again.frames if frame["type"] == "event"] == ["t4", "t5"]


@pytest.mark.parametrize("position", ["garbage", "", "foreign", "another epoch"])
async def test_what_is_no_position_of_the_channel_is_not_acknowledged(position: str) -> None:
    _, sessions, _ = some_sessions()
    client = await connected(sessions)
    client.say({"type": "subscribe", "channel": "results", "pipeline": "fraud", "name": "desk"})
    await client.until("subscribed")
    signer = Signer(b"s" * 32)
    tokens = {
        "foreign": signer.sign(Position(7, 0, 4, 0), "other", CHANNEL),
        "another epoch": signer.sign(Position(8, 0, 4, 0), "acme", CHANNEL),
    }
    client.say({"type": "ack", "name": "desk", "position": tokens.get(position, position)})
    assert (await client.until("error"))["problem"]["code"] == "invalid_position"
    client.say({"type": "ack", "name": "unheard", "position": tokens["foreign"]})
    client.say({"type": "ping", "id": "1"})
    await client.until("pong")
    codes = [frame["problem"]["code"] for frame in client.frames if frame["type"] == "error"]
    assert codes == ["invalid_position", "unknown_subscription"]


async def test_an_expiring_key_closes_its_socket() -> None:
    soon, clock = timedelta(minutes=1), ManualClock(NOW)
    source = KeysInMemory(Key(ID, HASH, "acme", "", frozenset({STREAM_READ}), NOW, expires_at=NOW + soon))
    _, sessions, keyring = some_sessions(keys=source, clock=clock)
    client = await connected(sessions)
    clock.advance(soon)
    await keyring.refresh()
    assert await client.code() == 4401


async def test_calls_are_refused_by_name_and_the_socket_stays() -> None:
    _, sessions, _ = some_sessions()
    client = await connected(sessions)
    for frame in (
        {"type": "publish", "id": "1", "pipeline": "../../models", "data": {}},
        {"type": "publish", "id": "2", "pipeline": "nope", "data": {}},
        {"type": "ask", "id": "3", "pipeline": "generate", "data": {"prompt": "x"}},
        {"type": "prompt", "id": "4", "prompt": "x"},
        {"type": "prompt", "id": "", "prompt": "x"},
        {"type": "cancel", "id": "nothing"},
    ):
        client.say(frame)
    async with asyncio.timeout(60):
        while len([frame for frame in client.frames if frame["type"] == "error"]) < 5:
            await asyncio.sleep(0.01)
    told = {
        frame.get("for"): frame["problem"]["status"] for frame in client.frames if frame["type"] == "error"
    }
    assert told == {"1": 404, "2": 404, "3": 404, "4": 404, "": 422}
    client.say({"type": "ping", "id": "1"})
    await client.until("pong")


async def test_what_fails_again_and_again_is_not_asked_over_a_socket_either() -> None:
    asked = 0

    async def failing(request: Request) -> Response:
        nonlocal asked
        asked += 1
        raise ServerFailed("failed", "the model's server said 500")

    path = "/api/v1/pipelines/{pipeline}/infer"
    _, sessions, _ = some_sessions(routes=(Route("POST", path, STREAM_READ, failing, guarded=True),))
    client = await connected(sessions)
    for number in range(BREAKING.failures + 1):
        client.say({"type": "ask", "id": str(number), "pipeline": "fraud", "data": {}})
        async with asyncio.timeout(60):
            while len(errors := [frame for frame in client.frames if frame["type"] == "error"]) <= number:
                await asyncio.sleep(0.01)
    codes = [frame["problem"]["code"] for frame in errors]
    assert codes == ["server_failed"] * BREAKING.failures + ["circuit_open"]
    assert asked == BREAKING.failures


async def test_calls_are_bounded_and_their_ids_are_taken_once() -> None:
    gate, cancelled = asyncio.Event(), 0

    async def slow(request: Request) -> Response:
        nonlocal cancelled
        try:
            await gate.wait()
        except asyncio.CancelledError:
            cancelled += 1
            raise
        return json_response(200, {"score": 1})

    path = "/api/v1/pipelines/{pipeline}/infer"
    _, sessions, _ = some_sessions(routes=(Route("POST", path, STREAM_READ, slow),))
    client = await connected(sessions)

    async def told(kind: str, count: int) -> list[dict[str, Any]]:
        async with asyncio.timeout(60):
            while len(found := [frame for frame in client.frames if frame["type"] == kind]) < count:
                await asyncio.sleep(0.01)
        return found

    for number in range(MOST_CALLS + 1):
        client.say({"type": "ask", "id": str(number), "pipeline": "fraud", "data": {}})
    client.say({"type": "ask", "id": "0", "pipeline": "fraud", "data": {}})
    codes = [(frame["for"], frame["problem"]["code"]) for frame in await told("error", 2)]
    assert codes == [(str(MOST_CALLS), "queue_full"), ("0", "conflict")]
    client.say({"type": "cancel", "id": "1"})
    client.say({"type": "ask", "id": "another", "pipeline": "fraud", "data": {}})
    client.say({"type": "ping", "id": "1"})
    await client.until("pong")
    gate.set()
    answered = {frame["for"] for frame in await told("answer", MOST_CALLS)}
    assert answered == {"another", *map(str, range(MOST_CALLS))} - {"1"}
    assert cancelled == 1
