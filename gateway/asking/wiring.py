"""The asking part of a gateway, put together."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from datetime import timedelta

import redis.asyncio

from core.clock import Clock
from core.ids import digest
from core.settings import Settings
from gateway import principals
from gateway.asking.asker import Asked, Asker
from gateway.asking.cache import CachedAsking
from gateway.asking.cache_key import Questions
from gateway.asking.cache_versions import ServingVersions
from gateway.asking.endpoint import AskDoor, InferEndpoint
from gateway.asking.prepare import records
from gateway.asking.reader import ReplyReader
from gateway.asking.waiters import Waiters
from gateway.health import Health
from gateway.intake import Intake
from gateway.limits import PublishingLimits
from gateway.publisher import Publisher
from gateway.routing import Route
from operators.cache import Keeping, ResponseCache
from pipelines.asking.outcomes import RedisOutcomes
from pipelines.on_redis.cache import RedisCache
from pipelines.plan import Reuse, ScoringPlan
from pipelines.serving.fleet import Fleet
from pipelines.text import plan_text
from schemas.broker import asking_producer
from schemas.catalog.asking import REPLIES, Ask, Reply
from schemas.codec import RecordCodec
from schemas.registry import Schemas
from schemas.topic import Topic

REFILLS = 10
"""How often in its time an answer that memory has is offered to Redis, which may have lost it."""


class AskingPart:
    """Asker, reader and endpoint of one gateway, in its event loop."""

    def __init__(
        self,
        settings: Settings,
        registry: Schemas,
        cache: "redis.asyncio.Redis",
        *,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._cache = cache
        self._kept: list[ResponseCache] = []
        self._asked = False
        self._clock = clock
        self._timeout_s = settings.gateway.publish_timeout_s
        reply_codec: RecordCodec[Reply] = RecordCodec(
            Reply, registry, REPLIES.subject, max_bytes=REPLIES.max_bytes
        )
        waiters = Waiters(most=settings.asking.max_waiting)
        self.reader = ReplyReader(settings, reply_codec, waiters)
        milliseconds = int(self._timeout_s * 1000)
        self.publisher = Publisher(
            lambda: asking_producer(
                settings, message_timeout_ms=milliseconds, delivery_timeout_ms=milliseconds
            ),
            max_in_flight=2 * settings.asking.max_waiting,  # a request, and that it is cancelled
        )
        ttl = timedelta(seconds=settings.asking.outcome_ttl_s)
        self.asker = Asker(
            waiters=waiters,
            reader=self.reader,
            publisher=self.publisher,
            store=RedisOutcomes(cache, ttl=ttl, clock=clock),
            clock=clock,
        )

    def asked(self, pipeline: str, requests: Topic) -> Asked:
        """A pipeline that can be asked through this gateway."""
        codec: RecordCodec[Ask] = RecordCodec(
            Ask, self._registry, requests.subject, max_bytes=requests.max_bytes
        )
        self.reader.before.append(codec.warm)
        self._asked = True
        return Asked(pipeline, requests, codec)

    def start(self, health: Health, exits: AsyncExitStack) -> None:
        """Read replies from now on, until `exits`."""
        exits.callback(self.publisher.close, self._timeout_s)
        for kept in self._kept:
            exits.push_async_callback(kept.settled)
        self.reader.start()
        exits.callback(self.reader.close)
        health.dependency("replies", self.reader.require, needed=self._asked)
        health.dependency("asks", self.publisher.check, needed=False)
        health.part("reply_reader", self.reader.check)

    def routes(
        self,
        plans: Iterable[ScoringPlan],
        intakes: Mapping[str, Intake],
        limits: PublishingLimits | None,
        fleets: Callable[[], Mapping[str, Fleet]],
    ) -> tuple[Route, ...]:
        """The routes of the pipelines that score, and that of outcomes. `fleets`: what serves each model."""
        versions = ServingVersions(fleets, self._clock)
        doors = {
            plan.pipeline: self._door(plan, intakes[plan.pipeline], versions)
            for plan in plans
            if plan.pipeline in intakes
        }
        endpoint = InferEndpoint(self._settings.asking, doors, self.asker, clock=self._clock, limits=limits)
        return (
            Route(
                "POST",
                "/api/v1/pipelines/{pipeline}/infer",
                principals.ASK,
                endpoint.post,
                guarded=True,
                plane="data",
            ),
            Route("GET", "/api/v1/requests/{id}", principals.ASK, endpoint.get),
        )

    def _door(self, plan: ScoringPlan, intake: Intake, versions: ServingVersions) -> AskDoor:
        asked = self.asked(plan.pipeline, plan.requests)
        if plan.reuse is None:
            return AskDoor(asked, records(intake))
        cached = CachedAsking(
            asked,
            plan=digest(plan_text(plan).encode()),
            model=plan.infer.model,
            questions=Questions(intake.record, plan.reuse),
            lasts=plan.reuse.lasts,
            cache=self._answers(plan.pipeline, plan.reuse),
            asker=self.asker,
            versions=versions,
            clock=self._clock,
        )
        return AskDoor(asked, records(intake), cached)

    def _answers(self, pipeline: str, reuse: Reuse) -> ResponseCache:
        """What is kept of a pipeline's answers: in memory, and in Redis for all gateways."""
        name, most = f"asked-{pipeline}", self._settings.asking.cache_bytes
        keeping = Keeping(ttl=reuse.lasts, bytes=most, largest=most // 16, refill=reuse.lasts / REFILLS)
        shared = RedisCache(self._cache, name=name, clock=self._clock)
        kept = ResponseCache(name, keeping, clock=self._clock, shared=shared)
        self._kept.append(kept)
        return kept
