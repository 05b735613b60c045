"""The gateway process: everything put together, started, drained, stopped.

It starts with any of its dependencies away, says so on `/ready`, and serves as they come.
"""

import asyncio
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

import httpx
import psycopg_pool
import redis
import redis.asyncio
import uvloop

from core import collector
from core.clock import Clock, SystemClock
from core.errors import StackError
from core.memory import give_back
from core.settings import Settings
from core.telemetry.log import logger
from features.online.reading import AsyncFeatureReading
from features.online.selection import Readable
from features.services import FeatureService
from gateway import principals
from gateway.acceptance import InMemoryAcceptance, RedisAcceptance
from gateway.access.classes import classes
from gateway.admission import Admission
from gateway.asking.wiring import AskingPart
from gateway.audit.watch import require_planes
from gateway.audit.wiring import AuditPart
from gateway.documents.endpoint import Documents
from gateway.documents.served import Served
from gateway.events import Door, EventsEndpoint
from gateway.features import FeaturesEndpoint
from gateway.forwarding.wiring import NOTHING, Forward, forwarding
from gateway.generating.asked import KafkaAsking
from gateway.generating.wiring import generating_routes
from gateway.health import Health
from gateway.intake import Intake
from gateway.issuer_keys import TIMEOUT_S, IssuerKeys, over_http
from gateway.keyring import Keyring, PostgresKeys
from gateway.limits import CallerLimits, Counts, PublishingLimits, TokenLimits
from gateway.models import ModelsEndpoint
from gateway.people.wiring import Parts, PeoplePart
from gateway.publisher import Publisher
from gateway.push.connections import Connections
from gateway.push.wiring import PushPart
from gateway.registry_webhook import PATH as REGISTRY_WEBHOOK
from gateway.registry_webhook import registry_webhook
from gateway.reviews import ReviewsEndpoint
from gateway.routing import Route, Router
from gateway.schema_watch import SchemaWatch
from gateway.server import Application
from gateway.tokens import Tokens
from gateway.training import PATH as TRAINING
from gateway.training import TrainingEndpoint
from gateway.training_states import TrainingStates
from gateway.transactions import TransactionsEndpoint
from gateway.wire.listener import Listener
from operators.generate import PIPELINE
from pipelines.generating import REQUESTS
from pipelines.outbox import RecordOutbox
from pipelines.plan import Plan, ScoringPlan, ServedPlan
from pipelines.reviews import KafkaVerdicts
from pipelines.serving.follower import Follower
from pipelines.training.reading import configurations
from schemas.broker import producer
from schemas.catalog.training import COMMANDS, TrainingCommand
from schemas.codec import RecordCodec
from schemas.record import Record
from schemas.registry import SchemaRegistry
from schemas.topic import Topic

DRAIN_S = 10.0
_REGISTRY_TIMEOUT_S = 2.0
_log = logger("gateway")


def run(
    settings: Settings,
    plans: Mapping[str, Plan],
    services: Sequence[FeatureService] = (),
    *,
    llm: bool = False,
    forward: Forward = NOTHING,
) -> None:
    """Serve until SIGTERM or SIGINT, then drain; with `llm` prompts too, and what is to be forwarded. Raises
    StackError when the port is taken."""
    give_back()
    uvloop.run(_until_signal(settings, plans, services, llm, forward))


async def _until_signal(
    settings: Settings,
    plans: Mapping[str, Plan],
    services: Sequence[FeatureService],
    llm: bool,
    forward: Forward,
) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await serve(settings, plans, services, llm=llm, forward=forward, stop=stop)


