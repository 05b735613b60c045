"""Feeds: the topics that are pushed, and how their messages become entries.

A feed is one topic of one kind: a pipeline's status changes or stored forecasts (channel `results`), the
system's alerts (channel `alerts`), how trainings stand (channel `jobs`), or what is said in conversations
(channel `chat`). Pushing hands on one or two messages at a time, so they are decoded one at a time: 14 us
each, where a columnar batch of two costs 200 us a message.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from core.errors import DeclarationError, Malformed, TooLarge
from gateway.push.ring import Entry
from schemas.catalog.conversations import ConversationEvent
from schemas.catalog.forecasts import Forecast
from schemas.catalog.training import TrainingStatus
from schemas.codec import RecordCodec
from schemas.record import Record, RecordSpec
from schemas.topic import Topic

Kind = Literal["results", "alerts", "jobs", "chat"]


@dataclass(frozen=True)
class Fetched:
    """One message as it came from Kafka."""

    partition: int
    offset: int
    at_ms: int
    value: bytes | None


@dataclass(frozen=True)
class Feed:
    """A topic that is pushed. `name` is its channel: `results:<pipeline>`, `alerts`, `jobs` or `chat`.

    permission: a scope that subscribers need beside `stream:read`. everyone: a tenant whose messages are for
    all tenants. needed: whether the gateway is not ready without the topic.
    """

    kind: Kind
    pipeline: str | None
    topic: Topic
    codec: RecordCodec[Record]
    permission: str | None = None
    everyone: str | None = None
    needed: bool = True

    @property
    def name(self) -> str:
        return f"{self.kind}:{self.pipeline}" if self.pipeline else self.kind

    @property
    def spec(self) -> RecordSpec:
        """What the data of its events looks like."""
        if self.topic.record is None:
            raise DeclarationError(f"topic {self.topic.name} has no record and cannot be pushed")
        return self.topic.record.spec()

    def entries(self, messages: Sequence[Fetched]) -> list[Entry]:
        """The decodable messages, in their order, repeats included. Raises Unavailable (registry)."""
        entries = []
        for message in messages:
            if message.value is None:
                continue
            try:
                record = self.codec.decode(message.value)
            except (Malformed, TooLarge):
                continue
            entries.append(self._entry(message, message.value, record))
        return entries

    def record(self, entry: Entry) -> Record:
        """What an entry says."""
        return entry.record or self.codec.decode(entry.value)

    def _entry(self, message: Fetched, value: bytes, record: Any) -> Entry:
        tenant, id = record.tenant, record.id
        if isinstance(record, Forecast):
            rank, group = 0, record.pipeline
            key: Hashable = (tenant, id, rank)
        elif isinstance(record, TrainingStatus):
            rank, group = 0, record.model
            key = (tenant, value)
        elif isinstance(record, ConversationEvent):
            rank, group = 0, record.conversation
            key = (tenant, "chat", id)
        elif self.kind == "results":
            rank, group = record.rank, record.pipeline
            key = (tenant, id, rank)
        else:
            rank, group = 0, record.source
            key = (tenant, "alert", record.deduplication_key)
        return Entry(
            tenant=tenant,
            id=id,
            rank=rank,
            group=group,
            entity=str(getattr(record, self.spec.entity or "id")),
            key=key,
            partition=message.partition,
            offset=message.offset,
            at_ms=message.at_ms,
            value=value,
            record=record,
        )
