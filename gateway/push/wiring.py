"""The pushing part of a gateway, put together."""

from collections.abc import Iterable
from contextlib import AsyncExitStack
from datetime import timedelta

import redis.asyncio

from core.clock import Clock
from core.errors import DeclarationError, Unavailable
from core.settings import Settings
from gateway import principals
from gateway.admission import Admission
from gateway.generating.asked import Asking
from gateway.generating.question import Questions
from gateway.health import Health
from gateway.keyring import Keyring
from gateway.limits import TokenLimits
from gateway.publisher import Publisher
from gateway.push.calls import Calls
from gateway.push.catch_up import CatchUp
from gateway.push.connections import Connections
from gateway.push.conversations import Conversations
from gateway.push.event_stream import EventStreamEndpoint
from gateway.push.feed import Feed
from gateway.push.hub import Hub
from gateway.push.positions import Signer, position_secret
from gateway.push.reader import PushReader
from gateway.push.sessions import Sessions
from gateway.push.stored import RedisPositions
from gateway.push.suggestions import PrefixCache, Suggestions
from gateway.routing import Route
from gateway.server import STREAM_PATH, bearer
from pipelines.plan import ScoringPlan, ServedPlan
from schemas.catalog.conversations import CONVERSATIONS, ConversationEvent
from schemas.catalog.training import STATUS, SYSTEM_TENANT, TrainingStatus
from schemas.codec import RecordCodec
from schemas.record import Record
from schemas.registry import Schemas
from schemas.topic import Topic

SUGGESTIONS = 10_000
SUGGESTION_TTL = timedelta(minutes=5)


class PushPart:
    """Hub, reader and catch-up of one gateway, in its event loop."""

    def __init__(
        self, settings: Settings, plans: Iterable[ServedPlan], registry: Schemas, *, llm: bool, clock: Clock
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._clock = clock
        self.feeds = feeds_of(plans, registry, llm=llm)
        signer = Signer(position_secret(settings))
        self.hub = Hub(self.feeds, signer, ring=settings.gateway.push_ring, clock=clock)
        self._catch_up = CatchUp(settings, self.hub)
        self.hub.elsewhere = self._catch_up
        self._reader = PushReader(settings, self.feeds, self.hub, clock)

    def start(self, health: Health, exits: AsyncExitStack) -> None:
        """Read from now on, until `exits`."""
        exits.push_async_callback(self._catch_up.close)
        self._reader.start()
        exits.callback(self._reader.close)
        health.dependency("push", self._check, needed=True)
        health.part("push_reader", self._reader.check)

    def connections(self, keyring: Keyring) -> Connections:
        """The register of sockets and event streams."""
        return Connections(self.hub, keyring, queue=self._settings.gateway.push_queue)

    def calls(
        self, admission: Admission, publisher: Publisher, asking: Asking | None, tokens: TokenLimits
    ) -> Calls:
        """What may be done over a socket: publishing and asking, prompts where there is `asking`."""
        if asking is None:
            return Calls(admission)
        questions = Questions(self._settings.llm, asking, self._clock, tokens)
        cache = PrefixCache(entries=SUGGESTIONS, ttl=SUGGESTION_TTL, clock=self._clock)
        codec = RecordCodec(
            ConversationEvent, self._registry, CONVERSATIONS.subject, max_bytes=CONVERSATIONS.max_bytes
        )
        return Calls(
            admission,
            questions,
            Suggestions(questions, admission, self._clock, cache=cache),
            Conversations(publisher, codec, self._clock),
        )

    def sessions(self, connections: Connections, cache: "redis.asyncio.Redis", calls: Calls) -> Sessions:
        """The handler of sockets. `cache` keeps the positions of named subscriptions."""
        return Sessions(
            connections,
            bearer=bearer,
            stored=RedisPositions(cache, clock=self._clock),
            calls=calls,
            origins=self._settings.gateway.origins,
        )

    def routes(self, connections: Connections) -> tuple[Route, ...]:
        """The route of event streams."""
        return (Route("GET", STREAM_PATH, principals.STREAM_READ, EventStreamEndpoint(connections).get),)

    def _check(self) -> None:
        if not self.hub.ready:
            raise Unavailable("the status and alerts topics are not being read yet")


def feeds_of(plans: Iterable[ServedPlan], registry: Schemas, *, llm: bool) -> list[Feed]:
    """A feed per pipeline for its results, one for each alerts topic, that of trainings, and that of
    conversations where prompts are answered."""
    feeds: dict[str, Feed] = {}
    for plan in plans:
        feeds[plan.status.name] = Feed("results", plan.pipeline, plan.status, _codec(plan.status, registry))
        if isinstance(plan, ScoringPlan) and plan.alerts.name not in feeds:
            feeds[plan.alerts.name] = Feed("alerts", None, plan.alerts, _codec(plan.alerts, registry))
    trainings: RecordCodec[Record] = RecordCodec(TrainingStatus, registry, STATUS.subject)
    feeds[STATUS.name] = Feed(
        "jobs",
        None,
        STATUS,
        trainings,
        permission=principals.TRAINING_READ,
        everyone=SYSTEM_TENANT,
        needed=False,
    )
    if llm:
        turns: RecordCodec[Record] = RecordCodec(ConversationEvent, registry, CONVERSATIONS.subject)
        feeds[CONVERSATIONS.name] = Feed(
            "chat", None, CONVERSATIONS, turns, permission=principals.ASK, needed=False
        )
    return list(feeds.values())


def _codec(topic: Topic, registry: Schemas) -> RecordCodec[Record]:
    if topic.record is None:
        raise DeclarationError(f"topic {topic.name} has no record and cannot be pushed")
    return RecordCodec(topic.record, registry, topic.subject, max_bytes=topic.max_bytes)
