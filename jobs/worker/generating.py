"""What answers questions to LLMs in a worker: servers, cache, ledger and status, put together."""

import asyncio
from datetime import timedelta

import redis.asyncio
from psycopg_pool import AsyncConnectionPool

from core.clock import Clock, SystemClock
from core.ids import new_id
from core.settings import Settings
from models.llm.ledger import PostgresLedger
from models.llm.servers import Server, server_pool
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
from operators.cache import Keeping, ResponseCache
from operators.generate import CACHE_READ_S, Generate, Kept, Levels
from operators.generate_ports import CallBreaker, PaidCalls
from operators.generate_request import Limits
from operators.server_pool import ServerPool
from pipelines.batch_status import StatusBoard
from pipelines.on_redis.breaker import RedisBreaker
from pipelines.on_redis.cache import RedisCache

MEMORY_BYTES = 16 * 1024 * 1024


def make_answerer(settings: Settings, *, clock: Clock | None = None) -> "GeneratingAnswerer":
    """An answerer of pipeline `operators.generate.PIPELINE`. Reaches nothing until it is started.

    With `settings.llm.shared` breakers and kept answers are those of all processes on one Redis; while it is
    away, and without, each process has its own. With `settings.llm.paid` calls go through the ledger in
    PostgreSQL.
    """
    return GeneratingAnswerer(settings, clock or SystemClock())


class GeneratingAnswerer:
    """See `operators.asking.Answerer`. `start` comes before the first question, `close` after the last.

    Servers that are away at the start are found when they come.
    """

    def __init__(self, settings: Settings, clock: Clock) -> None:
        own = settings.llm
        self._settings = settings
        self._clock = clock
        self._redis = redis.asyncio.Redis.from_url(settings.redis.address, socket_connect_timeout=1.0)
        self.pool: ServerPool = server_pool(own, clock, self._breaker)
        self.statistics = RollingStatistics(clock)
        self.name = new_id()
        self._tasks: list[asyncio.Task[None]] = []
        self._database: AsyncConnectionPool | None = None
        ledger: PaidCalls | None = None
        if own.paid:
            self._database = AsyncConnectionPool(
                settings.postgres.address, min_size=1, max_size=8, open=False, kwargs={"autocommit": True}
            )
            ledger = PostgresLedger(self._database)
        self._generate = Generate(
            self.pool,
            self.statistics,
            limits=Limits(own.max_prompt_bytes, own.max_tokens),
            clock=clock,
            kept=self._kept() if own.cache_ttl_s else None,
            ledger=ledger,
            levels=Levels(
                live=timedelta(seconds=own.live_s),
                backup=timedelta(seconds=own.backup_s),
                static=own.static_answer,
            ),
        )
        self._board = StatusBoard(self._redis, clock)

    def _breaker(self, server: Server) -> CallBreaker:
        """One circuit for each address: processes may number the same servers in another order."""
        name = f"llm {server.url}"
        if self._settings.llm.shared:
            return RedisBreaker(self._redis, Breaking(), name=name, clock=self._clock)
        return LocalBreaker(Breaker(self._clock, Breaking(), name=name))

    def _kept(self) -> Kept:
        own = self._settings.llm

        def cache(name: str, ttl_s: float) -> ResponseCache:
            wait = timedelta(seconds=CACHE_READ_S)
            keeping = Keeping(ttl=timedelta(seconds=ttl_s), bytes=MEMORY_BYTES, wait=wait)
            shared = None
            if own.shared:
                shared = RedisCache(self._redis, name=name, clock=self._clock)
            return ResponseCache(name, keeping, clock=self._clock, shared=shared)

        return Kept(cache("generate", own.cache_ttl_s), cache("generate-earlier", own.earlier_ttl_s))

    async def start(self) -> None:
        if self._database is not None:
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
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._generate.close()
        await self._board.withdraw(self.name)
        await self._redis.aclose()
        if self._database is not None:
            await self._database.close(timeout=2.0)
        for member in self.pool.members:
            await member.server.close()
