"""A gateway's streams on a real socket, without Kafka: the test feeds the hub, and has a record of all."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any, cast

from core.clock import Clock, ManualClock, SystemClock
from core.errors import MillstreamError
from core.settings import Settings
from gateway.admission import Admission
from gateway.exchange import Request, Response
from gateway.generating.question import Questions
from gateway.keyring import Keyring
from gateway.keys import Key, mint
from gateway.limits import CallerLimits, NamedLimit, TokenLimits
from gateway.principals import ASK, EVENTS_WRITE, STREAM_READ
from gateway.problems import NotFound
from gateway.publisher import Outgoing, Publisher
from gateway.push.calls import Calls
from gateway.push.connections import Connections
from gateway.push.conversations import Conversations
from gateway.push.event_stream import EventStreamEndpoint
from gateway.push.feed import Feed, Fetched
from gateway.push.hub import Hub
from gateway.push.positions import Signer
from gateway.push.requests import GENERATE
from gateway.push.sessions import Sessions
from gateway.push.stored import InMemoryPositions
from gateway.push.suggestions import PrefixCache, Suggestions
from gateway.push.wiring import SUGGESTION_TTL
from gateway.routing import Route, Router
from gateway.server import STREAM_PATH, Application, bearer
from gateway.standing import Policy
from gateway.wire.listener import Listener
from operators.generate import Generate
from operators.limits import InMemoryLimiter, Limit
from schemas.catalog.conversations import CONVERSATIONS, ConversationEvent
from schemas.codec import RecordCodec
from tests.gateway.asking_in_process import InProcessAsking
from tests.gateway.samples import NOW, STATUS_CODEC, KeysInMemory, OneSchema, status_entries
from tests.gateway.test_events import Kafka, Setting
from tests.gateway.test_hub import CHANNEL, TOPIC, FromRecord

PARTITIONS = 3
KEY, ID, HASH = mint()
SCOPES = frozenset({STREAM_READ, EVENTS_WRITE, ASK})


class Turns(Kafka):
    """What is said in conversations, pushed as if it came back from the topic."""

    def __init__(self, hub: Hub, feed: Feed) -> None:
        super().__init__()
        self._hub = hub
        self._feed = feed

    async def publish(self, messages: Sequence[Outgoing]) -> list[MillstreamError | None]:
        first = len(self.produced)
        outcomes = await super().publish(messages)
        came = [Fetched(0, first + n, message.at_ms, message.value) for n, message in enumerate(messages)]
        self._hub.ingest("chat", self._feed.entries(came), {0: came[-1].offset})
        return outcomes


class Streaming:
    """`record` is all that was ever on the topic; `events` takes what is published; `asking` is asked."""

    def __init__(
        self,
        *,
        ring: int,
        queue: int,
        generate: Generate | None,
        limits: CallerLimits | None,
        tokens: TokenLimits | None,
        tls: tuple[Path, Path] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._clock = clock or SystemClock()
        feed = Feed("results", "fraud", TOPIC, STATUS_CODEC)
        turns: Any = RecordCodec(ConversationEvent, OneSchema(), CONVERSATIONS.subject)
        chat = Feed("chat", None, CONVERSATIONS, turns, permission=ASK)
        self.hub = Hub([feed, chat], Signer(b"s" * 32), ring=ring, clock=ManualClock(NOW))
        self.turns = Turns(self.hub, chat)
        conversations = Conversations(cast(Publisher, self.turns), turns, ManualClock(NOW))
        self.hub.open("chat", 7, {0: 0})
        self.record: list[Any] = []
        self.hub.elsewhere = FromRecord(self.hub, self.record)
        self.hub.open(CHANNEL, 7, dict.fromkeys(range(PARTITIONS), 0))
        self.source = KeysInMemory(Key(ID, HASH, "acme", "", SCOPES, NOW))
        self.keyring = Keyring(self.source, clock=ManualClock(NOW))
        self.events = Setting()
        self.asking = InProcessAsking(generate) if generate is not None else None
        publishing = Route(
            "POST", "/api/v1/pipelines/{pipeline}/events", EVENTS_WRITE, self.events.endpoint.post
        )
        self.connections = Connections(self.hub, self.keyring, queue=queue)
        streams = Route("GET", STREAM_PATH, STREAM_READ, EventStreamEndpoint(self.connections).get)
        generating = Route("POST", GENERATE, ASK, refused, guarded=True)
        admission = Admission(Router((publishing, streams, generating)), self.keyring, limits=limits)
        sessions = Sessions(
            self.connections,
            bearer=bearer,
            stored=InMemoryPositions(),
            calls=self._calls(admission, conversations, tokens),
        )
        self.application = Application(admission, sessions)
        with socket.socket() as held:
            held.bind(("127.0.0.1", 0))
            self.port: int = held.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.listener = Listener(self.application, "127.0.0.1", self.port, tls=tls)

    def _calls(self, admission: Admission, conversations: Conversations, tokens: TokenLimits | None) -> Calls:
        if self.asking is None:
            return Calls(admission)
        questions = Questions(Settings().llm, self.asking, SystemClock(), tokens)
        cache = PrefixCache(entries=100, ttl=SUGGESTION_TTL, clock=self._clock)
        suggestions = Suggestions(questions, admission, self._clock, cache=cache)
        return Calls(admission, questions, suggestions, conversations)

    def push(self, ids: Iterable[str], *, tenant: str = "acme", entity: str = "card") -> None:
        """Status changes of these ids, each on the partition that its id belongs to."""
        for id in ids:
            partition = partition_of(id)
            offset = sum(entry.partition == partition for entry in self.record)
            (entry,) = status_entries(
                [(tenant, id, 1)], partition=partition, first_offset=offset, entity=entity
            )
            self.record.append(entry)
            self.hub.ingest(CHANNEL, [entry], {partition: offset})


def limited(limits: Mapping[str, int]) -> CallerLimits:
    """So many requests by the name of the limit, or of the route, and no more ever; as many as one likes
    without."""
    routes = (f"GET {STREAM_PATH}", f"POST {GENERATE}", "POST /api/v1/pipelines/{pipeline}/events")
    address, key, tenant = (only(name, limits.get(name, 10_000)) for name in ("address", "key", "tenant"))
    return CallerLimits(
        address,
        key,
        tenant,
        {name: only("route", limits.get(name, 10_000)) for name in routes},
    )


def only(name: str, burst: int) -> NamedLimit:
    limit = Limit(1, burst)
    return NamedLimit(Policy(name, limit), InMemoryLimiter(limit, clock=ManualClock(NOW)))


async def refused(request: Request) -> Response:
    raise NotFound("only over the socket")


def partition_of(id: str) -> int:
    return sum(id.encode()) % PARTITIONS


@asynccontextmanager
async def streaming(
    *,
    ring: int = 1000,
    queue: int = 1000,
    generate: Generate | None = None,
    limits: CallerLimits | None = None,
    tokens: TokenLimits | None = None,
    tls: tuple[Path, Path] | None = None,
    clock: Clock | None = None,
) -> AsyncIterator[Streaming]:
    """Without `limits` and `tokens` nobody is limited. `clock`: of what is suggested."""
    made = Streaming(
        ring=ring, queue=queue, generate=generate, limits=limits, tokens=tokens, tls=tls, clock=clock
    )
    made.listener.start()
    async with asyncio.timeout(60):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", made.port)
                writer.close()
                break
            except OSError:
                await asyncio.sleep(0.02)
    try:
        yield made
    finally:
        await made.connections.drain()
        await made.listener.stop(5)


class Cutter:
    """A way to the gateway that breaks: each connection is reset after a random number of bytes towards the
    client, until `whole` is set."""

    def __init__(self, port: int, random: Random) -> None:
        self._port = port
        self._random = random
        self._server: asyncio.Server | None = None
        self.whole = False
        self.cuts = 0
        self.url = ""

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _serve(self, client: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        up = asyncio.create_task(_copy(client, writer))
        left = self._random.randint(200, 40_000)
        try:
            while data := await reader.read(1024):
                back.write(data if self.whole else data[:left])
                await back.drain()
                left -= len(data)
                if left <= 0 and not self.whole:
                    self.cuts += 1
                    break
        except OSError:
            pass
        finally:
            up.cancel()
            for one in (writer, back):
                one.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1024):
        writer.write(data)
        await writer.drain()
    writer.close()
