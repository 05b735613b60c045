"""The socket's manners: what is asked first, what is refused, and with which code it ends."""

import asyncio
from typing import Any

import msgspec
import pytest

from core.clock import ManualClock
from gateway.keyring import Keyring
from gateway.keys import Key, mint
from gateway.principals import EVENTS_WRITE, STREAM_READ
from gateway.push import frames, session
from gateway.push.session import Sessions
from gateway.server import bearer
from tests.gateway.samples import NOW, KeysInMemory, status_entries
from tests.gateway.test_hub import CHANNEL, a_hub, feed

KEY, ID, HASH = mint()
WEAK_KEY, WEAK_ID, WEAK_HASH = mint()


class Client:
    """Both ends of a socket in memory."""

    def __init__(
        self, sessions: Sessions, *, header: str | None = None, protocols: tuple[str, ...] = ()
    ) -> None:
        self.inbox: asyncio.Queue[Any] = asyncio.Queue()
        self.inbox.put_nowait({"type": "websocket.connect"})
        self.sent: list[dict[str, Any]] = []
        self.changed = asyncio.Event()
        self.reading = asyncio.Event()
        self.reading.set()
        headers = {"authorization": f"Bearer {header}"} if header else {}
        offered = list(protocols or (frames.SUBPROTOCOL,))
        self.task = asyncio.create_task(sessions(headers, offered, self.inbox.get, self._take))

    async def _take(self, message: Any) -> None:
        if message["type"] == "websocket.send":
            await self.reading.wait()
        self.sent.append(message)
        self.changed.set()

    def say(self, frame: Any) -> None:
        text = frame if isinstance(frame, str) else msgspec.json.encode(frame).decode()
        self.inbox.put_nowait({"type": "websocket.receive", "text": text})

    async def until(self, kind: str) -> dict[str, Any]:
        """The next frame of a kind, within two seconds."""
        async with asyncio.timeout(2):
            while True:
                for found in self.frames:
                    if found["type"] == kind:
                        return found
                self.changed.clear()
                await self.changed.wait()

    async def code(self) -> int:
        """The close code, within five seconds."""
        async with asyncio.timeout(5):
            await self.task
        closed = [message for message in self.sent if message["type"] == "websocket.close"]
        return int(closed[0]["code"])

    @property
    def frames(self) -> list[dict[str, Any]]:
        return [msgspec.json.decode(m["text"]) for m in self.sent if m["type"] == "websocket.send"]


def some_sessions(*, queue: int = 1000, keys: KeysInMemory | None = None) -> tuple[Any, Sessions, Keyring]:
    hub = a_hub()
    source = keys or KeysInMemory(
        Key(ID, HASH, "acme", "", frozenset({STREAM_READ}), NOW),
        Key(WEAK_ID, WEAK_HASH, "acme", "", frozenset({EVENTS_WRITE}), NOW),
    )
    keyring = Keyring(source, clock=ManualClock(NOW))
    sessions = Sessions(hub, keyring, queue=queue, bearer=bearer)
    return hub, sessions, keyring


async def connected(sessions: Sessions) -> Client:
    client = Client(sessions)
    client.say({"type": "connect", "key": KEY})
    await client.until("connected")
    return client


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
    await sessions.drain()
    assert await client.code() == 1001


@pytest.mark.parametrize("key", [None, "nonsense", pytest.param(mint()[0], id="unknown")])
async def test_a_bad_key_is_closed_with_4401(key: str | None) -> None:
    _, sessions, _ = some_sessions()
    client = Client(sessions)
    client.say({"type": "connect", "key": key} if key else {"type": "connect"})
    assert await client.code() == 4401


async def test_a_key_without_the_scope_is_closed() -> None:
    _, sessions, _ = some_sessions()
    client = Client(sessions)
    client.say({"type": "connect", "key": WEAK_KEY})
    assert await client.code() == 4401
    assert client.frames[0]["problem"]["code"] == "forbidden"


@pytest.mark.parametrize(
    "frame",
    [
        "no json",
        "[]",
        "{}",
        '{"type":"nonsense"}',
        '{"type":"subscribe","channel":"results","pipeline":"fraud"}',
        '{"type":"connect","key":5}',
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
    "second",
    [
        {"type": "connect", "key": KEY},
        {"type": "subscribe", "channel": "results", "pipeline": "fraud"},
        {"type": "subscribe", "channel": "alerts", "since": ["x"] * 2000},
    ],
)
async def test_frames_out_of_order_are_closed_with_4400(second: Any) -> None:
    _, sessions, _ = some_sessions()
    client = await connected(sessions)
    client.say({"type": "subscribe", "channel": "results", "pipeline": "fraud"})
    client.say(second)
    assert await client.code() == 4400


async def test_an_unknown_channel_is_an_error_and_the_socket_stays() -> None:
    _, sessions, _ = some_sessions()
    client = await connected(sessions)
    client.say({"type": "subscribe", "channel": "results", "pipeline": "frod"})
    error = await client.until("error")
    assert (error["problem"]["code"], error["channel"]) == ("unknown_channel", "results:frod")
    client.say({"type": "subscribe", "channel": "results", "pipeline": "fraud"})
    await client.until("subscribed")
    await sessions.drain()
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
    monkeypatch.setattr(session, "MOST_SOCKETS", 1)
    _, sessions, _ = some_sessions()
    first = await connected(sessions)
    assert await Client(sessions).code() == 1013
    await sessions.drain()
    assert await first.code() == 1001
