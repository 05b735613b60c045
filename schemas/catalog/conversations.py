"""Conversations on Kafka: what people said to a model, and what it answered."""

from datetime import datetime, timedelta
from typing import Annotated, Literal

from msgspec import Meta

from schemas.record import Record, record
from schemas.topic import Topic


@record(entity="conversation", time="said_at", namespace="millstream.conversations")
class ConversationEvent(Record, frozen=True, kw_only=True):
    """One thing that was said in a conversation of the tenant."""

    conversation: Annotated[str, Meta(description="chosen by who began it")]
    role: Literal["user", "assistant"]
    text: str
    said_at: datetime
    said_by: Annotated[str, Meta(description="id of the credential that asked")]
    in_reply_to: Annotated[str | None, Meta(description="id of what was answered")] = None
    model: Annotated[str | None, Meta(description="who answered, where it is an answer")] = None
    degraded: bool = False


CONVERSATIONS = Topic(
    "conversation.events", ConversationEvent, retention=timedelta(days=30), dead_letters=False
)
