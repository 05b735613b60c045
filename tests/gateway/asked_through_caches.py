"""Gateways that ask through caches, and one worker, without Kafka between them: what a gateway publishes is
worked in the tests' own loop, with the outcome store that both share, as `jobs.worker.answering.works` does.
"""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, cast

import msgspec

from core.clock import ManualClock, to_millis
from core.errors import MillstreamError, Unavailable
from core.ids import new_id
from core.settings import Asking
from gateway.asking.asker import Asked, Asker
from gateway.asking.cache import CachedAsking
from gateway.asking.cache_key import Questions
from gateway.asking.cache_versions import LOOK_S, ServingVersions
from gateway.asking.endpoint import AskDoor, InferEndpoint
from gateway.asking.prepare import records
from gateway.asking.reader import ReplyReader
from gateway.asking.waiters import Waiters
from gateway.exchange import Request, Response, never
from gateway.intake import Intake
from gateway.principals import ASK, Principal
from gateway.problems import problem_headers, problem_of
from gateway.publisher import Outcome, Outgoing, Publisher
from operators.cache import Keeping, ResponseCache, SharedCache
from pipelines.asking.outcomes import ANSWERED, End, OutcomeStore, digest_of, failed
from pipelines.plan import Reuse
from pipelines.serving.fleet import Fleet
from schemas.catalog.asking import REPLIES, Ask, Reply, requests_topic
from schemas.catalog.models import Route, Routing
from schemas.codec import RecordCodec
from schemas.headers import header
from tests.gateway.samples import NOW, OneSchema, Payment, payment

LASTS = timedelta(seconds=60)
DAY = timedelta(days=1)
PIPELINE = "small"
REQUESTS = requests_topic(PIPELINE, partitions=1)


class SharedInMemory:
    """A shared store without a network, by the tests' clock; away when told so."""

    def __init__(self, clock: ManualClock) -> None:
        self.values: dict[str, tuple[bytes, float]] = {}
        self.away = False
        self._clock = clock

    async def get(self, key: str) -> tuple[bytes, timedelta] | None:
        self._check()
        value, until = self.values.get(key, (b"", 0.0))
        left = timedelta(seconds=until - self._clock.monotonic())
        return (value, left) if left > timedelta(0) else None

    async def put(self, key: str, value: bytes, ttl: timedelta, *, absent_only: bool = False) -> None:
        self._check()
        if not absent_only or await self.get(key) is None:
            self.values[key] = (value, self._clock.monotonic() + ttl.total_seconds())

    async def forget(self, key: str) -> None:
        self._check()
        self.values.pop(key, None)

    def _check(self) -> None:
        if self.away:
            raise Unavailable("away")


class Worker:
    """Answers what is published. `version` and `degraded` are what it says of its answers; `may_answer` holds
    them back; `error` is raised instead. Every work makes another answer."""

    def __init__(self, store: OutcomeStore, codec: RecordCodec[Ask], clock: ManualClock) -> None:
        self.version, self.arm, self.degraded, self.status = "1", "champion", False, 200
        self.error: MillstreamError | None = None
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.worked: list[str] = []
        self.cancelled: list[str] = []
        self.remembers = True
        self._recent: dict[tuple[str, str], End] = {}
        self._store, self._codec, self._clock = store, codec, clock
        self._works: dict[tuple[str, str], asyncio.Task[None]] = {}
        self.gateways: list[Waiters] = []

    def require(self, count: int) -> None:
        del count

    async def publish(self, messages: Sequence[Outgoing]) -> list[Outcome]:
        for message in messages:
            ask = self._codec.decode(message.value)
            name = (ask.tenant, ask.id)
            if ask.kind == "cancel":
                self.cancelled.append(ask.id)
                if name in self._works:
                    self._works.pop(name).cancel()
                continue
            to = header(message.headers, "correlation_id") or ""
            self._works[name] = asyncio.create_task(self._work(ask, to))
        return [None] * len(messages)

    async def _work(self, ask: Ask, to: str) -> None:
        digest = digest_of(ask.pipeline, ask.body)
        end = self._recent.get((ask.tenant, ask.id)) or await self._ended(ask)
        if end is None:
            self.worked.append(ask.id)
            await self.may_answer.wait()
            now = to_millis(self._clock.now())
            if self.error is not None:
                end = failed(digest, self.error, attempt="a", pieces=0, at_ms=now)
            else:
                end = End(digest, ANSWERED, "a", now, 0, self.status, self._answer(ask), None, True)
            with contextlib.suppress(Unavailable):
                end = await self._store.end(ask.tenant, ask.id, end)
            if self.remembers and end.final:
                self._recent[ask.tenant, ask.id] = end
        reply = Reply(
            tenant=ask.tenant,
            id=ask.id,
            pipeline=ask.pipeline,
            replied_at=self._clock.now(),
            attempt=end.attempt,
            last=True,
            state=end.state,
            status=end.status,
            body=end.body,
            failure=end.failure,
        )
        for waiters in self.gateways:
            waiters.deliver([(to, reply)])

    async def _ended(self, ask: Ask) -> End | None:
        try:
            end = (await self._store.read(ask.tenant, ask.id)).end
        except Unavailable:
            return None
        return end if end is not None and end.final else None

    def _answer(self, ask: Ask) -> bytes:
        record = msgspec.json.decode(ask.body, type=Payment)
        return msgspec.json.encode(
            {
                "id": ask.id,
                "pipeline": ask.pipeline,
                "record_id": record.id,
                "entity": record.card_id,
                "occurred_at": record.occurred_at,
                "score": record.amount_cents / 100,
                "model_version": self.version,
                "arm": self.arm,
                "degraded": self.degraded,
                "nonce": new_id(),
            }
        )


