"""Asking: one request that waits for its answer, whatever carries it.

The carrier (Kafka, or HTTP straight to the process) gives a `Question` and a way to send pieces of the answer
early; the answerer gives the whole answer. A carrier cancels the call at the deadline, and when nobody waits
for the answer any more; an answerer then stops the work that it began elsewhere.
"""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Protocol

import msgspec

Emit = Callable[[bytes], Awaitable[None]]


class Question(msgspec.Struct, frozen=True):
    """`id` is the client's, unique within the tenant: a repeat of it is the same question. `body` is JSON as
    the client sent it, not yet checked; `deadline_at` is aware, in UTC. `streamed`: pieces are wanted."""

    tenant: str
    id: str
    pipeline: str
    body: bytes
    deadline_at: datetime
    streamed: bool = False


class Answer(msgspec.Struct, frozen=True):
    """The whole answer: `status` as HTTP means it, `body` as JSON."""

    status: int
    body: bytes


class Answerer(Protocol):
    """What answers the questions of one pipeline. Many questions may be under way at once, on one loop."""

    async def answer(self, question: Question, emit: Emit) -> Answer:
        """Answer one question, giving pieces to `emit` in order where the question is `streamed`.

        Raises MillstreamError for what went wrong; the carrier makes a problem of it. A repeat of a question
        gets the same answer or the same error.
        """
        ...
