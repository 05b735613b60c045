"""A chunk: messages of one topic with their rows, decoded in one call, and those that cannot be decoded."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from schemas.codec import RecordCodec
from schemas.headers import is_tick
from schemas.topic import Topic


@dataclass(frozen=True)
class Rejected:
    """A message that is no record of its topic, with a stable code and the reason."""

    message: Any
    code: str
    reason: str


@dataclass(frozen=True)
class Chunk:
    """Row i of `batch` (in the record's Arrow schema) is `messages[i]`; arrival order is kept."""

    topic: Topic
    batch: pa.RecordBatch
    messages: tuple[Any, ...]
    rejected: tuple[Rejected, ...] = ()

    def __len__(self) -> int:
        return len(self.messages)

    def slice(self, start: int, length: int) -> "Chunk":
        """`length` rows from `start`, without the rejected."""
        messages = self.messages[start : start + length]
        return Chunk(self.topic, self.batch.slice(start, length), messages)


def decode(topic: Topic, codec: RecordCodec[Any], messages: Sequence[Any]) -> Chunk:
    """Decode the values of `messages`; what the codec cannot read is rejected with the codec's code. Ticks
    are left out: they are no events and nothing is wrong with them.

    Raises Unavailable while the schema registry is away.
    """
    messages = [message for message in messages if not is_tick(message)]
    decoded = codec.decode_batch([message.value() for message in messages])
    rejected = tuple(Rejected(messages[bad.index], bad.code, bad.reason) for bad in decoded.bad)
    kept = tuple(messages[index] for index in decoded.kept.tolist())
    return Chunk(topic, decoded.batch, kept, rejected)
