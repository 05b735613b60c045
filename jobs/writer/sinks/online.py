"""The online store: enriched records to the recent rows per entity in Redis."""

from collections.abc import Sequence
from typing import Protocol

import pyarrow as pa
from redis.exceptions import RedisError

from core.errors import Unavailable
from jobs.writer.chunk import Chunk
from jobs.writer.sink import Direct
from schemas.topic import Topic


class RecentRows(Protocol):
    """The part of the rolling store that the sink needs; `write` is idempotent by event id."""

    def write(self, batch: pa.RecordBatch) -> None: ...


class OnlineSink(Direct):
    """Done when Redis has answered. Late rows are written too: they land in order by their own time, and
    the same row again changes nothing. Undecodable messages are the worker's to dead-letter."""

    name = "online"
    wait_s = 0.05
    dead_letters = False

    def __init__(self, topic: Topic, rows: RecentRows) -> None:
        self.topics: Sequence[Topic] = (topic,)
        self._rows = rows

    def write(self, chunk: Chunk) -> None:
        try:
            self._rows.write(chunk.batch)
        except RedisError as problem:
            line = (str(problem) or type(problem).__name__).splitlines()[0]
            raise Unavailable(f"Redis: {line}", code="redis_unavailable") from problem
