"""When and how a socket is written to, and what waits for a client that is too slow."""

import asyncio
from itertools import pairwise
from typing import Any

import pytest

from gateway.push import frames, session
from gateway.push import hub as push_hub
from tests.gateway.samples import status_entries
from tests.gateway.sockets import connected, events, following, named, some_sessions
from tests.gateway.test_hub import feed


async def test_a_client_that_does_not_read_is_closed_with_4429() -> None:
    hub, sessions, _ = some_sessions(queue=20)
    client = await connected(sessions)
    client.say({"type": "subscribe", "channel": "results", "pipeline": "fraud"})
    await client.until("subscribed")
    client.reading.clear()
    feed(hub, status_entries([("acme", f"t{i}", 1) for i in range(100)]))
    assert await client.code() == 4429


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
