"""Inputs: one batch of Kafka messages, with what is asked of every message taken out once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from confluent_kafka import Message


@dataclass(frozen=True)
class Inputs:
    """Messages in the order they were consumed. `appended_ms` is Kafka's time of each (epoch)."""

    messages: Sequence[Message]
    values: list[bytes | None]
    partitions: list[int]
    offsets: list[int]
    appended_ms: npt.NDArray[np.int64]

    @classmethod
    def of(cls, messages: Sequence[Message]) -> "Inputs":
        """Takes messages without an error; the value of a tombstone is None."""
        return cls(
            messages=messages,
            values=[message.value() for message in messages],
            partitions=[message.partition() for message in messages],
            offsets=[message.offset() for message in messages],
            appended_ms=np.array([message.timestamp()[1] for message in messages], dtype=np.int64),
        )

    def __len__(self) -> int:
        return len(self.messages)

    def next_offsets(self) -> dict[int, int]:
        """The offset to commit per partition once this batch is done."""
        last = dict(zip(self.partitions, self.offsets, strict=True))
        return {partition: offset + 1 for partition, offset in last.items()}

    def halves(self) -> tuple["Inputs", "Inputs"]:
        """The same messages in two parts, the first not longer than the second."""
        half = len(self.messages) // 2
        return Inputs.of(self.messages[:half]), Inputs.of(self.messages[half:])

    def without(self, partitions: set[int]) -> "Inputs":
        """The messages of other partitions; for what was taken away while a batch was held."""
        if partitions.isdisjoint(self.partitions):
            return self
        return Inputs.of(
            [m for m, p in zip(self.messages, self.partitions, strict=True) if p not in partitions]
        )
