"""`POST /api/v1/pipelines/{pipeline}/infer` and `GET /api/v1/requests/{id}`.

The body is one request. The answer is the pipeline's own JSON with its own status; or 504 at the deadline,
503 where no more can wait, and the problem that the answerer found. `Idempotency-Key` (or the id in the
body) names the request: a repeat of it, on any gateway, gives the same answer, and another body 409.

`Prefer: wait=N` waits so many seconds, `respond-async` not at all: 202 with the `Location` of the answer;
both together wait, and then answer 202. With `Accept: text/event-stream` the pieces come as server-sent
events, whose ids can be given back as `Last-Event-ID`, and the last event, `answer`, is the whole.

Where the pipeline allows that an answer is given again, it may come from a cache, as `Cache-Control` wants;
`Cache-Status`, `Age` and `Cache-Control` of the answer say so (`cache.py`).
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import msgspec

from core.clock import Clock, from_millis, to_millis
from core.errors import Malformed, MillstreamError, UnknownName
from core.settings import Asking
from gateway.asking.asker import Asked, Asker, Wanted
from gateway.asking.cache import CachedAsking, Given, not_kept
from gateway.asking.cache_control import cache_control_of
from gateway.asking.pending import Pending, Piece, answer_of
from gateway.asking.preference import Preference, preference_of
from gateway.asking.prepare import Prepare
from gateway.asking.presence import unless_gone
from gateway.bodies import JSON, content_type, too_large
from gateway.caller import caller_of
from gateway.exchange import Request, Response, json_response
from gateway.idempotency import key_of_request
from gateway.intake import ID_SHAPE
from gateway.limits import PublishingLimits
from gateway.problems import NotFound, Problem, UnsupportedMediaType, problem_of
from pipelines.asking.failures import error_of
from pipelines.asking.outcomes import ANSWERED, EXPIRED, End

EVENT_STREAM = "text/event-stream"
CLIENT_GONE = 499
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True)
class AskDoor:
    """Where a pipeline is asked. cached: through caches, where an answer may be given again."""

    asked: Asked
    prepare: Prepare
    cached: CachedAsking | None = None


class Standing(msgspec.Struct, frozen=True, omit_defaults=True):
    """The body of `GET /api/v1/requests/{id}`: what became of a request so far."""

    id: str
    pipeline: str
    state: str
    asked_at: datetime
    deadline_at: datetime
    ended_at: datetime | None = None
    status: int | None = None
    answer: msgspec.Raw | None = None
    problem: Problem | None = None


class InferEndpoint:
    """The handlers. Without `limits` nobody is limited."""

    def __init__(
        self,
        settings: Asking,
        doors: Mapping[str, AskDoor],
        asker: Asker,
        *,
        clock: Clock,
        limits: PublishingLimits | None = None,
    ) -> None:
        self._settings = settings
        self._doors = doors
        self._asker = asker
        self._clock = clock
        self._limits = limits

    async def post(self, request: Request) -> Response:
        """Ask the pipeline that the path names."""
        name = request.parameters["pipeline"]
        door = self._doors.get(name)
        if door is None:
            raise UnknownName("pipeline", name[:100], self._doors)
        return await self.ask(door, request)

    async def ask(self, door: AskDoor, request: Request) -> Response:
        """Ask through this door."""
        began = time.perf_counter()
        preference = preference_of(request.headers.get("prefer"), self._settings)
        control = cache_control_of(request.headers.get("cache-control"))
        streamed = _streams(request)
        key = key_of_request(request)
        if content_type(request) != JSON:
            raise UnsupportedMediaType("several requests in one body", mend=f"send one, as {JSON}")
        raw = await request.body(self._settings.max_body_bytes)
        if len(raw) > self._settings.max_body_bytes:
            raise too_large(self._settings.max_body_bytes)
        if not raw.strip():
            raise Malformed("the body is empty", mend="send one JSON object")
        tenant = request.principal.tenant
        if self._limits is not None:
            request.note(await self._limits.admit(tenant, door.asked.pipeline, 1))
        prepared = door.prepare(raw, tenant, key)
        if request.judge is not None:
            request.judge(prepared.record)
        within = self._settings.background_s if preference.returns else preference.wait_s
        wanted = Wanted(
            tenant=tenant,
            credential=request.principal.credential,
            id=prepared.id,
            entity=prepared.entity,
            body=prepared.body,
            fresh=prepared.fresh,
            within=timedelta(seconds=within),
            waits=preference.wait_s > 0 or streamed,
            returns=preference.returns,
            streamed=streamed,
            traceparent=request.traceparent,
            caller=caller_of(request),
        )
        if door.cached is not None and not streamed:
            question = door.cached.question(prepared, wanted, control)
            given = await door.cached.kept(question)
            if given is None and question.waits:
                given = await unless_gone(request, door.cached.made(question))
                if given is None:
                    return Response(CLIENT_GONE)
            if given is not None:
                return _given(given, preference, began, question.at)
        elif control.only_if_cached:
            raise not_kept()
        pending = await self._asker.ask(door.asked, wanted)
        if streamed:
            return await self._stream(pending, request)
        async with pending:
            return await self._answered(pending, request, preference)

    async def _answered(self, pending: Pending, request: Request, preference: Preference) -> Response:
        wait_s = preference.wait_s if preference.returns else None
        if preference.returns and not pending.replayed and preference.wait_s == 0:
            return self._later(pending, preference)
        try:
            ended = await unless_gone(request, pending.end(wait_s=wait_s))
        except TimeoutError:
            return self._later(pending, preference)
        if ended is None:
            return Response(CLIENT_GONE)
        end = answer_of(ended)
        headers = [("preference-applied", preference.applied)] if preference.applied else []
        if pending.replayed:
            headers.append(("idempotent-replayed", "true"))
        return Response(end.status, end.body, headers=headers)

    def _later(self, pending: Pending, preference: Preference) -> Response:
        headers = [("location", f"/api/v1/requests/{pending.id}"), ("retry-after", "1")]
        if preference.applied:
            headers.append(("preference-applied", preference.applied))
        return json_response(202, {"id": pending.id, "state": "pending"}, headers)

    async def _stream(self, pending: Pending, request: Request) -> Response:
        """The answer as events, once it has begun; what fails before is a problem document."""
        ready = asyncio.ensure_future(pending.ready())
        gone = asyncio.ensure_future(request.gone())
        try:
            await asyncio.wait({ready, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not ready.done():
                pending.leave()
                return Response(CLIENT_GONE)
            ready.result()
        except BaseException:
            pending.leave()
            raise
        finally:
            ready.cancel()
            gone.cancel()
        parts = _events(pending, request.headers.get("last-event-id", ""), request.request_id)
        await anext(parts)  # from here on closing it leaves
        return Response(200, content_type=EVENT_STREAM, parts=parts)

    async def get(self, request: Request) -> Response:
        """What became of a request of the caller's tenant. Raises NotFound, Unavailable."""
        tenant, id = request.principal.tenant, request.parameters["id"]
        standing = await self._asker.store.read(tenant, id) if ID_SHAPE.fullmatch(id) else None
        if standing is None or standing.reserved is None:
            raise NotFound(f"no request {id[:128]!r}", mend="it may have been too long ago")
        reserved, end = standing.reserved, standing.end
        known: dict[str, Any] = {
            "id": id,
            "pipeline": reserved.pipeline,
            "asked_at": from_millis(reserved.asked_at_ms),
            "deadline_at": from_millis(reserved.deadline_ms),
        }
        if end is None:
            passed = to_millis(self._clock.now()) > reserved.deadline_ms
            state = EXPIRED if passed else "pending"
            headers = [] if passed else [("retry-after", "1")]
            return json_response(200, Standing(state=state, **known), headers)
        known["ended_at"] = from_millis(end.ended_at_ms)
        if end.state == ANSWERED:
            known |= {"status": end.status, "answer": msgspec.Raw(end.body)}
        elif end.failure is not None:
            problem = problem_of(error_of(end.failure), request.request_id)
            known |= {"status": problem.status, "problem": problem}
        return json_response(200, Standing(state=end.state, **known))


