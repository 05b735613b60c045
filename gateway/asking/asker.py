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
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

import msgspec

from core.clock import Clock, to_millis
from core.errors import Conflict, Unavailable
from core.telemetry.trace import new_traceparent
from gateway.asking.noting import Noting
from gateway.asking.pending import Pending
from gateway.asking.reader import ReplyReader
from gateway.asking.sending import Sending
from gateway.asking.waiters import Waiter, Waiters
from gateway.publisher import Outgoing, Publisher
from pipelines.asking.addresses import reply_to
from pipelines.asking.outcomes import End, OutcomeStore, Reserved, Standing, digest_of
from schemas.catalog.asking import Ask
from schemas.codec import RecordCodec
from schemas.headers import NOBODY, event_headers
from schemas.keys import key_of
from schemas.topic import Topic


@dataclass(frozen=True, slots=True)
class Asked:
    """A pipeline that can be asked, and how its requests become bytes."""

    pipeline: str
    requests: Topic
    codec: RecordCodec[Ask]


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
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
    caller: Mapping[str, str] = NOBODY


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
        self._here, self._anywhere = reply_to(reader.topic, reader.partition), reply_to(reader.topic)
        self._sending = Sending(publisher)
        self._noting = Noting(store)
        self._clock = clock

    async def ask(self, asked: Asked, wanted: Wanted, *, reserved: bool = False) -> Pending:
        """Reserve, unless that was done, and produce. Raises Conflict, QueueFull, Unavailable.

        Where the client comes back for it, Kafka has acknowledged the request when this returns, and it is
        refused while the store is away.
        """
        self._reader.require()
        self._sending.require()
        waiter = self._waiters.join()
        until = asyncio.get_running_loop().time() + wanted.within.total_seconds()
        now = self._clock.now()
        try:
            there = None if reserved else await self._reserved(asked, wanted, now)
            pending = Pending(asked.pipeline, wanted.tenant, wanted.id, waiter, self.store, until, there)
            if there is not None:
                return pending
            ask = Ask(
                tenant=wanted.tenant,
                id=wanted.id,
                entity=wanted.entity,
                asked_at=now,
                pipeline=asked.pipeline,
                body=wanted.body,
                deadline_at=now + wanted.within,
                streamed=wanted.streamed,
            )
            message = self._message(asked, wanted, ask, waiter)
            if wanted.returns:
                await self._sending.through(message)
            else:
                self._sending.send(message, waiter.sent)
                pending.cancel = partial(self._cancel, asked, wanted, waiter)
            return pending
        except BaseException:
            waiter.leave()
            raise

    async def reserve(self, asked: Asked, wanted: Wanted) -> End | None:
        """Note that it is asked; the end that stands already, if any. Raises Conflict for another body,
        Unavailable."""
        return await self._reserve(wanted, _reservation(asked, wanted, self._clock.now()))

    async def settle(self, asked: Asked, wanted: Wanted, end: End) -> tuple[End, bool]:
        """Note that it was asked and has this final end, known without asking; the end that stands, and
        whether it stood before. Raises Conflict for another body, Unavailable."""
        reserved = _reservation(asked, wanted, self._clock.now())
        end = msgspec.structs.replace(end, digest=reserved.digest)
        there = await self.store.settle(wanted.tenant, wanted.id, reserved, end)
        _require_same(there, reserved, wanted.id)
        return (there.end, True) if there.end is not None and there.end.final else (end, False)

    async def _reserved(self, asked: Asked, wanted: Wanted, now: datetime) -> End | None:
        """As `reserve`. What cannot be anybody else's is noted on the side, so that `GET /requests/{id}`
        finds it; while the store is away only those are refused who come back for their answer."""
        reserved = _reservation(asked, wanted, now)
        if wanted.fresh and not wanted.returns:
            self._noting.note(wanted.tenant, wanted.id, reserved)
            return None
        try:
            return await self._reserve(wanted, reserved)
        except Unavailable:
            if wanted.returns:
                raise
        return None

    async def _reserve(self, wanted: Wanted, reserved: Reserved) -> End | None:
        there = await self.store.reserve(wanted.tenant, wanted.id, reserved)
        _require_same(there, reserved, wanted.id)
        if there.end is not None and there.end.final:
            return there.end
        if there.reserved is not None and there.reserved.deadline_ms < reserved.deadline_ms:
            await self.store.renew(wanted.tenant, wanted.id, reserved)
        return None

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
        self._sending.send(self._message(asked, wanted, cancel, waiter), waiter.sent)

    def _message(self, asked: Asked, wanted: Wanted, ask: Ask, waiter: Waiter) -> Outgoing:
        return Outgoing(
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
                correlation_id=waiter.correlation_id,
                reply_to=self._here if wanted.waits else self._anywhere,
                deadline=ask.deadline_at,
                caller=wanted.caller,
            ),
            at_ms=to_millis(ask.asked_at),
        )


def _reservation(asked: Asked, wanted: Wanted, now: datetime) -> Reserved:
    digest = digest_of(asked.pipeline, wanted.body)
    return Reserved(digest, asked.pipeline, to_millis(now), to_millis(now + wanted.within))


def _require_same(there: Standing, reserved: Reserved, id: str) -> None:
    digest, first, end = reserved.digest, there.reserved, there.end
    if (first is not None and first.digest != digest) or (end is not None and end.digest != digest):
        raise Conflict(
            f"request {id!r} was sent before with other content", mend="give another request another key"
        )
