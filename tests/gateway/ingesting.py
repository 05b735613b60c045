"""A gateway with the ingestion route alone, on the local stack: user events come in by `POST /events`."""

import asyncio
import threading
import time
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, Self, cast

import httpx
import psycopg_pool
import redis.asyncio

from core.clock import SystemClock
from core.settings import Settings
from gateway.acceptance import InMemoryAcceptance, RedisAcceptance
from gateway.events import Door, EventsEndpoint
from gateway.intake import Intake
from gateway.keyring import Keyring, PostgresKeys
from gateway.keys import create_key
from gateway.limits import PublishingLimits
from gateway.principals import EVENTS_WRITE
from gateway.publisher import Publisher
from gateway.routing import Route, Router
from gateway.schema_watch import SchemaWatch
from gateway.server import Application, Listener
from pipelines.changes import apply
from schemas.broker import producer
from schemas.catalog.user_events import USER_EVENTS, UserEvent
from schemas.codec import RecordCodec
from schemas.record import Record
from schemas.registry import SchemaRegistry

START_S = 30.0


class IngestingGateway:
    """Serves from entering to leaving, in a thread with a loop of its own."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.url = f"http://127.0.0.1:{settings.gateway.port}"
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="ingesting-gateway", daemon=True)

    def __enter__(self) -> Self:
        apply(cast(Any, [SimpleNamespace(topics=(USER_EVENTS,))]), self.settings)
        self._thread.start()
        deadline = time.monotonic() + START_S
        while True:
            try:
                if httpx.post(f"{self.url}/events", timeout=2).status_code == 401:
                    return self
            except httpx.TransportError:
                assert self._failure is None, self._failure
                assert time.monotonic() < deadline, "the gateway does not answer"
            time.sleep(0.05)

    def __exit__(self, *_: object) -> None:
        if self._loop is not None and self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(timeout=30)
        if self._failure is not None:
            raise self._failure

    def key(self, tenant: str, **more: Any) -> str:
        return create_key(self.settings, tenant, **more)

    def http(self, tenant: str) -> httpx.Client:
        headers = {"authorization": f"Bearer {self.key(tenant)}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=30)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            self._failure = error

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        settings, clock = self.settings, SystemClock()
        async with AsyncExitStack() as exits:
            registry = SchemaRegistry.of(settings)
            exits.callback(registry.close)
            pool: psycopg_pool.AsyncConnectionPool[Any] = psycopg_pool.AsyncConnectionPool(
                settings.postgres.address, min_size=1, max_size=2, open=False, kwargs={"autocommit": True}
            )
            await pool.open(wait=False)
            exits.push_async_callback(pool.close, timeout=2.0)
            cache = redis.asyncio.Redis.from_url(settings.redis.address, socket_connect_timeout=1.0)
            exits.push_async_callback(cache.aclose)
            keyring = Keyring(PostgresKeys(pool), clock=clock)
            keyring.start()
            exits.push_async_callback(keyring.close)
            publisher = Publisher(lambda: producer(settings), max_in_flight=settings.gateway.max_in_flight)
            exits.callback(publisher.close, 5.0)
            codec: RecordCodec[Record] = RecordCodec(
                cast(type[Record], UserEvent), registry, USER_EVENTS.subject, max_bytes=USER_EVENTS.max_bytes
            )
            schemas = SchemaWatch(registry, [codec])
            schemas.check()
            intake = Intake(
                UserEvent,
                max_age=timedelta(seconds=settings.gateway.max_age_s),
                max_ahead=timedelta(seconds=settings.gateway.max_ahead_s),
                clock=clock,
            )
            ttl = timedelta(seconds=settings.gateway.acceptance_ttl_s)
            events = EventsEndpoint(
                settings.gateway,
                {"demand": Door("demand", USER_EVENTS, intake, codec)},
                store=RedisAcceptance(cache, ttl=ttl),
                recent=InMemoryAcceptance(ttl=ttl),
                publisher=publisher,
                schemas=schemas,
                clock=clock,
                limits=PublishingLimits.of(settings.gateway, cache, clock),
            )
            router = Router(
                (
                    Route("POST", "/events", EVENTS_WRITE, events.post_to("demand")),
                    Route("POST", "/api/v1/pipelines/{pipeline}/events", EVENTS_WRITE, events.post),
                )
            )
            application = Application(router, keyring)
            listener = Listener(application, settings.gateway.host, settings.gateway.port)
            listener.start()
            await self._stop.wait()
            await application.drained(10.0)
            await listener.stop(10.0)


def user_event(**changes: Any) -> dict[str, Any]:
    """A valid event as a client sends it, now."""
    event = {
        "user_id": "u1", "region": "north", "kind": "search", "occurred_at": datetime.now(UTC).isoformat()
    }  # fmt: skip
    return event | changes