class _Reading:
    """A reader that reads."""

    topic, partition = REPLIES.name, 0

    def require(self) -> None: ...


class Models:
    """What serves, as a gateway sees it. `away`: Kafka is not read."""

    def __init__(self, clock: ManualClock) -> None:
        self.away = False
        self._clock = clock
        self._revision = 0
        self._fleets: dict[str, Fleet] = {}

    def serve(self, *routes: Route) -> None:
        self._revision += 1
        routing = Routing(
            tenant="system", id="r", model="m", revision=self._revision, routes=list(routes), salt="s",
            decided_at=NOW,
        )  # fmt: skip
        self._fleets = {"m": Fleet(routing)}
        self._clock.elapsed += LOOK_S

    def fleets(self) -> dict[str, Fleet]:
        if self.away:
            raise Unavailable("not read")
        return self._fleets


class Gateway:
    """One gateway's way of asking, with a memory of its own."""

    def __init__(self, world: "World") -> None:
        waiters = Waiters(most=1_000)
        world.worker.gateways.append(waiters)
        asker = Asker(
            waiters=waiters,
            reader=cast(ReplyReader, _Reading()),
            publisher=cast(Publisher, world.worker),
            store=world.store,
            clock=world.clock,
        )
        asked = Asked(PIPELINE, REQUESTS, world.codec)
        keeping = Keeping(ttl=LASTS, refill=LASTS / 10)
        self.cache = ResponseCache("asked", keeping, clock=world.clock, shared=world.shared)
        cached = CachedAsking(
            asked,
            plan="plan",
            model="m",
            questions=Questions(Payment, world.reuse),
            lasts=LASTS,
            cache=self.cache,
            asker=asker,
            versions=ServingVersions(world.models.fleets, world.clock),
            clock=world.clock,
        )
        intake = Intake(Payment, max_age=DAY, max_ahead=DAY, clock=world.clock)
        door = AskDoor(asked, records(intake), cached)
        self.endpoint = InferEndpoint(world.settings, {PIPELINE: door}, asker, clock=world.clock)
        self.waiters = waiters

    async def ask(
        self,
        body: dict[str, Any] | bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        tenant: str = "acme",
        gone: asyncio.Event | None = None,
    ) -> Response:
        """POST. What is raised is a problem, as the server makes it."""
        if body is None:
            body = payment()
        raw = body if isinstance(body, bytes) else msgspec.json.encode(body)

        async def read(limit: int) -> bytes:
            return raw

        async def left() -> None:
            await (never() if gone is None else gone.wait())

        request = Request(
            method="POST",
            path=f"/api/v1/pipelines/{PIPELINE}/infer",
            headers={"content-type": "application/json", **(headers or {})},
            body=read,
            request_id="r",
            parameters={"pipeline": PIPELINE},
            principal=Principal(tenant, "key", frozenset({ASK})),
            gone=left,
        )
        return await self._answered(self.endpoint.post(request))

    async def read(self, id: str, *, tenant: str = "acme") -> Response:
        async def nothing(limit: int) -> bytes:
            return b""

        request = Request(
            "GET", f"/api/v1/requests/{id}", {}, nothing, "r", parameters={"id": id},
            principal=Principal(tenant, "key", frozenset({ASK})),
        )  # fmt: skip
        return await self._answered(self.endpoint.get(request))

    async def _answered(self, handling: Any) -> Response:
        try:
            response: Response = await handling
            return response
        except MillstreamError as error:
            problem = problem_of(error, "r")
            return Response(problem.status, msgspec.json.encode(problem), headers=problem_headers(error))


class World:
    """Gateways, a worker and what they share."""

    def __init__(
        self, store: OutcomeStore, shared: SharedCache, clock: ManualClock, reuse: Reuse | None = None
    ) -> None:
        self.store, self.shared, self.clock = store, shared, clock
        self.reuse = reuse or Reuse(LASTS)
        self.settings = Asking(wait_s=600, longest_wait_s=600)
        self.codec: RecordCodec[Ask] = RecordCodec(Ask, OneSchema(), "asks")
        self.worker = Worker(store, self.codec, clock)
        self.models = Models(clock)
        self.models.serve(Route("1"))

    def gateway(self) -> Gateway:
        return Gateway(self)


def said(response: Response) -> dict[str, Any]:
    """The JSON of an answer."""
    assert response.status == 200, response.body
    found: dict[str, Any] = msgspec.json.decode(response.body)
    return found


def header_of(response: Response, name: str) -> str | None:
    return next((value for key, value in response.headers if key == name), None)


def level(response: Response) -> str:
    """Which level answered, as the headers say."""
    if header_of(response, "idempotent-replayed") is not None:
        return "replayed"
    status = header_of(response, "cache-status")
    assert status is not None
    for cache in ("memory", "redis"):
        if f"{cache}; hit" in status:
            return cache
    return "collapsed" if "collapsed" in status else status.partition("fwd=")[2].split(";")[0].split(",")[0]
