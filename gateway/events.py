"""`POST /api/v1/pipelines/{pipeline}/events`: take events in, answer when Kafka has them.

`post_to` gives the same for one pipeline under a path of its own (`POST /events`).

One event (a JSON object) is answered with its own outcome: 202 `{id, status: "provisional", ...}`, or a
problem document. Several (a JSON array or NDJSON) are answered with an outcome each, in their order:
202 when all were accepted, 503 when none was and all of them may be sent again unchanged, else 207.

Acceptance is the protocol of `gateway.acceptance`: reserve, produce, wait for `acks=all`, mark, answer.
The tenant is the credential's. Repeating an accepted id with the same content gives the same answer with
the header `Idempotent-Replayed`; with other content 409. An event without an id is known by the request's
`Idempotency-Key`, where there is one, so that a request sent twice, by whomever, publishes nothing twice.

Every event of a request counts towards the tenant's limit (`gateway.limits`), a repeated one too; over it the
whole request is refused with 429 and `Retry-After`, before any of its events is looked at.
"""

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, partial

import msgspec

from core.clock import Clock, from_millis, to_millis
from core.errors import Conflict, InvalidInput, MillstreamError, Unavailable, UnknownName
from core.settings import Gateway
from core.telemetry.log import logger
from core.telemetry.metrics import counter, histogram
from core.telemetry.trace import new_traceparent
from gateway.acceptance import Acceptance, AcceptanceStore, InMemoryAcceptance
from gateway.bodies import Events, read_events, too_large
from gateway.caller import caller_of
from gateway.exchange import Request, Response, json_response
from gateway.idempotency import key_of_request
from gateway.intake import Intake
from gateway.limits import PublishingLimits
from gateway.problems import Forbidden, Problem, problem_of, status_of
from gateway.publisher import Outgoing, Publisher
from gateway.routing import Handler
from gateway.schema_watch import SchemaWatch
from schemas.codec import RecordCodec
from schemas.headers import event_headers
from schemas.keys import key_of
from schemas.record import Record
from schemas.topic import Topic

PROVISIONAL, ACCEPTED = "provisional", "accepted"
_WIRE_HEADER = 5
_YIELD_EVERY = 64
_REFUSAL = 15
"""To say all that is wrong with an event takes as long as so many that are good, or longer."""

_log = logger("gateway.events")
_ACCEPTED = counter("gateway_events_accepted_total", "Events that Kafka acknowledged", ["pipeline"])
_REFUSED = counter(
    "gateway_events_refused_total", "Events not accepted, by problem code", ["pipeline", "code"]
)
_VALIDATE = histogram("gateway_validate_ms", "Decoding, validating and encoding the events of one request")
_PUBLISH = histogram("gateway_publish_ms", "From valid to acknowledged by Kafka, the reservation included")


@dataclass(frozen=True)
class Door:
    """Where the events of one pipeline come in. followed: each has a status that changes and can be read."""

    pipeline: str
    topic: Topic
    intake: Intake
    codec: RecordCodec[Record]
    followed: bool = True

    @cached_property
    def entity(self) -> str:
        return self.intake.record.spec().entity or ""

    @cached_property
    def time(self) -> str:
        return self.intake.record.spec().time or ""


class Accepted(msgspec.Struct, frozen=True):
    """The body of a 202."""

    id: str
    status: str
    pipeline: str
    received_at: datetime


