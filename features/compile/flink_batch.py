"""A windowed view to Flink SQL in batch mode: the stream's windows over a recorded range of its source.

What differs from the stream (`features.compile.flink_windows`) is what comes before the windows: the source
ends, there is no watermark and so nothing is late, and of repeats the one at the lowest (partition, offset)
counts. Only the windows that end in the span come out. Views whose features look back at other windows are
refused: in batch mode Flink 2.3 generates a comparison for ranges of time that does not compile.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property

from core.errors import DeclarationError
from core.ids import digest
from features.compile.flink import (
    AT,
    EVENTS,
    FIRST,
    LATE,
    PLACEHOLDER,
    TOPOLOGY,
    Connection,
    Script,
    reference_table,
    sink_table,
    source_table,
)
from features.compile.flink_columns import quote, text
from features.compile.flink_windows import ROWS, WindowedStream, insert_rows, views
from features.feature_rows import WINDOW_END
from features.offline.batch import Span
from features.offline.reach import look_back
from features.view import FeatureView
from schemas.topic import Topic

RECORDED, PARTITION, OFFSET = "recorded", "__partition", "__offset"
_AT_ONCE = timedelta(milliseconds=1)


@dataclass(frozen=True)
class WindowedBatch:
    """The windows of `stream` that end in `span`, over its source up to the offsets `until`, in one job that
    ends. A `FlinkStream`.

    until: the offset after the last message to be read, of every partition. The source is read from its
    oldest message on, or from `since` where that is given.
    """

    stream: WindowedStream
    span: Span
    until: Mapping[int, int]

    def __post_init__(self) -> None:
        if look_back(self.view):
            raise DeclarationError(
                f"Flink's batch mode cannot run {self.view.name} v{self.view.version}: its features look "
                "back at other windows",
                where=self.view.where,
                mend="backfill it with DuckDB; Flink 2.3 cannot compile ranges of time in batch mode",
            )

    @property
    def pipeline(self) -> str:
        """Another than the stream's, so that the keeper of that one does not take this job for its own."""
        return f"{self.stream.pipeline}-backfill"

    @property
    def source(self) -> Topic:
        return self.stream.source

    @property
    def view(self) -> FeatureView:
        return self.stream.view

    @cached_property
    def lineage(self) -> str:
        return digest(f"{TOPOLOGY}\n{self.compile(PLACEHOLDER).text}".encode())

    def compile(
        self,
        connection: Connection,
        *,
        disorder: timedelta | None = None,
        since: Mapping[int, int] | None = None,
    ) -> Script:
        """`disorder` has no meaning here. Raises DeclarationError for a span or offsets of nothing."""
        if not self.until:
            raise DeclarationError("no offsets to read up to", where=self.view.where)
        tables = [
            source_table(self, connection, _AT_ONCE, since),
            _recorded(self.until),
            sink_table(ROWS, self.stream.rows, connection),
            *(reference_table(lookup, connection) for lookup in self.view.lookups),
            _first(self.view),
            *views(self.view, FIRST, AT, LATE),
        ]
        end = quote(WINDOW_END)
        within = f"{end} > {_instant(self.span.begin)} AND {end} <= {_instant(self.span.end)}"
        return Script.of(tables, [f"{insert_rows(self.stream)}\nWHERE {within}"])


def _recorded(until: Mapping[int, int]) -> str:
    """The events with where they lie, up to those offsets."""
    offsets = ";".join(f"partition:{number},offset:{offset}" for number, offset in sorted(until.items()))
    options = {"scan.bounded.mode": "specific-offsets", "scan.bounded.specific-offsets": offsets}
    settings = ",\n  ".join(f"{text(key)} = {text(value)}" for key, value in options.items())
    return (
        f"CREATE TEMPORARY TABLE {quote(RECORDED)} (\n"
        f"  {quote(PARTITION)} INT METADATA FROM 'partition' VIRTUAL,\n"
        f"  {quote(OFFSET)} BIGINT METADATA FROM 'offset' VIRTUAL\n) WITH (\n  {settings}\n)\n"
        f"LIKE {quote(EVENTS)} (EXCLUDING WATERMARKS)"
    )


def _first(view: FeatureView) -> str:
    """The first record per (tenant, id), none of them late."""
    names = [*view.source.spec().names, AT]
    return (
        f"CREATE TEMPORARY VIEW {quote(FIRST)} AS\n"
        f"SELECT {', '.join(quote(name) for name in names)}, FALSE AS {quote(LATE)}\n"
        "FROM (\n  SELECT *,\n"
        "    ROW_NUMBER() OVER (PARTITION BY `tenant`, `id` "
        f"ORDER BY {quote(PARTITION)}, {quote(OFFSET)}) AS `__nth`\n"
        f"  FROM {quote(RECORDED)}\n  WHERE `id` IS NOT NULL\n)\nWHERE `__nth` = 1"
    )


def _instant(at: datetime) -> str:
    whole = at.astimezone(UTC).replace(tzinfo=None)
    return f"TIMESTAMP '{whole.isoformat(sep=' ', timespec='milliseconds')}'"
