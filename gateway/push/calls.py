"""What a client does over its socket besides listening: publish and ask, by the handlers that HTTP has.

A frame becomes a request of the same route, so that permission, limits, checks and acceptance are the same.
"""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

import msgspec

from core.errors import InvalidInput, UnknownName
from gateway.admission import Admission
from gateway.exchange import Response
from gateway.generating.question import CLIENT_GONE, Questions
from gateway.intake import ID_SHAPE
from gateway.principals import Principal
from gateway.push import frames
from gateway.push.conversations import Conversations
from gateway.push.requests import GENERATE, request_of
from gateway.push.suggestions import Suggestions
from operators.generate import PIPELINE
from operators.generate_request import Generation, parse

_NOTHING = msgspec.Raw(b"null")


@dataclass(frozen=True)
class Calls:
    """`questions`, `suggestions` and `conversations` are there where prompts are answered."""

    admission: Admission
    questions: Questions | None = None
    suggestions: Suggestions | None = None
    conversations: Conversations | None = None

    async def publish(self, principal: Principal, frame: frames.Publish) -> frames.Published:
        """Raises what the handler raises."""
        answer = await self._post(principal, frame.pipeline, "events", bytes(frame.data), {})
        return frames.Published(frame.id, answer.status, msgspec.Raw(answer.body))

    async def ask(
        self, principal: Principal, frame: frames.Ask
    ) -> AsyncIterator[frames.Piece | frames.Answer]:
        """The pieces, where they are asked for, then the answer; raises what the handler raises. Leaving it
        early cancels the request."""
        if frame.pipeline == PIPELINE and self.questions is not None:
            async for said in self._generate(self.questions, principal, frame):
                yield said
            return
        headers = {"idempotency-key": frame.key} if frame.key is not None else {}
        if frame.wait_s is not None:
            headers["prefer"] = f"wait={frame.wait_s}"
        answer = await self._post(principal, frame.pipeline, "infer", bytes(frame.data), headers)
        if answer.status != CLIENT_GONE:
            yield frames.Answer(frame.id, answer.status, msgspec.Raw(answer.body or b"null"))

    async def suggest(self, principal: Principal, frame: frames.Prompt) -> AsyncIterator[frames.Suggestion]:
        """See `Suggestions.of`; raises UnknownName where no prompts are answered."""
        if self.suggestions is None:
            raise UnknownName("pipeline", PIPELINE, (), where="this gateway answers no prompts")
        async for suggestion in self.suggestions.of(principal, frame):
            yield suggestion

    async def _generate(
        self, questions: Questions, principal: Principal, frame: frames.Ask
    ) -> AsyncIterator[frames.Piece | frames.Answer]:
        headers = {"idempotency-key": frame.key} if frame.key is not None else {}
        request = request_of(principal, GENERATE, bytes(frame.data), headers)
        route = await self.admission.called(request)
        async with self.admission.visiting(route, request):
            generation, body = await questions.read(request, parse)
            turn = await self._asked(principal, frame, generation)
            async with await questions.ask(request, body, streamed=generation.stream) as under_way:
                if generation.stream:
                    async for piece in under_way.pieces():
                        if piece is None:
                            yield frames.Piece(frame.id, True, _NOTHING)
                            continue
                        for line in piece.splitlines():
                            yield frames.Piece(frame.id, False, msgspec.Raw(line))
                answer = await under_way.end()
            yield frames.Answer(frame.id, answer.status, msgspec.Raw(answer.body))
            if turn is not None and self.conversations is not None and frame.conversation is not None:
                await self.conversations.answered(principal, frame.conversation, turn, answer.body)

    async def _asked(self, principal: Principal, frame: frames.Ask, generation: Generation) -> str | None:
        """The id of the user's turn, where it is one of a conversation."""
        if frame.conversation is None or self.conversations is None:
            return None
        if not ID_SHAPE.fullmatch(frame.conversation):
            raise InvalidInput("the conversation is none", code="invalid_conversation")
        return await self.conversations.asked(principal, frame.conversation, generation)

    async def _post(
        self, principal: Principal, pipeline: str, what: str, body: bytes, headers: Mapping[str, str]
    ) -> Response:
        if "/" in pipeline:
            raise UnknownName("pipeline", pipeline[:100], ())
        request = request_of(principal, f"/api/v1/pipelines/{pipeline}/{what}", body, headers)
        route = await self.admission.called(request)
        async with self.admission.visiting(route, request):
            return await route.handler(request)
