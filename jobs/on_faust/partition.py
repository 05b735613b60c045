"""The state of one source partition: its watermark, the ids it has seen, its open windows.

All of it follows from the partition's messages alone, taken in order. A `Checkpoint` therefore is no copy of
the state but the place from which reading again gives the same one:

    replay          windows               done
      │ ids only      │ ids and windows     │ ids, windows, and what follows from them
    ──┴───────────────┴─────────────────────┴──> offsets

`windows` is the first event of the oldest open window, `replay` that of the oldest id that was still
remembered there. The watermarks before `replay` and at `done` are part of it, so that lateness is decided as
it was, and a window that had been closed stays closed, also when the disorder bound was changed.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from operator import attrgetter
from typing import Literal, NamedTuple

from core.clock import to_millis
from features.compile.accumulators import Value
from features.compile.running import RunningView, Window
from schemas.record import Record

Outcome = Literal["taken", "repeat", "late"]
MOST_IDS = 1_000_000
"""Events whose ids are remembered per partition, some 270 MB; the oldest are forgotten for newer ones."""
_MILLI = timedelta(milliseconds=1)


@dataclass(frozen=True)
class Checkpoint:
    """Where a partition's state can be read again. Offsets: replay <= windows <= done.

    before: the watermark before `replay`. reached: the one before `done`. None before the first event.
    """

    replay: int
    windows: int
    done: int
    before: int | None
    reached: int | None


@dataclass(frozen=True)
class ClosedWindow:
    """A window that the watermark has passed, with its features."""

    tenant: str
    entity: tuple[str, ...]
    end_ms: int
    values: dict[str, Value | None]


@dataclass
class _Bucket:
    """The open windows with one end; `first` is the offset of their first event, `before` the watermark
    before it."""

    first: int
    before: int | None
    windows: dict[tuple[str, tuple[str, ...]], Window] = field(default_factory=dict)


class _Seen(NamedTuple):
    """An event, a repeat too, and the watermarks around it."""

    key: tuple[str, str]
    offset: int
    before: int | None
    after: int


class PartitionState:
    """Give it every message of the partition, in order. Not safe for use from several threads.

    disorder: at least a millisecond, as an event is late at the watermark and not only behind it.
    """

    def __init__(
        self, view: RunningView, *, horizon: timedelta, disorder: timedelta, next_offset: int = 0
    ) -> None:
        self._view = view
        self._horizon_ms = horizon // _MILLI
        self._disorder_ms = max(disorder // _MILLI, 1)
        self._time = attrgetter(view.view.time)
        self._entity = [attrgetter(name) for name in view.view.entity_fields]
        self.next_offset = next_offset
        self.watermark: int | None = None
        self._seen: deque[_Seen] = deque()
        self._last: dict[tuple[str, str], _Seen] = {}
        self._buckets: dict[int, _Bucket] = {}
        self._first_end: int | None = None

    def event(self, event: Record, offset: int) -> Outcome:
        """Take an event: into its window, unless it is a repeat by (tenant, id) or late.

        Late is what is at or behind the watermark of the events before it; a window that it would be in may
        have been closed.
        """
        before = self.watermark
        at = to_millis(self._time(event))
        repeat = self.remember(event, offset)
        if repeat:
            return "repeat"
        if before is not None and at <= before:
            return "late"
        end = self._view.end_of(at)
        bucket = self._buckets.get(end)
        if bucket is None:
            bucket = self._buckets[end] = _Bucket(offset, before)
            if self._first_end is None or end < self._first_end:
                self._first_end = end
        key = event.tenant, tuple([read(event) for read in self._entity])
        window = bucket.windows.get(key)
        if window is None:
            window = bucket.windows[key] = self._view.begin()
        window.add(event, (at, event.id))
        return "taken"

    def remember(self, event: Record, offset: int) -> bool:
        """Take an event's id and time, and not the event; whether the id was known."""
        before = self.watermark
        self.tick(to_millis(self._time(event)) - self._disorder_ms, offset)
        after = self.watermark
        if after is None:
            raise RuntimeError("no watermark after an event")
        key = event.tenant, event.id
        known = self._last.get(key)
        seen = self._last[key] = _Seen(key, offset, before, after)
        self._seen.append(seen)
        if len(self._seen) > MOST_IDS:
            self._forget()
        return known is not None and (before is None or before - known.after <= self._horizon_ms)

    def tick(self, watermark: int, offset: int) -> None:
        """Take a message that only says how far time has come."""
        if self.watermark is None or watermark > self.watermark:
            self.watermark = watermark
        self.next_offset = offset + 1

    def skip(self, offset: int) -> None:
        """Take a message that is no event."""
        self.next_offset = offset + 1

    def closed(self) -> Iterator[ClosedWindow]:
        """The windows that the watermark has passed since the last call, the earliest end first."""
        while (
            self._first_end is not None
            and self.watermark is not None
            and self._first_end - 1 <= self.watermark
        ):
            end, bucket = self._first_end, self._buckets.pop(self._first_end)
            self._first_end = min(self._buckets, default=None)
            for (tenant, entity), window in bucket.windows.items():
                yield ClosedWindow(tenant, entity, end, self._view.values(window))

    def resume(self, checkpoint: Checkpoint, *, oldest: int = 0) -> None:
        """Begin at the checkpoint's `replay`, or at the oldest message that there still is. `again` is next,
        for every message before `done`, then `resumed`."""
        self.next_offset, self.watermark = max(checkpoint.replay, oldest), checkpoint.before

    def again(self, event: Record, offset: int, checkpoint: Checkpoint) -> None:
        """Take an event whose effects are done."""
        if offset < checkpoint.windows:
            self.remember(event, offset)
        else:
            self.event(event, offset)
            self._drop_closed()

    def resumed(self, checkpoint: Checkpoint) -> None:
        """The state is that of the checkpoint now."""
        if checkpoint.reached is not None:
            self.tick(checkpoint.reached, checkpoint.done - 1)
        self.next_offset = checkpoint.done
        self._drop_closed()

    def checkpoint(self) -> Checkpoint:
        """As of now: everything before `next_offset` is taken, and what followed from it is closed."""
        oldest = min(self._buckets.values(), key=lambda bucket: bucket.first, default=None)
        windows = self.next_offset if oldest is None else oldest.first
        before = self.watermark if oldest is None else oldest.before
        while before is not None and self._seen and self._seen[0].after < before - self._horizon_ms:
            self._forget()
        replay = windows
        if self._seen and self._seen[0].offset < replay:
            replay, before = self._seen[0].offset, self._seen[0].before
        return Checkpoint(replay, windows, self.next_offset, before, self.watermark)

    def _drop_closed(self) -> None:
        deque(self.closed(), maxlen=0)

    def _forget(self) -> None:
        """The oldest event's id, unless it came again."""
        oldest = self._seen.popleft()
        if self._last[oldest.key] is oldest:
            del self._last[oldest.key]
