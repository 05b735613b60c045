"""What the endpoints ask through: one question under way, whatever carries it."""

from collections.abc import AsyncIterator, Coroutine, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol, Self

from core.clock import Clock
from gateway.asking.asker import Asked, Asker, Wanted
from gateway.asking.pending import Pending, answer_of
from operators.asking import Answer, Question
from schemas.headers import NOBODY


class UnderWay(Protocol):
    """Leave it by `async with`: leaving before the end cancels the question."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *_: object) -> None: ...

    async def ready(self) -> None:
        """Wait for the first piece or the end; raises what the answerer raised."""
        ...

    def pieces(self) -> AsyncIterator[bytes | None]:
        """The pieces as they come; None where the answerer died, another one begins anew, and what came
        before is void. Raises what ended the stream."""
        ...

    def end(self) -> Coroutine[None, None, Answer]:
        """The whole answer; raises what the answerer raised."""
        ...


class Asking(Protocol):
    """Who answers, as the endpoints see it."""

    async def ask(
        self,
        question: Question,
        *,
        credential: str,
        traceparent: str | None = None,
        caller: Mapping[str, str] = NOBODY,
    ) -> UnderWay:
        """Raises Conflict, QueueFull, Unavailable."""
        ...


@dataclass
class KafkaUnderWay:
    """See `UnderWay`."""

    pending: Pending

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.pending.leave()

    async def ready(self) -> None:
        await self.pending.ready()

    async def pieces(self) -> AsyncIterator[bytes | None]:
        async for piece in self.pending.pieces():
            if piece.begins:
                yield None
            yield piece.data

    async def end(self) -> Answer:
        end = answer_of(await self.pending.end())
        return Answer(end.status, end.body)


class KafkaAsking:
    """See `Asking`: over the requests topic of the generating pipeline."""

    def __init__(self, asker: Asker, asked: Asked, clock: Clock) -> None:
        self._asker = asker
        self._asked = asked
        self._clock = clock

    async def ask(
        self,
        question: Question,
        *,
        credential: str,
        traceparent: str | None = None,
        caller: Mapping[str, str] = NOBODY,
    ) -> KafkaUnderWay:
        wanted = Wanted(
            tenant=question.tenant,
            credential=credential,
            id=question.id,
            entity=question.id,
            body=question.body,
            within=max(question.deadline_at - self._clock.now(), timedelta(0)),
            streamed=question.streamed,
            traceparent=traceparent,
            caller=caller,
        )
        return KafkaUnderWay(await self._asker.ask(self._asked, wanted))
