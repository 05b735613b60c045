"""Sending: questions on their way to Kafka, those of many requests at once.

What one turn of the event loop brings is produced together, and while a batch is on its way the next one
gathers, until that has been acknowledged or for `GATHER_S`, whichever is first. A lone question waits for
nothing, and a busy gateway makes few requests of many: each costs the broker and this process about as much
as a question. A partition without a leader holds up the others by no more than that time.
"""

import asyncio
from collections.abc import Callable, Sequence

from core.errors import MillstreamError
from gateway.publisher import Outcome, Outgoing, Publisher

GATHER_S = 0.005

Settled = Callable[[Outcome], None]
"""Is told what became of a message: None, or why Kafka did not acknowledge it."""


class Sending:
    """Belongs to the event loop. `publisher` is one that waits for no batch to fill. In order per key."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._gathered: list[tuple[Outgoing, Settled]] = []
        self._under_way: set[asyncio.Task[None]] = set()
        self._next: asyncio.Handle | None = None

    def require(self) -> None:
        """Raises QueueFull where one more would not fit in flight, Unavailable where no broker answers."""
        self._publisher.require(len(self._gathered) + 1)

    def send(self, message: Outgoing, settled: Settled) -> None:
        """Produce it soon, after what was given before."""
        self._gathered.append((message, settled))
        if self._next is None:
            loop = asyncio.get_running_loop()
            if self._under_way:
                self._next = loop.call_later(GATHER_S, self._produce)
            else:
                self._next = loop.call_soon(self._produce)

    async def through(self, message: Outgoing) -> None:
        """Produce it; returns once Kafka has acknowledged it, raises why it did not."""
        outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.send(message, lambda settled: None if outcome.done() else outcome.set_result(settled))
        error = await outcome
        if error is not None:
            raise error

    def _produce(self) -> None:
        if self._next is not None:
            self._next.cancel()
            self._next = None
        if self._gathered:
            gathered, self._gathered = self._gathered, []
            task = asyncio.get_running_loop().create_task(self._publish(gathered))
            self._under_way.add(task)
            task.add_done_callback(self._acknowledged)

    def _acknowledged(self, task: "asyncio.Task[None]") -> None:
        self._under_way.discard(task)
        if not self._under_way:
            self._produce()

    async def _publish(self, gathered: list[tuple[Outgoing, Settled]]) -> None:
        outcomes: Sequence[Outcome]
        try:
            outcomes = await self._publisher.publish([message for message, _ in gathered])
        except MillstreamError as refused:
            outcomes = [refused] * len(gathered)
        for (_, settled), outcome in zip(gathered, outcomes, strict=True):
            settled(outcome)