def _given(given: Given, preference: Preference, began: float, checked: float) -> Response:
    """An answer that came through the caches, with the time that each stage took, in ms."""
    asked_s = given.asked_s or 0.0
    stages = [f"check;dur={(checked - began) * 1e3:.3f}"]
    stages.append(f"cache;dur={(time.perf_counter() - checked - asked_s) * 1e3:.3f}")
    if given.asked_s is not None:
        stages.append(f"pipeline;dur={asked_s * 1e3:.3f}")
    headers = [("server-timing", ", ".join(stages)), *given.headers]
    if preference.applied:
        headers.append(("preference-applied", preference.applied))
    return Response(given.end.status, given.end.body, headers=headers)


async def _events(pending: Pending, after: str, request_id: str) -> AsyncGenerator[bytes, None]:
    """Server-sent events: `piece` (`restart` where what came before is void), then `answer` or `error`."""
    async with pending:
        yield b""
        try:
            async for piece in pending.pieces(after):
                yield _event("restart" if piece.begins else "piece", piece.data, piece)
            end: End = answer_of(await pending.end())
            yield _event("answer", end.body)
        except MillstreamError as error:
            yield _event("error", _encode(problem_of(error, request_id)))


def _event(name: str, data: bytes, piece: Piece | None = None) -> bytes:
    lines = [f"event: {name}".encode()]
    if piece is not None:
        lines.append(f"id: {piece.position}".encode())
    lines += [b"data: " + line for line in data.replace(b"\r", b"").split(b"\n")]
    return b"\n".join(lines) + b"\n\n"


def _streams(request: Request) -> bool:
    kinds = request.headers.get("accept", "").lower()
    return EVENT_STREAM in kinds and any(
        part.partition(";")[0].strip() == EVENT_STREAM for part in kinds.split(",")
    )
