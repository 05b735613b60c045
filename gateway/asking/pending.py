"""A request that is under way: its pieces as they come, and its end."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Self

from core.errors import DeadlineExceeded, Unavailable
from core.telemetry.metrics import counter
from gateway.asking.waiters import Waiter
from pipelines.asking.failures import error_of
from pipelines.asking.outcomes import ANSWERED, CANCELLED, EXPIRED, End, OutcomeStore
from schemas.catalog.asking import Reply

_ENDED = counter("gateway_asks_total", "Requests to pipelines, by how they ended", ["pipeline", "outcome"])


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of a streamed answer. begins: it is the first of an attempt that follows one which died, and
    what came before is void."""

    attempt: str
    number: int
    data: bytes
    begins: bool = False

    @property
    def position(self) -> str:
        """Where to go on from: `ATTEMPT:NUMBER`."""
        return f"{self.attempt}:{self.number}"


class Pending:
    """Leave it by `async with`: leaving before the end cancels the request, where `cancel` is given."""

    cancel: Callable[[], None] | None = None

    def __init__(
        self,
        pipeline: str,
        tenant: str,
        id: str,
        waiter: Waiter,
        store: OutcomeStore,
        until: float,
        stands: End | None = None,
    ) -> None:
        self.id = id
        self.replayed = stands is not None
        self._pipeline = pipeline
        self._tenant = tenant
        self._waiter = waiter
        self._store = store
        self._until = until
        self._end = stands
        self._ahead: list[Reply] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.leave()

    def leave(self) -> None:
        self._waiter.leave()
        if self._end is None and self.cancel is not None:
            _ENDED.labels(self._pipeline, "left").inc()
            cancel, self.cancel = self.cancel, None
            cancel()

    async def end(self, *, wait_s: float | None = None) -> End:
        """The end, once it is there. Raises DeadlineExceeded at the deadline, TimeoutError after `wait_s`,
        Unavailable where the request could not be sent."""
        while self._end is None:
            await self._reply(wait_s)
            self._ahead.clear()
        return self._end

    async def ready(self) -> None:
        """Wait until there is a first piece, or the end. Raises as `end`, and what the answerer raised, so
        that an answer that fails before it begins is a problem and no stream."""
        if self._end is None and not self._ahead:
            reply = await self._reply(None)
            if not reply.last:
                self._ahead.append(reply)
        if self._end is not None and not self._end.pieces:
            answer_of(self._end)

    async def pieces(self, after: str = "") -> AsyncIterator[Piece]:
        """The pieces in their order, each once, those up to the position `after` left out; then there is an
        end. What did not come over Kafka is read from the store. Raises as `end`."""
        seen, number = _place(after)
        while True:
            frame = await self._frame()
            if frame is not None:
                attempt, first, data = frame.attempt, frame.number, list(frame.pieces)
            elif self._end is not None:
                attempt, first, data = self._end.attempt, self._end.pieces, []
            begins = bool(seen) and attempt != seen
            if attempt != seen:
                seen, number = attempt, 0
            if first > number:
                data = [*await self._stored(number, first), *data]
                first = number
            for at, piece in enumerate(data, first):
                if at >= number:
                    yield Piece(attempt, at, piece, begins)
                    begins = False
            number = max(number, first + len(data))
            if frame is None:
                return

    async def _frame(self) -> Reply | None:
        """The next pieces; None at the end, which is known then."""
        if self._ahead:
            return self._ahead.pop(0)
        if self._end is not None:
            return None
        reply = await self._reply(None)
        return None if reply.last else reply

    async def _stored(self, start: int, stop: int) -> Sequence[bytes]:
        """Pieces of the numbers [start, stop). Raises Unavailable where the store has them not."""
        stored = (await self._store.read(self._tenant, self.id, after=start - 1)).pieces
        if len(stored) < stop - start:
            raise Unavailable("pieces of the answer are lost", mend="ask again under the same key")
        return stored[: stop - start]

    async def _reply(self, wait_s: float | None) -> Reply:
        until = self._until
        if wait_s is not None:
            until = min(until, asyncio.get_running_loop().time() + wait_s)
        try:
            reply = await self._waiter.next(until)
        except TimeoutError:
            if until < self._until:
                raise
            self.cancel = None  # the worker has the deadline too
            _ENDED.labels(self._pipeline, "deadline").inc()
            raise late() from None
        except Unavailable:
            self.cancel = None
            raise
        if reply.last:
            self._end = End(
                b"",
                reply.state,
                reply.attempt,
                0,
                reply.number,
                reply.status,
                reply.body,
                reply.failure,
                True,
            )
            _ENDED.labels(self._pipeline, reply.state).inc()
        return reply


def _place(position: str) -> tuple[str, int]:
    """(attempt, number of the next piece) after a position that a client gave back; any text will do."""
    attempt, _, number = position.rpartition(":")
    if not attempt or not number.isascii() or not number.isdigit() or len(number) > 9:
        return "", 0
    return attempt, int(number) + 1


def answer_of(end: End) -> End:
    """The end, where it is an answer. Raises what the answerer raised, DeadlineExceeded where it expired."""
    if end.state == ANSWERED:
        return end
    if end.state == EXPIRED:
        raise late()
    if end.state == CANCELLED or end.failure is None:
        raise Unavailable("the request was cancelled", code="cancelled", mend="ask again")
    raise error_of(end.failure)


def late() -> DeadlineExceeded:
    return DeadlineExceeded(
        "no answer within the deadline", mend="ask again, or wait longer (Prefer: wait=N)"
    )