class Outcome(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of one event of several."""

    index: int
    status: int = msgspec.field()
    accepted: Accepted | None = None
    problem: Problem | None = None


class Outcomes(msgspec.Struct, frozen=True):
    """The body of an answer to several events, `outcomes` in the order of the events."""

    accepted: int
    refused: int
    outcomes: list[Outcome]


class _Event(msgspec.Struct, eq=False):
    """A valid event on its way."""

    index: int
    id: str
    value: bytes
    entity: str
    occurred_at: datetime
    acceptance: Acceptance
    repeated: bool = False


class EventsEndpoint:
    """The handler and what it needs. `recent` are this gateway's own acceptances, for when Redis is away.
    Without `limits` nobody is limited."""

    def __init__(
        self,
        settings: Gateway,
        doors: Mapping[str, Door],
        *,
        store: AcceptanceStore,
        recent: InMemoryAcceptance,
        publisher: Publisher,
        schemas: SchemaWatch,
        clock: Clock,
        limits: PublishingLimits | None = None,
    ) -> None:
        self._settings = settings
        self._doors = doors
        self._store = store
        self._recent = recent
        self._publisher = publisher
        self._schemas = schemas
        self._clock = clock
        self._limits = limits

    def post(self, request: Request) -> Awaitable[Response]:
        """To the pipeline that the path names."""
        return self._take(self._door(request.parameters["pipeline"]), request)

    def post_to(self, pipeline: str) -> Handler:
        """The handler of a path that always means this pipeline. Raises UnknownName."""
        return partial(self._take, self._door(pipeline))

    def _door(self, pipeline: str) -> Door:
        door = self._doors.get(pipeline)
        if door is None:
            raise UnknownName("pipeline", pipeline[:100], self._doors)
        return door

    async def _take(self, door: Door, request: Request) -> Response:
        key = key_of_request(request)
        bodies = await read_events(
            request,
            max_event_bytes=self._settings.max_event_bytes,
            max_events=self._settings.max_batch_events,
        )
        if self._limits is not None:
            request.note(await self._limits.admit(request.principal.tenant, door.pipeline, len(bodies.raw)))
        self._schemas.require()
        started = time.perf_counter()
        received_at = self._clock.now()
        results: list[Accepted | MillstreamError | None] = [None] * len(bodies.raw)
        ids = _ids(key, bodies) if key is not None else None
        events = await self._read(door, bodies.raw, ids, request, received_at, results)
        validated = time.perf_counter()
        if events:
            await self._accept(door, events, request, results)
        published = time.perf_counter()
        _VALIDATE.observe((validated - started) * 1e3)
        _PUBLISH.observe((published - validated) * 1e3)
        timing = (
            f"validate;dur={(validated - started) * 1e3:.3f}, publish;dur={(published - validated) * 1e3:.3f}"
        )
        headers = [("server-timing", timing)]
        self._count(door.pipeline, results)
        if bodies.single:
            return self._single(results[0], events, headers)
        return self._several(results, request, headers)

    async def _read(
        self,
        door: Door,
        raw: Sequence[bytes],
        ids: Sequence[str] | None,
        request: Request,
        received_at: datetime,
        results: list[Accepted | MillstreamError | None],
    ) -> list[_Event]:
        """The valid events; what is wrong with the others goes to `results`. `ids`: for those without one."""
        events = []
        received_at_ms = to_millis(received_at)
        done = 0
        for index, body in enumerate(raw):
            done += 1
            if done >= _YIELD_EVERY:
                done = 0
                await asyncio.sleep(0)  # others get their turn between slices of a large batch
            try:
                if len(body) > self._settings.max_event_bytes:
                    raise too_large(self._settings.max_event_bytes)
                record = door.intake.read(
                    body, request.principal.tenant, otherwise=ids[index] if ids else None
                )
                if request.judge is not None:
                    request.judge(record)
                value = door.codec.encode(record)
            except (InvalidInput, Forbidden) as error:
                results[index] = error
                done += _REFUSAL
                continue
            entity = str(getattr(record, door.entity))
            occurred_at: datetime = getattr(record, door.time)
            digest = hashlib.sha256(value[_WIRE_HEADER:]).digest()
            acceptance = Acceptance(digest, door.pipeline, entity, to_millis(occurred_at), received_at_ms)
            events.append(_Event(index, record.id, value, entity, occurred_at, acceptance))
        return events

    async def _accept(
        self,
        door: Door,
        events: list[_Event],
        request: Request,
        results: list[Accepted | MillstreamError | None],
    ) -> None:
        """Reserve, produce, mark; the outcome of each event goes to `results`."""
        tenant = request.principal.tenant
        firsts: dict[str, _Event] = {}
        for event in events:
            firsts.setdefault(event.id, event)
        try:
            self._publisher.require(len(firsts))
        except Unavailable as error:
            for event in events:
                results[event.index] = error
            return
        reserved = True
        try:
            found = await self._store.reserve(
                tenant, [(id, event.acceptance) for id, event in firsts.items()]
            )
        except Unavailable:
            reserved = False
            found = [self._recent.peek(tenant, door.pipeline, id) for id in firsts]
        produced: list[_Event] = []
        ended: dict[str, Accepted | MillstreamError] = {}
        for (id, event), earlier in zip(firsts.items(), found, strict=True):
            if earlier is not None and earlier.digest != event.acceptance.digest:
                ended[id] = _conflict(id)
            elif earlier is not None and earlier.accepted:
                event.repeated = True
                ended[id] = self._accepted(id, earlier)
            else:
                produced.append(event)
        if produced:
            ended |= await self._produce(door, produced, request, reserved=reserved)
        for event in events:
            first = firsts[event.id]
            same = event.acceptance.digest == first.acceptance.digest
            results[event.index] = ended[event.id] if same else _conflict(event.id)

    async def _produce(
        self, door: Door, events: Sequence[_Event], request: Request, *, reserved: bool
    ) -> dict[str, Accepted | MillstreamError]:
        tenant = request.principal.tenant
        traceparent = new_traceparent(request.traceparent)
        type = door.codec.spec.full_name
        messages = [
            Outgoing(
                topic=door.topic.name,
                key=key_of(tenant, event.entity),
                value=event.value,
                headers=event_headers(
                    id=event.id,
                    source=request.principal.credential,
                    type=type,
                    time=event.occurred_at,
                    tenant=tenant,
                    received_at=from_millis(event.acceptance.received_at_ms),
                    traceparent=traceparent,
                    caller=caller_of(request),
                ),
                at_ms=event.acceptance.occurred_at_ms,
            )
            for event in events
        ]
        try:
            outcomes = await self._publisher.publish(messages)
        except Unavailable as error:
            return {event.id: error for event in events}
        ended: dict[str, Accepted | MillstreamError] = {}
        taken: dict[str, Acceptance] = {}
        for event, outcome in zip(events, outcomes, strict=True):
            if outcome is None:
                taken[event.id] = accepted = event.acceptance.as_accepted()
                self._recent.put(tenant, event.id, accepted)
            ended[event.id] = outcome or self._accepted(event.id, event.acceptance)
        if taken:
            try:
                await self._store.mark(tenant, taken, reserved=reserved)
            except Unavailable:
                _log.warning("accepted events could not be marked", events=len(taken))
        return ended

    def _single(
        self,
        result: Accepted | MillstreamError | None,
        events: Sequence[_Event],
        headers: list[tuple[str, str]],
    ) -> Response:
        if not isinstance(result, Accepted):
            raise result or RuntimeError("an event without an outcome")
        if result.status == PROVISIONAL:
            headers.append(("location", f"/api/v1/transactions/{result.id}"))
        if events[0].repeated:
            headers.append(("idempotent-replayed", "true"))
        return json_response(202, result, headers)

    def _several(
        self,
        results: Sequence[Accepted | MillstreamError | None],
        request: Request,
        headers: list[tuple[str, str]],
    ) -> Response:
        outcomes = []
        first_refusal: Unavailable | None = None
        accepted = 0
        for index, result in enumerate(results):
            if isinstance(result, Accepted):
                accepted += 1
                outcomes.append(Outcome(index, 202, accepted=result))
                continue
            refusal = result or RuntimeError("an event without an outcome")
            if isinstance(refusal, Unavailable):
                first_refusal = first_refusal or refusal
            problem = problem_of(refusal, request.request_id)
            outcomes.append(Outcome(index, status_of(refusal), problem=problem))
        if accepted == len(results):
            status = 202
        elif first_refusal is not None and all(isinstance(result, Unavailable) for result in results):
            raise first_refusal
        else:
            status = 207
        return json_response(status, Outcomes(accepted, len(results) - accepted, outcomes), headers)

    def _accepted(self, id: str, acceptance: Acceptance) -> Accepted:
        door = self._doors.get(acceptance.pipeline)
        status = PROVISIONAL if door is None or door.followed else ACCEPTED
        return Accepted(id, status, acceptance.pipeline, from_millis(acceptance.received_at_ms))

    def _count(self, pipeline: str, results: Sequence[Accepted | MillstreamError | None]) -> None:
        accepted = 0
        for result in results:
            if isinstance(result, Accepted):
                accepted += 1
            elif result is not None:
                _REFUSED.labels(pipeline, result.code).inc()
        if accepted:
            _ACCEPTED.labels(pipeline).inc(accepted)


def _ids(key: str, bodies: Events) -> list[str]:
    """What events without an id are called in a request with this key: as the key, or by key and place."""
    if bodies.single:
        return [key]
    return [hashlib.sha256(f"{key}:{index}".encode()).hexdigest()[:32] for index in range(len(bodies.raw))]


def _conflict(id: str) -> Conflict:
    return Conflict(
        f"event {id!r} was sent before with other content", mend="give an event with other content another id"
    )
