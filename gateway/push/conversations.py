"""Conversations: what is said in one over any socket of a tenant is pushed to all that follow it.

Promise: what a user said is on Kafka before a model is asked. An answer is put there once it is whole; where
Kafka does not take it then, the asker alone has it.
"""

import msgspec

from core.clock import Clock, to_millis
from core.errors import MillstreamError
from core.ids import new_id
from core.telemetry.log import logger
from gateway.principals import Principal
from gateway.publisher import Outgoing, Publisher
from operators.generate_answer import Generated
from operators.generate_request import Generation
from schemas.catalog.conversations import CONVERSATIONS, ConversationEvent
from schemas.codec import RecordCodec
from schemas.headers import event_headers
from schemas.keys import key_of

_generated = msgspec.json.Decoder(Generated).decode
_log = logger("gateway.push.conversations")


class Conversations:
    """Puts turns on Kafka."""

    def __init__(self, publisher: Publisher, codec: RecordCodec[ConversationEvent], clock: Clock) -> None:
        self._publisher = publisher
        self._codec = codec
        self._clock = clock

    async def asked(self, principal: Principal, conversation: str, generation: Generation) -> str:
        """The last thing that a user said; its id. Raises QueueFull, Unavailable, TooLarge."""
        return await self._tell(
            ConversationEvent(
                tenant=principal.tenant,
                id=new_id(),
                conversation=conversation,
                role="user",
                text=generation.completion.messages[-1].content,
                said_at=self._clock.now(),
                said_by=principal.credential,
            )
        )

    async def answered(
        self, principal: Principal, conversation: str, in_reply_to: str, answer: bytes
    ) -> None:
        """The whole answer, as JSON."""
        given = _generated(answer)
        try:
            await self._tell(
                ConversationEvent(
                    tenant=principal.tenant,
                    id=new_id(),
                    conversation=conversation,
                    role="assistant",
                    text=given.text,
                    said_at=self._clock.now(),
                    said_by=principal.credential,
                    in_reply_to=in_reply_to,
                    model=given.model,
                    degraded=given.degraded,
                )
            )
        except MillstreamError as error:
            _log.warning("an answer is missing in its conversation", reason=error.what)

    async def _tell(self, event: ConversationEvent) -> str:
        outgoing = Outgoing(
            topic=CONVERSATIONS.name,
            key=key_of(event.tenant, event.conversation),
            value=self._codec.encode(event),
            headers=event_headers(
                id=event.id,
                source=event.said_by,
                type=self._codec.spec.full_name,
                time=event.said_at,
                tenant=event.tenant,
                received_at=event.said_at,
            ),
            at_ms=to_millis(event.said_at),
        )
        (error,) = await self._publisher.publish([outgoing])
        if error is not None:
            raise error
        return event.id
