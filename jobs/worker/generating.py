"""What answers questions to LLMs in a worker: servers, cache, ledger and status, put together."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

import redis.asyncio
from psycopg_pool import AsyncConnectionPool

from core.clock import Clock, SystemClock
from core.ids import new_id
from core.settings import Settings
from models.llm.ledger import PostgresLedger
from models.llm.servers import server_pool
from operators.answer_statistics import (
    LONGEST_S,
    MINUTE_S,
    BatchStatus,
    QueueState,
    RollingStatistics,
    ServerState,
)
from operators.asking import Answer, Emit, Question
from operators.breaker import Breaker, Breaking, LocalBreaker
from operators.generate import CACHE_READ_S, Generate, Keeping
from operators.generate_ports import AnswerCache, CallBreaker, PaidCalls
from operators.generate_request import Limits
from operators.server_pool import ServerPool
from pipelines.batch_status import StatusBoard
from pipelines.on_redis.cache import RedisCache


def make_answerer(
    settings: Settings,
    *,
    clock: Clock | None = None,
    cache: AnswerCache | None = None,
    breaker: Callable[[str], CallBreaker] | None = None,
) -> "GeneratingAnswerer":
    """An answerer of pipeline `operators.generate.PIPELINE`. Reaches nothing until it is started.

    `cache`: where repeatable answers are kept, in Redis by default. `breaker` makes the breaker of a server;
    by default each process has its own, with the figures of `operators.breaker.Breaking`. With
    `settings.llm.paid` calls go through the ledger in PostgreSQL.
    """
    clock = clock or SystemClock()

    def own(server: str) -> CallBreaker:
        return LocalBreaker(Breaker(clock, Breaking(), name=server))

    return GeneratingAnswerer(settings, clock, cache, breaker or own)


class RedisAnswers:
    """See `operators.generate_ports.AnswerCache`."""

    def __init__(self, client: redis.asyncio.Redis, clock: Clock) -> None:
        self._cache = RedisCache(client, name="generate", timeout_s=CACHE_READ_S, clock=clock)

    async def get(self, key: str) -> bytes | None:
        found = await self._cache.get(key)
        return None if found is None else found[0]

    async def put(self, key: str, value: bytes, ttl: timedelta) -> None:
        await self._cache.put(key, value, ttl)


class GeneratingAnswerer:
    """See `operators.asking.Answerer`. `start` comes before the first question, `close` after the last.

    Servers that are away at the start are found when they come.
    """

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        cache: AnswerCache | None,
        breaker: Callable[[str], CallBreaker],
    ) -> None:
        own = settings.llm
        self._settings = settings
        self.pool: ServerPool = server_pool(own, clock, breaker)
        self.statistics = RollingStatistics(clock)
        self.name = new_id()
        self._tasks: list[asyncio.Task[None]] = []
        self._database = AsyncConnectionPool(
            settings.postgres.address, min_size=1, max_size=8, open=False, kwargs={"autocommit": True}
        )
        ledger: PaidCalls | None = PostgresLedger(self._database) if own.paid else None
        self._redis = redis.asyncio.Redis.from_url(settings.redis.address, socket_connect_timeout=1.0)
        keeping = None
        if own.cache_ttl_s:
            cache = cache or RedisAnswers(self._redis, clock)
            keeping = Keeping(cache, timedelta(seconds=own.cache_ttl_s))
        self._generate = Generate(
            self.pool,
            self.statistics,
            limits=Limits(own.max_prompt_bytes, own.max_tokens),
            clock=clock,
            keeping=keeping,
            ledger=ledger,
        )
        self._board = StatusBoard(self._redis, clock)

    async def start(self) -> None:
        if self._settings.llm.paid:
            await self._database.open(wait=False)
        await self.pool.start()
        watching = self.pool.watch(self._settings.llm.health_interval_s)
        telling = self._board.tell(self.name, self.status)
        self._tasks = [asyncio.create_task(watching), asyncio.create_task(telling)]

    async def answer(self, question: Question, emit: Emit) -> Answer:
        """See `operators.generate.Generate`."""
        return await self._generate.answer(question, emit)

    def status(self) -> BatchStatus:
        pool = self.pool
        return BatchStatus(
            active_model=pool.active,
            queue=QueueState(pool.queued, pool.queue),
            servers=[
                ServerState(
                    name=member.server.name,
                    model=member.server.model,
                    state=member.state,
                    up=member.up,
                    in_flight=member.in_flight,
                    slots=member.slots,
                    health_score=member.health.score if member.health else None,
                    health_tokens_per_s=member.health.tokens_per_s if member.health else None,
                    reason=member.health.reason if member.health else None,
                )
                for member in pool.members
            ],
            last_minute=self.statistics.window(MINUTE_S),
            last_5_minutes=self.statistics.window(LONGEST_S),
        )

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await self._generate.close()
        await self._board.withdraw(self.name)
        await self._redis.aclose()
        await self._database.close(timeout=2.0)
        for member in self.pool.members:
            await member.server.close()
