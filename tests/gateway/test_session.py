"""The socket's manners: what is asked first, what is refused, and with which code it ends."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from itertools import pairwise
from typing import Any

import msgspec
import pytest

from core.clock import ManualClock
from core.errors import ServerFailed
from gateway.admission import Admission
from gateway.circuits import BREAKING
from gateway.exchange import Request, Response, json_response
from gateway.keyring import Keyring
from gateway.keys import Key, mint
from gateway.principals import EVENTS_WRITE, STREAM_READ
from gateway.push import connections as register
from gateway.push import frames, session
from gateway.push import hub as push_hub
from gateway.push.calls import Calls
from gateway.push.positions import Position, Signer
from gateway.push.ring import Entry
from gateway.push.sessions import Sessions
from gateway.push.stored import InMemoryPositions
from gateway.push.under_way import MOST_CALLS
from gateway.routing import Route, Router
from gateway.server import bearer
from tests.gateway.samples import NOW, KeysInMemory, position_of, status_entries, texts_of
from tests.gateway.test_hub import CHANNEL, a_hub, feed

KEY, ID, HASH = mint()
WEAK_KEY, WEAK_ID, WEAK_HASH = mint()


class Client:
    """Both ends of a socket in memory (`gateway.push.session.Socket`), full while nobody is `reading`."""

    def __init__(
        self,
        sessions: Sessions,
        *,
        header: str | None = None,
        protocols: tuple[str, ...] = (),
        origin: str | None = None,
    ) -> None:
        self.inbox: asyncio.Queue[Any] = asyncio.Queue()
        self.sent: list[dict[str, Any]] = []
        self.changed = asyncio.Event()
        self.reading = asyncio.Event()
        self.reading.set()
        headers = {"authorization": f"Bearer {header}"} if header else {}
        headers |= {"origin": origin, "host": "gateway.example:8000"} if origin is not None else {}
        self.protocols = list(protocols or (frames.SUBPROTOCOL,))
        self.task = asyncio.create_task(sessions(headers, self))

    @property
    def full(self) -> bool:
        return not self.reading.is_set()

    def accept(self, subprotocol: str | None = None) -> None:
        self.sent.append({"type": "websocket.accept", "subprotocol": subprotocol})

    async def receive(self) -> Any:
        return await self.inbox.get()

    def write(self, frames: bytes) -> None:
        assert not self.full, "written to who takes nothing"
        self.sent += [{"type": "websocket.send", "text": text} for text in texts_of(frames)]
        self.changed.set()

    async def room(self) -> None:
        await self.reading.wait()

    def close(self, code: int, reason: str = "") -> None:
        self.sent.append({"type": "websocket.close", "code": code, "reason": reason})
        self.changed.set()

    def say(self, frame: Any) -> None:
        text = frame if isinstance(frame, str) else msgspec.json.encode(frame).decode()
        self.inbox.put_nowait({"type": "websocket.receive", "text": text})

    async def until(self, kind: str) -> dict[str, Any]:
        """The next frame of a kind."""
        async with asyncio.timeout(60):
            while True:
                for found in self.frames:
                    if found["type"] == kind:
                        return found
                self.changed.clear()
                await self.changed.wait()

    async def code(self) -> int:
        """The close code."""
        async with asyncio.timeout(60):
            await self.task
        closed = [message for message in self.sent if message["type"] == "websocket.close"]
        return int(closed[0]["code"])

    @property
    def messages(self) -> list[Any]:
        return [msgspec.json.decode(m["text"]) for m in self.sent if m["type"] == "websocket.send"]

    @property
    def frames(self) -> list[dict[str, Any]]:
        return [
            frame
            for message in self.messages
            for frame in (message if isinstance(message, list) else [message])
        ]

    @property
    def events(self) -> list[str]:
        """The ids of the events."""
        return [frame["id"] for frame in self.frames if frame["type"] == "event"]


def some_sessions(
    *,
    queue: int = 1000,
    keys: KeysInMemory | None = None,
    routes: Sequence[Route] = (),
    clock: ManualClock | None = None,
) -> tuple[Any, Sessions, Keyring]:
    hub = a_hub()
    source = keys or KeysInMemory(
        Key(ID, HASH, "acme", "", frozenset({STREAM_READ}), NOW),
        Key(WEAK_ID, WEAK_HASH, "acme", "", frozenset({EVENTS_WRITE}), NOW),
    )
    keyring = Keyring(source, clock=clock or ManualClock(NOW))
    sessions = Sessions(
        register.Connections(hub, keyring, queue=queue),
        bearer=bearer,
        stored=InMemoryPositions(),
        calls=Calls(Admission(Router(routes), keyring)),
        origins=("https://pages.example",),
    )
    return hub, sessions, keyring


async def connected(sessions: Sessions, *, batched: bool = False) -> Client:
    client = Client(sessions)
    client.say({"type": "connect", "token": KEY, "batched": batched})
    await client.until("connected")
    return client


async def following(sessions: Sessions, *, batched: bool = False, **more: Any) -> Client:
    client = await connected(sessions, batched=batched)
    client.say({"type": "subscribe", "channel": "results", "pipeline": "fraud"} | more)
    await client.until("subscribed")
    return client


def events(first: int, last: int) -> list[Entry]:
    """Of these offsets, both included."""
    return status_entries([("acme", f"t{i}", 1) for i in range(first, last + 1)], first_offset=first)


def named(first: int, last: int) -> list[str]:
    return [f"t{i}" for i in range(first, last + 1)]


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


async def test_a_client_that_does_not_read_is_closed_with_4429() -> None:
    hub, sessions, _ = some_sessions(queue=20)
    client = await connected(sessions)
    client.say({"type": "subscribe", "channel": "results", "pipeline": "fraud"})
    await client.until("subscribed")
    client.reading.clear()
    feed(hub, status_entries([("acme", f"t{i}", 1) for i in range(100)]))
    assert await client.code() == 4429


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


async def test_a_client_that_takes_nothing_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "SEND_WITHIN_S", 0.05)
    hub, sessions, _ = some_sessions()
    client = await connected(sessions)
    client.say({"type": "subscribe", "channel": "results", "pipeline": "fraud"})
    await client.until("subscribed")
    client.reading.clear()
    feed(hub, status_entries([("acme", "a", 1)]))
    assert await client.code() == 4429


async def test_a_policy_keeps_a_slow_client_connected_and_tells_what_it_missed() -> None:
    hub, sessions, _ = some_sessions(queue=20)
    client = await connected(sessions)
    client.say({"type": "subscribe", "channel": "results", "pipeline": "fraud", "policy": "drop_oldest"})
    await client.until("subscribed")
    client.reading.clear()
    feed(hub, status_entries([("acme", f"t{i}", 1) for i in range(100)]))
    client.reading.set()
    client.say({"type": "ping", "id": "1"})
    await client.until("pong")
    ids = [frame["id"] for frame in client.frames if frame["type"] == "event"]
    dropped = [frame["count"] for frame in client.frames if frame["type"] == "dropped"]
    assert ids[-20:] == [f"t{i}" for i in range(80, 100)]
    assert sum(dropped) + len(ids) == 100


@pytest.mark.parametrize("batched", [True, False])
async def test_what_comes_is_written_before_anything_else_has_its_turn(batched: bool) -> None:
    hub, sessions, _ = some_sessions()
    client = await following(sessions, batched=batched)
    feed(hub, events(0, 2))
    assert client.events == named(0, 2)
    feed(hub, events(3, 3))
    assert [len(message) if isinstance(message, list) else 1 for message in client.messages[2:]] == (
        [3, 1] if batched else [1, 1, 1, 1]
    )


@pytest.mark.parametrize(
    "asked",
    [
        {"policy": "disconnect"},
        {"policy": "disconnect", "filter": {"rank": 1}},
        {"policy": "drop_oldest"},
        {"policy": "coalesce_by_key"},
    ],
    ids=["everything", "a selection", "drop_oldest", "coalesce_by_key"],
)
@pytest.mark.parametrize("batched", [True, False])
async def test_what_waited_is_written_before_what_comes_when_there_is_room(
    asked: dict[str, Any], batched: bool
) -> None:
    hub, sessions, _ = some_sessions()
    client = await following(sessions, batched=batched, **asked)
    expected: list[str] = []
    for start in range(0, 50, 10):
        client.reading.clear()
        for offset in range(start, start + 5):
            feed(hub, events(offset, offset))
            await asyncio.sleep(0)
        assert client.events == expected
        client.reading.set()  # whoever writes what waited has not had its turn yet
        feed(hub, events(start + 5, start + 9))
        skipped = (
            9 if asked["policy"] == "coalesce_by_key" else 0
        )  # of one entity, of all that waited at once
        expected += named(start + skipped, start + 9)
        assert client.events == expected
        await asyncio.sleep(0)
    client.say({"type": "ping", "id": "1"})
    await client.until("pong")
    assert client.events == expected


async def test_what_waits_when_a_socket_is_closed_is_written_before() -> None:
    hub, sessions, _ = some_sessions()
    client = await following(sessions)
    client.reading.clear()
    feed(hub, events(0, 200))
    draining = asyncio.create_task(sessions.connections.drain())
    await asyncio.sleep(0)
    feed(hub, events(201, 201))
    client.reading.set()
    await draining
    assert client.events == named(0, 200)
    assert await client.code() == 1001


async def test_nothing_is_pushed_to_a_socket_that_is_being_closed() -> None:
    hub, sessions, _ = some_sessions()
    client = await following(sessions)
    draining = asyncio.create_task(sessions.connections.drain())
    await asyncio.sleep(0)
    feed(hub, events(0, 1))
    await draining
    assert (client.events, await client.code()) == ([], 1001)


async def test_silence_is_broken_by_a_ping(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "HEARTBEAT_S", 0.01)
    _, sessions, _ = some_sessions()
    client = await following(sessions)
    await client.until("ping")
    monkeypatch.setattr(frames, "SILENT_S", 0.0)
    assert await client.code() == 4408


async def test_who_is_brought_along_leaves_others_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(push_hub, "_SCANNED", 100)
    hub, sessions, _ = some_sessions()
    first = await following(sessions)
    positions = list((await first.until("subscribed"))["positions"].values())
    first.inbox.put_nowait({"type": "websocket.disconnect", "code": 1000})
    await first.task
    feed(hub, events(0, 899))
    second = await connected(sessions)
    second.say({"type": "subscribe", "channel": "results", "pipeline": "fraud", "since": positions})
    seen = [0]
    async with asyncio.timeout(60):
        while seen[-1] < 900:
            await asyncio.sleep(0)
            seen.append(len(second.events))
    assert second.events == named(0, 899)
    assert max(later - earlier for earlier, later in pairwise(seen)) == 100


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