async def serve(
    settings: Settings,
    plans: Mapping[str, Plan],
    services: Sequence[FeatureService] = (),
    *,
    llm: bool = False,
    forward: Forward = NOTHING,
    stop: asyncio.Event,
    clock: Clock | None = None,
    made: Callable[["Assembly"], None] | None = None,
) -> None:
    """`run`, inside a loop of the caller's, until `stop` is set. `made` is shown what serves."""
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as exits:
        gateway = await Assembly.make(
            settings, plans, services, llm, clock or SystemClock(), exits, forward=forward
        )
        if made is not None:
            made(gateway)
        listener = Listener(
            gateway.application,
            settings.gateway.host,
            settings.gateway.port,
            head_read_s=settings.limits.head_read_s,
            connections=settings.limits.connections,
            tls=settings.gateway_tls,
        )
        listener.start()
        gateway.health.started = True
        collector.calm()
        _log.info("serving", address=settings.gateway.address)
        ended = loop.create_task(listener.wait())
        stopped = loop.create_task(stop.wait())
        await asyncio.wait({ended, stopped}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if not stop.is_set():
            raise _end_of(ended, settings)
        await gateway.drain()
        await listener.stop(DRAIN_S)
        await asyncio.gather(ended, return_exceptions=True)
        _log.info("stopped")


class Assembly:
    """The parts of one gateway, wired."""

    def __init__(
        self,
        application: Application,
        router: Router,
        health: Health,
        connections: Connections,
        people: Parts,
    ) -> None:
        self.people = people
        self.application = application
        self.router = router
        self.health = health
        self.connections = connections

    async def drain(self) -> None:
        """Refuse readiness, close the sockets (1001), finish what was begun."""
        self.health.draining = True
        self.application.draining = True
        await self.connections.drain()
        await self.application.drained(DRAIN_S)

    @classmethod
    async def make(
        cls,
        settings: Settings,
        plans: Mapping[str, Plan],
        services: Sequence[FeatureService],
        llm: bool,
        clock: Clock,
        exits: AsyncExitStack,
        *,
        forward: Forward = NOTHING,
    ) -> "Assembly":
        """Build everything; `exits` takes it down again, in reverse order."""
        registry = SchemaRegistry(
            settings.registry.address,
            auto_register=settings.registry.auto_register,
            timeout_s=_REGISTRY_TIMEOUT_S,
        )
        exits.callback(registry.close)
        database, options = settings.postgres.address, {"autocommit": True}
        pool = psycopg_pool.AsyncConnectionPool(database, min_size=1, max_size=8, open=False, kwargs=options)
        await pool.open(wait=False)
        exits.push_async_callback(pool.close, timeout=2.0)
        blocking = psycopg_pool.ConnectionPool(database, min_size=1, max_size=4, open=False, kwargs=options)
        blocking.open(wait=False)
        exits.callback(blocking.close, timeout=2.0)
        cache = redis.asyncio.Redis.from_url(settings.redis.address, socket_connect_timeout=1.0)
        exits.push_async_callback(cache.aclose)
        online = redis.Redis.from_url(settings.redis.address, socket_timeout=1.0, socket_connect_timeout=0.5)
        exits.callback(online.close)

        publisher = Publisher(
            lambda: producer(
                settings,
                message_timeout_ms=int(settings.gateway.publish_timeout_s * 1000),
                delivery_timeout_ms=int(settings.gateway.publish_timeout_s * 1000),
            ),
            max_in_flight=settings.gateway.max_in_flight,
        )
        exits.callback(publisher.close, settings.gateway.publish_timeout_s)
        audit = AuditPart(settings, registry, publisher, clock)
        counts = Counts(cache, clock)
        people = PeoplePart(settings.people, pool, cache, counts, trail=audit.trail, clock=clock)
        keyring = Keyring(
            PostgresKeys(pool),
            clock=clock,
            tokens=_tokens(settings, clock, exits),
            own=people.parts.tokens,
            authority=people.parts.authority,
        )
        doors = {
            name: _door(settings, plan, registry, clock) for name, plan in plans.items() if plan.takes_events
        }
        scoring = {name: plan for name, plan in plans.items() if isinstance(plan, ScoringPlan)}
        limits = PublishingLimits.of(settings.gateway, counts)
        asking = AskingPart(settings, registry, cache, clock=clock)
        intakes = {name: door.intake for name, door in doors.items()}
        served = [plan for plan in plans.values() if isinstance(plan, ServedPlan)]
        follower = Follower(settings, registry, clock)
        if served:
            follower.start()
            exits.callback(follower.close)
        asking_routes = asking.routes(scoring.values(), intakes, limits, follower.fleets)
        prompts = KafkaAsking(asking.asker, asking.asked(PIPELINE, REQUESTS), clock) if llm else None
        tokens = TokenLimits.of(settings.limits, counts)
        forwarded = forwarding(settings, forward, exits, clock, tokens, llm=llm)
        generated = (
            generating_routes(settings, prompts, cache, clock, tokens, forwarded.embeddings)
            if prompts
            else ()
        )
        schemas = SchemaWatch(registry, [door.codec for door in doors.values()])

        push = PushPart(settings, served, registry, llm=llm, clock=clock)
        health = Health()
        exits.callback(health.probe.close)
        health.dependency("database", lambda: _ask_database(blocking), needed=True)
        health.dependency("redis", lambda: _ask_redis(online), needed=False)
        health.dependency("kafka", publisher.check, needed=True)
        health.dependency("registry", schemas.check, needed=True)
        push.start(health, exits)
        asking.start(health, exits)
        audit.start(health, exits)
        beat = asyncio.get_running_loop().create_task(_beat(health))
        exits.callback(beat.cancel)

        ttl = timedelta(seconds=settings.gateway.acceptance_ttl_s)
        store, recent = RedisAcceptance(cache, ttl=ttl), InMemoryAcceptance(ttl=ttl)
        events = EventsEndpoint(
            settings.gateway,
            doors,
            store=store,
            recent=recent,
            publisher=publisher,
            schemas=schemas,
            clock=clock,
            limits=limits,
        )
        own_paths = [
            Route("POST", plan.route, principals.EVENTS_WRITE, events.post_to(name), plane="data")
            for name, plan in plans.items()
            if plan.route is not None
        ]
        transactions = TransactionsEndpoint(pool, scoring, store, recent, push.hub.pushed)
        readable = Readable([plan.view for plan in plans.values()], services)
        features = FeaturesEndpoint(AsyncFeatureReading.of(online, cache, readable, clock))
        verdicts = {name: KafkaVerdicts(settings, plan.labels) for name, plan in scoring.items()}
        reviews = ReviewsEndpoint(blocking, verdicts, clock, require=lambda: publisher.require(1))
        states = TrainingStates(settings)
        states.start()
        exits.callback(states.close)
        training = TrainingEndpoint(
            lambda: configurations(settings.training.configurations),
            states,
            publisher,
            RecordCodec(TrainingCommand, registry, COMMANDS.subject, max_bytes=COMMANDS.max_bytes),
            clock,
        )
        connections = push.connections(keyring)
        keyring.start()
        people.start(keyring, exits)
        exits.push_async_callback(keyring.close)
        models = _models(settings, registry, clock, follower, exits) if served else None
        webhook = registry_webhook(settings, cache, publisher, registry, clock, audit.trail)
        documents = Documents()
        router = Router(
            (
                Route(
                    "POST",
                    "/api/v1/pipelines/{pipeline}/events",
                    principals.EVENTS_WRITE,
                    events.post,
                    plane="data",
                ),
                *asking_routes,
                *push.routes(connections),
                *people.routes(),
                *generated,
                *forwarded.routes,
                Route("GET", "/api/v1/transactions/{id}", principals.TRANSACTIONS_READ, transactions.get),
                *own_paths,
                Route("GET", "/api/v1/features/{view}/{entity}", principals.FEATURES_READ, features.get),
                Route("POST", "/api/v1/features/read", principals.FEATURES_READ, features.read, plane="data"),
                Route("GET", "/api/v1/reviews", principals.REVIEWS_READ, reviews.get),
                Route(
                    "POST",
                    "/api/v1/reviews/{id}/decision",
                    principals.REVIEWS_WRITE,
                    reviews.decide,
                    plane="control",
                ),
                Route("POST", TRAINING, principals.TRAINING_WRITE, training.post, plane="control"),
                Route("GET", TRAINING, principals.TRAINING_READ, training.list),
                Route("GET", f"{TRAINING}/{{id}}", principals.TRAINING_READ, training.get),
                Route(
                    "POST",
                    f"{TRAINING}/{{id}}/acknowledge",
                    principals.TRAINING_WRITE,
                    training.acknowledge,
                    plane="control",
                ),
                *(_model_routes(models) if models else ()),
                Route("POST", REGISTRY_WEBHOOK, principals.PUBLIC, webhook.post, plane="told"),
                *health.routes(),
                *documents.routes(),
            )
        )
        require_planes(router.routes)
        documents.write(router.routes, Served(settings, plans, intakes, readable, push.feeds, llm))
        admission = Admission(
            router,
            keyring,
            limits=CallerLimits.of(settings.limits, router.routes, counts),
            settings=settings.limits,
            patience_s=settings.asking.wait_s,
            clock=clock,
            audit=audit.watch,
            class_of=classes(plans),
        )
        sessions = push.sessions(connections, cache, push.calls(admission, publisher, prompts, tokens))
        application = Application(
            admission,
            sessions,
            settings=settings.limits,
            origins=settings.gateway.origins,
            audit=audit.watch,
        )
        return cls(application, router, health, connections, people.parts)


def _tokens(settings: Settings, clock: Clock, exits: AsyncExitStack) -> Tokens | None:
    """The tokens of the issuer in the settings, where there is one."""
    if settings.issuer.jwks is None:
        return None
    client = httpx.AsyncClient(timeout=TIMEOUT_S)
    exits.push_async_callback(client.aclose)
    return Tokens(
        settings.issuer, IssuerKeys(over_http(settings.issuer.jwks, client), clock=clock), clock=clock
    )


def _models(
    settings: Settings, registry: SchemaRegistry, clock: Clock, follower: Follower, exits: AsyncExitStack
) -> ModelsEndpoint:
    outbox = RecordOutbox(settings, registry, source="gateway")
    exits.callback(outbox.close)
    given = settings.rollout
    return ModelsEndpoint(follower, outbox, clock, answer_s=given.answer_s, min_health=given.min_health)


def _model_routes(models: ModelsEndpoint) -> tuple[Route, ...]:
    path = "/api/v1/models"
    return (
        Route("GET", path, principals.MODELS_READ, models.list),
        Route("POST", path, principals.MODELS_WRITE, models.load, plane="control"),
        Route("POST", f"{path}/swap", principals.MODELS_WRITE, models.swap, plane="control"),
        Route("POST", f"{path}/rollback", principals.MODELS_WRITE, models.rollback, plane="control"),
        Route("GET", f"{path}/{{id}}", principals.MODELS_READ, models.get),
        Route("DELETE", f"{path}/{{id}}", principals.MODELS_WRITE, models.remove, plane="control"),
        Route("GET", f"{path}/{{id}}/swap/safety", principals.MODELS_READ, models.safety),
    )


def _door(settings: Settings, plan: Plan, registry: SchemaRegistry, clock: Clock) -> Door:
    return Door(
        pipeline=plan.pipeline,
        topic=plan.source,
        intake=Intake(
            _record_of(plan.source),
            max_age=timedelta(seconds=settings.gateway.max_age_s),
            max_ahead=timedelta(seconds=settings.gateway.max_ahead_s),
            clock=clock,
        ),
        codec=_codec(plan.source, registry),
        followed=isinstance(plan, ScoringPlan),
    )


def _codec(topic: Topic, registry: SchemaRegistry) -> RecordCodec[Record]:
    return RecordCodec(_record_of(topic), registry, topic.subject, max_bytes=topic.max_bytes)


def _record_of(topic: Topic) -> type[Record]:
    if topic.record is None:
        raise StackError(f"topic {topic.name} has no record")
    return topic.record


async def _beat(health: Health) -> None:
    while True:
        health.beat()
        await asyncio.sleep(1.0)


def _ask_database(pool: "psycopg_pool.ConnectionPool[Any]") -> None:
    with pool.connection(timeout=0.5) as connection:
        connection.execute("SELECT 1")


def _ask_redis(client: redis.Redis) -> None:
    client.ping()


def _end_of(ended: "asyncio.Task[None]", settings: Settings) -> Exception:
    reason = ended.exception() if ended.done() and not ended.cancelled() else None
    return StackError(
        f"the server ended: {reason or 'it says no reason'}",
        where=f"{settings.gateway.host}:{settings.gateway.port}",
        mend="see whether the port is taken (`millstream doctor`), or set MILLSTREAM_GATEWAY__PORT",
    )
