"""The asker: one request to a pipeline and its answer, with everything in between.

    async with await asker.ask(asked, wanted) as pending:
        async for piece in pending.pieces():  # where it is streamed
            ...
        end = await pending.end()

Reserve (tenant, id, digest of the body) in the outcome store, register a waiter, produce, await. An id that
was made here for a client that waits is reserved while the request is on its way. An id that was answered is
answered from the store; one that is under way, here or for a gateway that died, is produced again, and the
worker answers both. With the store away nothing is promised of another body under the same id but what the
worker remembers.

Leaving before the end cancels the request, unless the client comes back for it: a message on the requests
topic, which the worker honours where the work has not ended.
"""

import asyncio
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import msgspec

from core.clock import Clock, to_millis
from core.errors import Conflict, MillstreamError, Unavailable
from core.telemetry.log import logger
from core.telemetry.trace import new_traceparent
from gateway.asking.pending import Pending
from gateway.asking.reader import ReplyReader
from gateway.asking.waiters import Waiter, Waiters
from gateway.publisher import Outgoing, Publisher
from pipelines.asking.addresses import Address
from pipelines.asking.outcomes import End, OutcomeStore, Reserved, Standing, digest_of
from schemas.catalog.asking import Ask
from schemas.codec import RecordCodec
from schemas.headers import event_headers
from schemas.keys import key_of
from schemas.topic import Topic

_LOG = logger("gateway.asking")


