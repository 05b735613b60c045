"""Feeds: the topics that are pushed, and how their messages become entries.

A feed is one topic of one kind: a pipeline's status changes or stored forecasts (channel `results`), or the
system's alerts (channel `alerts`). Pushing hands on one or two messages at a time, so they are decoded one at
a time: 14 us each, where a columnar batch of two costs 200 us a message.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from core.errors import Malformed, TooLarge
from gateway.push.ring import Entry
from schemas.catalog.forecasts import Forecast
from schemas.codec import RecordCodec
from schemas.record import Record
from schemas.topic import Topic

Kind = Literal["results", "alerts"]


@dataclass(frozen=True)
class Fetched:
    """One message as it came from Kafka."""

    partition: int
    offset: int
    at_ms: int
    value: bytes | None


@dataclass(frozen=True)
class Feed:
    """A topic that is pushed. `name` is its channel: `results:<pipeline>` or `alerts`."""

    kind: Kind
    pipeline: str | None
    topic: Topic
    codec: RecordCodec[Record]

    @property
    def name(self) -> str:
        return f"{self.kind}:{self.pipeline}" if self.pipeline else self.kind

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
            key=key,
            partition=message.partition,
            offset=message.offset,
            at_ms=message.at_ms,
            value=value,
            record=record,
        )
