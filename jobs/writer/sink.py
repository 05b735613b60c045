"""The contract of a sink, and halving a batch until its bad records stand alone."""

from collections.abc import Callable, Sequence
from typing import Protocol

from jobs.writer.chunk import Chunk
from jobs.writer.errors import BadRecord
from schemas.topic import Topic


class Sink(Protocol):
    """Where records go. Called from one thread.

    `write` raises `Unavailable` while its store is away and is then called again with the same chunk, so
    it must be idempotent; it raises `BadRecord` when the store refuses the chunk because of what is in it.
    """

    @property
    def name(self) -> str:
        """Names the thread, the consumer group and the metrics."""
        ...

    @property
    def topics(self) -> Sequence[Topic]: ...

    @property
    def wait_s(self) -> float:
        """How long to gather messages for one chunk; 0 takes what is there when the first arrives."""
        ...

    @property
    def dead_letters(self) -> bool:
        """Whether this sink dead-letters what cannot be decoded. One reader of each topic does, so that a
        bad message is there once; the others count it and go on."""
        ...

    @property
    def commits(self) -> bool:
        """True: when `write` returns the chunk is durable, and its offsets go to the consumer group.
        False: the sink keeps the offsets with its data, and says by `positions` where to go on."""
        ...

    def open(self) -> None:
        """The first call, before anything is read: connect, and do what is slow once. Raises Unavailable
        while the store is away and is then called again; the process is not ready before."""
        ...

    def positions(self, partitions: Sequence[tuple[str, int]]) -> dict[tuple[str, int], int]:
        """Where to start reading, for the partitions whose offset this sink keeps itself."""
        ...

    def revoked(self, partitions: Sequence[tuple[str, int]]) -> None:
        """These partitions went away: forget what of them is not durable."""
        ...

    def write(self, chunk: Chunk) -> None: ...

    def tick(self) -> None:
        """Called between chunks, also when nothing arrives; for what is due by time."""
        ...

    def close(self) -> None:
        """The last call: make durable what is left, or leave it to be read again."""
        ...


class Direct:
    """What a sink is that keeps nothing between two chunks: what `write` took is durable when it returns."""

    commits = True

    def open(self) -> None:
        return

    def positions(self, partitions: Sequence[tuple[str, int]]) -> dict[tuple[str, int], int]:
        return {}

    def revoked(self, partitions: Sequence[tuple[str, int]]) -> None:
        return

    def tick(self) -> None:
        return

    def close(self) -> None:
        return


def isolate(
    chunk: Chunk, write: Callable[[Chunk], None], refused: Callable[[Chunk, BadRecord], None]
) -> None:
    """Write all of `chunk` but the bad records, which go to `refused` one by one, in order of arrival.

    Halves on `BadRecord`: one bad record among n costs about 2 log2(n) further writes.
    """
    if len(chunk) == 0:
        return
    try:
        write(chunk)
    except BadRecord as problem:
        if len(chunk) == 1:
            refused(chunk, problem)
            return
        half = len(chunk) // 2
        isolate(chunk.slice(0, half), write, refused)
        isolate(chunk.slice(half, len(chunk) - half), write, refused)
