"""The online store of a windowed view: feature rows to packed values in Redis."""

from collections.abc import Sequence
from typing import Any

from core.clock import to_millis
from features.feature_rows import ENTITY, SEQUENCE, WINDOW_END
from features.online.packed_writer import PackedRow, PackedWriter
from jobs.writer.chunk import Chunk
from jobs.writer.errors import BadRecord
from jobs.writer.sink import Direct
from schemas.topic import Topic


class PackedSink(Direct):
    """Done when Redis has answered. A value is only replaced by one of a later window, or of the same window
    with a higher sequence; the same row again changes nothing. A row that can never be stored (a feature is
    NaN or infinite) and a message that is no row are dead-lettered."""

    name = "online"
    wait_s = 0.0
    dead_letters = True

    def __init__(self, topic: Topic, writer: PackedWriter) -> None:
        self.topics: Sequence[Topic] = (topic,)
        self._writer = writer

    def write(self, chunk: Chunk) -> None:
        """Raises Unavailable while Redis is away, BadRecord when a row cannot be stored."""
        for outcome in self._writer.write(self._rows(chunk)):
            if not isinstance(outcome, str):
                raise BadRecord(outcome.what, where=outcome.where, mend=outcome.mend)

    def _rows(self, chunk: Chunk) -> list[PackedRow]:
        def column(name: str) -> list[Any]:
            found: list[Any] = chunk.batch.column(chunk.batch.schema.get_field_index(name)).to_pylist()
            return found

        values = zip(*(column(name) for name in self._writer.layout.names), strict=True)
        return [
            PackedRow(tenant, entity, to_millis(end), sequence, row)
            for tenant, entity, end, sequence, row in zip(
                column("tenant"), column(ENTITY), column(WINDOW_END), column(SEQUENCE), values, strict=True
            )
        ]
