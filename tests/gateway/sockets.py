"""Sessions in memory, and their clients."""

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec

from core.clock import ManualClock
from gateway.admission import Admission
from gateway.keyring import Keyring
from gateway.keys import Key, mint
from gateway.principals import EVENTS_WRITE, STREAM_READ
from gateway.push import connections as register
from gateway.push import frames
from gateway.push.calls import Calls
from gateway.push.ring import Entry
from gateway.push.sessions import Sessions
from gateway.push.stored import InMemoryPositions
from gateway.routing import Route, Router
from gateway.server import bearer
from tests.gateway.samples import NOW, KeysInMemory, status_entries, texts_of
from tests.gateway.test_hub import a_hub

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
