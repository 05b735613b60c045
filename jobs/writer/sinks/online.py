"""The online store: enriched records to the recent rows per entity in Redis."""

from collections.abc import Sequence
from typing import Protocol

import pyarrow as pa
from redis.exceptions import RedisError

from core.errors import Unavailable
from jobs.writer.chunk import Chunk
from schemas.topic import Topic


class RecentRows(Protocol):
    """The part of the rolling store that the sink needs; `write` is idempotent by event id."""

    def write(self, batch: pa.RecordBatch) -> None: ...


class OnlineSink:
    """Done when Redis has answered. Late rows are written too: they land in order by their own time, and
    the same row again changes nothing. Undecodable messages are the worker's to dead-letter."""

    name = "online"
    wait_s = 0.05
    dead_letters = False
    commits = True

    def __init__(self, topic: Topic, rows: RecentRows) -> None:
        self.topics: Sequence[Topic] = (topic,)
        self._rows = rows

    def open(self) -> None:
        return

    def positions(self, partitions: Sequence[tuple[str, int]]) -> dict[tuple[str, int], int]:
        return {}

    def revoked(self, partitions: Sequence[tuple[str, int]]) -> None:
        return

    def write(self, chunk: Chunk) -> None:
        try:
            self._rows.write(chunk.batch)
        except RedisError as problem:
            line = (str(problem) or type(problem).__name__).splitlines()[0]
            raise Unavailable(f"Redis: {line}", code="redis_unavailable") from problem

    def tick(self) -> None:
        return

    def close(self) -> None:
        return