@dataclass(frozen=True, slots=True)
class Asked:
    """A pipeline that can be asked, and how its requests become bytes."""

    pipeline: str
    requests: Topic
    codec: RecordCodec[Ask]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A request, checked. fresh: nobody else can have asked under its id. within: time until its deadline.
    waits: somebody awaits the answer here. returns: the client fetches it later, so that leaving cancels
    nothing."""

    tenant: str
    credential: str
    id: str
    entity: str
    body: bytes
    within: timedelta
    fresh: bool = False
    waits: bool = True
    returns: bool = False
    streamed: bool = False
    traceparent: str | None = None
    caller: Mapping[str, str] = field(default_factory=dict)


class Asker:
    """Belongs to the event loop. `publisher` is one that waits for no batch to fill."""

    def __init__(
        self,
        *,
        waiters: Waiters,
        reader: ReplyReader,
        publisher: Publisher,
        store: OutcomeStore,
        clock: Clock,
    ) -> None:
        self.store = store
        self._waiters = waiters
        self._reader = reader
        self._publisher = publisher
        self._clock = clock
        self._tasks: set[asyncio.Task[None]] = set()

    async def ask(self, asked: Asked, wanted: Wanted, *, reserved: bool = False) -> Pending:
        """Reserve, unless that was done, and produce. Raises Conflict, QueueFull, Unavailable.

        Where the client comes back for it, Kafka has acknowledged the request when this returns, and it is
        refused while the store is away.
        """
        self._reader.require()
        self._publisher.require(1)
        waiter = self._waiters.join()
        until = asyncio.get_running_loop().time() + wanted.within.total_seconds()
        try:
            if reserved:
                there = None
            elif wanted.fresh and not wanted.returns:
                there = None
                self._apart(self._note(asked, wanted))
            else:
                there = await self._reserved(asked, wanted)
            if there is not None:
                return Pending(asked.pipeline, wanted.tenant, wanted.id, waiter, self.store, until, there)
            deadline_at = self._clock.now() + wanted.within
            sent = self._apart(
                self._send(
                    asked,
                    wanted,
                    Ask(
                        tenant=wanted.tenant,
                        id=wanted.id,
                        entity=wanted.entity,
                        asked_at=self._clock.now(),
                        pipeline=asked.pipeline,
                        body=wanted.body,
                        deadline_at=deadline_at,
                        streamed=wanted.streamed,
                    ),
                    waiter,
                )
            )
            pending = Pending(asked.pipeline, wanted.tenant, wanted.id, waiter, self.store, until)
            if wanted.returns:
                await asyncio.shield(sent)
                waiter.require()
            else:
                pending.cancel = lambda: self._cancel(asked, wanted, waiter)
            return pending
        except BaseException:
            waiter.leave()
            raise

    async def reserve(self, asked: Asked, wanted: Wanted) -> End | None:
        """Note that it is asked; the end that stands already, if any. Raises Conflict for another body,
        Unavailable."""
        reserved = self._reservation(asked, wanted)
        there = await self.store.reserve(wanted.tenant, wanted.id, reserved)
        _require_same(there, reserved, wanted.id)
        if there.end is not None and there.end.final:
            return there.end
        if there.reserved is not None and there.reserved.deadline_ms < reserved.deadline_ms:
            await self.store.renew(wanted.tenant, wanted.id, reserved)
        return None

    async def settle(self, asked: Asked, wanted: Wanted, end: End) -> tuple[End, bool]:
        """Note that it was asked and has this final end, known without asking; the end that stands, and
        whether it stood before. Raises Conflict for another body, Unavailable."""
        reserved = self._reservation(asked, wanted)
        end = msgspec.structs.replace(end, digest=reserved.digest)
        there = await self.store.settle(wanted.tenant, wanted.id, reserved, end)
        _require_same(there, reserved, wanted.id)
        return (there.end, True) if there.end is not None and there.end.final else (end, False)

    def _reservation(self, asked: Asked, wanted: Wanted) -> Reserved:
        now = self._clock.now()
        digest = digest_of(asked.pipeline, wanted.body)
        return Reserved(digest, asked.pipeline, to_millis(now), to_millis(now + wanted.within))

    async def _reserved(self, asked: Asked, wanted: Wanted) -> End | None:
        """As `reserve`; while the store is away only those are refused who come back for their answer."""
        try:
            return await self.reserve(asked, wanted)
        except Unavailable:
            if wanted.returns:
                raise
        return None

    async def _note(self, asked: Asked, wanted: Wanted) -> None:
        """Reserve on the side what cannot be anybody else's, so that `GET /requests/{id}` finds it."""
        try:
            await self.reserve(asked, wanted)
        except MillstreamError as error:
            _LOG.debug("a request is not in the store", id=wanted.id, reason=error.what)

    def _cancel(self, asked: Asked, wanted: Wanted, waiter: Waiter) -> None:
        """Tell the worker, best effort, that this asker has left."""
        now = self._clock.now()
        cancel = Ask(
            tenant=wanted.tenant,
            id=wanted.id,
            entity=wanted.entity,
            asked_at=now,
            pipeline=asked.pipeline,
            kind="cancel",
            deadline_at=now + wanted.within,
        )
        self._apart(self._send(asked, wanted, cancel, waiter))

    async def _send(self, asked: Asked, wanted: Wanted, ask: Ask, waiter: Waiter) -> None:
        address = Address(
            waiter.correlation_id, self._reader.topic, self._reader.partition if wanted.waits else None
        )
        try:
            message = Outgoing(
                topic=asked.requests.name,
                key=key_of(wanted.tenant, wanted.entity),
                value=asked.codec.encode(ask),
                headers=event_headers(
                    id=wanted.id,
                    source=wanted.credential,
                    type=asked.codec.spec.full_name,
                    time=ask.asked_at,
                    tenant=wanted.tenant,
                    received_at=ask.asked_at,
                    traceparent=new_traceparent(wanted.traceparent),
                    correlation_id=address.correlation_id,
                    reply_to=address.text,
                    deadline=ask.deadline_at,
                    caller=wanted.caller,
                ),
                at_ms=to_millis(ask.asked_at),
            )
            (error,) = await self._publisher.publish([message])
        except MillstreamError as refused:
            error = refused
        if error is not None:
            waiter.fail(error)

    def _apart(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _require_same(there: Standing, reserved: Reserved, id: str) -> None:
    if any(one is not None and one.digest != reserved.digest for one in (there.reserved, there.end)):
        raise Conflict(
            f"request {id!r} was sent before with other content", mend="give another request another key"
        )
