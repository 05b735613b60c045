"""Sending: questions on their way to Kafka, those of many requests at once.

What one turn of the event loop brings is produced together, by one task, with one acknowledgement. Nothing
waits longer than its turn: to gather while others are on their way made larger requests to Kafka, and no
more answers.
"""

import asyncio
from collections.abc import Callable, Sequence

from core.errors import MillstreamError
from gateway.publisher import Outcome, Outgoing, Publisher

Settled = Callable[[Outcome], None]
"""Is told what became of a message: None, or why Kafka did not acknowledge it."""


class Sending:
    """Belongs to the event loop. `publisher` is one that waits for no batch to fill. In order per key."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._gathered: list[tuple[Outgoing, Settled]] = []
        self._under_way: set[asyncio.Task[None]] = set()

    def require(self) -> None:
        """Raises QueueFull where one more would not fit in flight, Unavailable where no broker answers."""
        self._publisher.require(len(self._gathered) + 1)

    def send(self, message: Outgoing, settled: Settled) -> None:
        """Produce it at the end of this turn, after what was given before."""
        if not self._gathered:
            task = asyncio.get_running_loop().create_task(self._publish())
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
        self._gathered.append((message, settled))

    async def through(self, message: Outgoing) -> None:
        """Produce it; returns once Kafka has acknowledged it, raises why it did not."""
        outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.send(message, lambda settled: None if outcome.done() else outcome.set_result(settled))
        error = await outcome
        if error is not None:
            raise error

    async def _publish(self) -> None:
        gathered, self._gathered = self._gathered, []
        outcomes: Sequence[Outcome]
        try:
            outcomes = await self._publisher.publish([message for message, _ in gathered])
        except MillstreamError as refused:
            outcomes = [refused] * len(gathered)
        for (_, settled), outcome in zip(gathered, outcomes, strict=True):
            settled(outcome)
