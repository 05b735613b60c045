"""Cutting a recorded stream by time: what to learn from, what to load first, what to replay.

|------------- training ------------|--- history ---|-- recorded --|-- wall --|
                                     7 days           N events       N events   end of the data
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc

from core.errors import InvalidInput

HISTORY = timedelta(days=7)
TIME = "occurred_at"


@dataclass(frozen=True)
class Slices:
    """Four parts in time order that do not overlap. Every time in a part is later than all training times."""

    training: pa.Table
    history: pa.Table
    recorded: pa.Table
    wall: pa.Table

    @property
    def stream_starts_at(self) -> datetime:
        """Event time of the first replayed event."""
        first: datetime = self.recorded.column(TIME)[0].as_py()
        return first

    @property
    def history_starts_at(self) -> datetime:
        """Everything before this, and nothing else, may be learned from."""
        return self.stream_starts_at - HISTORY


def cut(table: pa.Table, *, events: int, wall_events: int | None = None) -> Slices:
    """The last `events` + `wall_events` rows (the same number by default) as stream, the rest before it.

    `table` is ordered by `occurred_at`. `history` is the 7 days before the first streamed event, its lower
    bound included. Raises InvalidInput when nothing is left to learn from.
    """
    second = events if wall_events is None else wall_events
    start = table.num_rows - events - second
    if events < 1 or second < 0 or start < 1:
        raise InvalidInput(
            f"{events} + {second} events from {table.num_rows} rows", mend="ask for fewer events"
        )
    times = table.column(TIME)
    first = times[start].as_py() - HISTORY
    before = pc.less(times.slice(0, start), pa.scalar(first, times.type))
    learned = pc.sum(before).as_py() or 0
    if not learned:
        raise InvalidInput(
            f"no row is older than the 7 days before the last {events + second} events",
            mend="ask for fewer events",
        )
    return Slices(
        training=table.slice(0, learned),
        history=table.slice(learned, start - learned),
        recorded=table.slice(start, events),
        wall=table.slice(start + events, second),
    )


def ending_at(table: pa.Table, at: datetime, *, last: datetime | None = None) -> pa.Table:
    """The rows with their original spacing, moved so that `last` (their own last time by default) becomes
    `at`. Times are rounded down to milliseconds."""
    times = table.column(TIME)
    shift = at - (last or times[-1].as_py())
    millis = shift // timedelta(milliseconds=1)
    moved = pc.add(times.cast(pa.int64()), millis).cast(times.type)
    return table.set_column(table.schema.get_field_index(TIME), table.schema.field(TIME), moved)


def past(table: pa.Table, at: datetime, *, days: int) -> pa.Table:
    """The rows of the `days` before `at`, moved by whole weeks so that the data reaches beyond `at`: weekdays
    and hours stay. Raises InvalidInput when none is left."""
    newest = table.column(TIME)[-1].as_py()
    weeks = -(-(at - newest) // timedelta(weeks=1))
    moved = ending_at(table, newest + weeks * timedelta(weeks=1))
    times = moved.column(TIME)
    since = pa.scalar(at - timedelta(days=days), times.type)
    kept = moved.filter(pc.and_(pc.greater(times, since), pc.less_equal(times, pa.scalar(at, times.type))))
    if not kept.num_rows:
        raise InvalidInput(f"no event in {days} days", mend="ask for more days")
    return kept.combine_chunks()
