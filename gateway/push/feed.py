"""Feeds: the topics that are pushed, and how their messages become entries.

A feed is one topic of one kind: a pipeline's status changes (channel `results`), or the system's alerts
(channel `alerts`). Its messages are decoded a batch at a time; only the columns that decide who gets a
message become Python objects there, the rest of a row when somebody is there to see it.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from gateway.push.ring import Entry
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
        decoded = self.codec.decode_batch([message.value for message in messages])
        batch = decoded.batch
        columns = {name: batch.column(name).to_pylist() for name in self._columns()}
        entries = []
        for row, index in enumerate(decoded.kept.tolist()):
            message = messages[index]
            entries.append(self._entry(message, batch, row, {name: c[row] for name, c in columns.items()}))
        return entries

    def rows(self, entries: Sequence[Entry]) -> list[dict[str, Any]]:
        """The records of entries as dictionaries, in their order; one conversion per batch."""
        rows: list[dict[str, Any]] = []
        start = 0
        while start < len(entries):
            decoded, end = entries[start].decoded, start + 1
            whole = None if decoded is None else decoded[0]
            while end < len(entries) and _batch_of(entries[end]) is whole:
                end += 1
            part = entries[start:end]
            if whole is None:
                rows.extend(self.codec.decode_batch([entry.value for entry in part]).batch.to_pylist())
            else:
                rows.extend(_take(whole, [entry.decoded[1] for entry in part if entry.decoded]).to_pylist())
            start = end
        return rows

    def _columns(self) -> tuple[str, ...]:
        if self.kind == "results":
            return ("tenant", "id", "rank", "pipeline")
        return ("tenant", "id", "deduplication_key", "source")

    def _entry(self, message: Fetched, batch: pa.RecordBatch, row: int, values: dict[str, Any]) -> Entry:
        tenant, id = values["tenant"], values["id"]
        if self.kind == "results":
            rank = int(values["rank"])
            key: Hashable = (tenant, id, rank)
            group = values["pipeline"]
        else:
            rank, group = 0, values["source"]
            key = (tenant, "alert", values["deduplication_key"])
        return Entry(
            tenant=tenant,
            id=id,
            rank=rank,
            group=group,
            key=key,
            partition=message.partition,
            offset=message.offset,
            at_ms=message.at_ms,
            value=message.value or b"",
            decoded=(batch, row),
        )


def _batch_of(entry: Entry) -> pa.RecordBatch | None:
    return None if entry.decoded is None else entry.decoded[0]


def _take(batch: pa.RecordBatch, rows: list[int]) -> pa.RecordBatch:
    if len(rows) == batch.num_rows:
        return batch
    if rows[-1] - rows[0] == len(rows) - 1:
        return batch.slice(rows[0], len(rows))
    return batch.take(pa.array(rows, pa.int64()))
