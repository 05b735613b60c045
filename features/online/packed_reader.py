"""Reading packed values: one at a time, from coroutines, and as columns.

Every read says for each feature what its value is, of when, and one of

    fresh     not older than the layout's `fresh_for`
    stale     older than that; the value is given all the same
    expired   older than the feature's own time to live: its empty value is given
    missing   nothing is there, or nothing that can be read (which is counted): its empty value is given

All of a value's features have its event time. A null that was written is a value.
"""

import asyncio
from bisect import bisect_left
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, NamedTuple

import pyarrow as pa

from core.clock import Clock, SystemClock, from_millis, to_millis
from core.errors import InternalError, MillstreamError, QueueFull, TooLarge, Unavailable
from core.telemetry.metrics import counter
from features.online.packed import PackedField, PackedLayout, Value
from features.online.packed_codec import PackedCodec, Unpacked, Unreadable
from features.online.packed_columns import PackedColumns
from features.online.packed_values import AsyncPackedValues, PackedValues

UNREADABLE = counter(
    "online_packed_unreadable_total",
    "Values in the online store that read as missing: of another layout (fingerprint), or damaged",
    ["view", "reason"],
)

Status = Literal["fresh", "stale", "missing", "expired", "truncated"]


@dataclass(frozen=True, slots=True)
class PackedRead:
    """One entity's features of one view. `event_time_ms` and `age_ms` are None when it is missing; an event
    time ahead of the clock gives a negative age. Each mapping is made when it is asked for."""

    _names: tuple[str, ...]
    _values: tuple[Value, ...]
    _statuses: Mapping[str, Status]
    event_time_ms: int | None
    age_ms: int | None

    @property
    def values(self) -> dict[str, Value]:
        """By feature, in the order of the layout."""
        return dict(zip(self._names, self._values, strict=True))

    @property
    def statuses(self) -> dict[str, Status]:
        return dict(self._statuses)

    @property
    def event_time(self) -> datetime | None:
        return None if self.event_time_ms is None else from_millis(self.event_time_ms)

    @property
    def age(self) -> timedelta | None:
        return None if self.age_ms is None else timedelta(milliseconds=self.age_ms)

    @property
    def truncated(self) -> bool:
        """Never: a windowed value is whole. Rolling reads can be."""
        return False


class _Form:
    """A layout, made ready for reading."""

    def __init__(self, layout: PackedLayout) -> None:
        self._layout = layout
        self._names = layout.names
        self._codec = PackedCodec(layout)
        self.columns = PackedColumns(self._codec, self._count)
        spans = {layout.field_ttl_ms(field) for field in layout.fields}
        if layout.fresh_ms is not None:
            spans.add(layout.fresh_ms)
        self._spans = sorted(spans)
        ages = [*self._spans, self._spans[-1] + 1]
        self._statuses = [{field.name: self._status(field, age) for field in layout.fields} for age in ages]
        self._gone = [
            {at for at, status in enumerate(statuses.values()) if status == "expired"}
            for statuses in self._statuses
        ]
        self._empty = tuple(field.empty for field in layout.fields)
        statuses: dict[str, Status] = dict.fromkeys(layout.names, "missing")
        self._missing = PackedRead(layout.names, self._empty, statuses, None, None)

    def read(self, data: bytes | None, now_ms: int) -> PackedRead:
        found = None if data is None else self._decode(data)
        if found is None:
            return self._missing
        event_time_ms, _, values = found
        age = now_ms - event_time_ms
        band = bisect_left(self._spans, age)  # how many of the spans are shorter than the age
        gone = self._gone[band]
        if gone:
            values = tuple(self._empty[at] if at in gone else value for at, value in enumerate(values))
        return PackedRead(self._names, values, self._statuses[band], event_time_ms, age)

    def _decode(self, data: bytes) -> Unpacked | None:
        try:
            return self._codec.decode(data)
        except Unreadable as problem:
            self._count(problem.reason)
            return None

    def _status(self, field: PackedField, age_ms: int) -> Status:
        if age_ms > self._layout.field_ttl_ms(field):
            return "expired"
        fresh_ms = self._layout.fresh_ms
        return "stale" if fresh_ms is not None and age_ms > fresh_ms else "fresh"

    def _count(self, reason: str) -> None:
        UNREADABLE.labels(self._layout.view, reason).inc()


class _Forms:
    """The layouts met so far, made ready once."""

    def __init__(self) -> None:
        self._forms: dict[PackedLayout, _Form] = {}

    def of(self, layout: PackedLayout) -> _Form:
        form = self._forms.get(layout)
        if form is None:
            form = self._forms[layout] = _Form(layout)
        return form


class PackedReader:
    """The synchronous and the columnar reader; may be shared by threads if its values may.

    Both reads raise Unavailable while the store is away and InvalidInput for an entity that is no string.
    """

    def __init__(self, values: PackedValues, clock: Clock | None = None) -> None:
        self._values = values
        self._clock = clock or SystemClock()
        self._forms = _Forms()

    def read(self, layout: PackedLayout, tenant: str, entity: str) -> PackedRead:
        """The features of one entity now."""
        (data,) = self._values.get((layout.key(tenant, entity),))
        return self._forms.of(layout).read(data, to_millis(self._clock.now()))

    def read_batch(self, layout: PackedLayout, tenant: str, entities: Sequence[str]) -> pa.RecordBatch:
        """One row per entity, in order, an entity as often as it is asked for; columns as
        `features.online.packed_columns` says. One round trip."""
        data = self._values.get([layout.key(tenant, entity) for entity in entities])
        return self._forms.of(layout).columns.decode(data, to_millis(self._clock.now()))


class _Asked(NamedTuple):
    keys: Sequence[bytes]
    answer: "asyncio.Future[_Answer]"


class _Answer(NamedTuple):
    data: Sequence[bytes | None]
    at_ms: int


class AsyncPackedReader:
    """The reader for coroutines, of one event loop.

    All reads of one tick of the loop, of whatever layout and tenant, go out as one call; what is asked while
    a call is under way goes out with the next. A caller that is cancelled takes only itself away. An error
    reaches all who wait at that moment, those whose call has not begun included.

    keys_per_call: at most so many keys in one call. most_waiting: keys that may wait for an answer; a read
    beyond is refused with QueueFull.
    """

    def __init__(
        self,
        values: AsyncPackedValues,
        clock: Clock | None = None,
        *,
        keys_per_call: int = 512,
        most_waiting: int = 20_000,
    ) -> None:
        self._values = values
        self._clock = clock or SystemClock()
        self._forms = _Forms()
        self._keys_per_call = keys_per_call
        self._most_waiting = most_waiting
        self._waiting: deque[_Asked] = deque()
        self._held = 0
        self._sender: asyncio.Task[None] | None = None

    async def read(self, layout: PackedLayout, tenant: str, entity: str) -> PackedRead:
        """The features of one entity now. Raises Unavailable (also QueueFull), InvalidInput."""
        key = layout.key(tenant, entity)
        self._admit(1)
        (data,), at_ms = await self._enqueue((key,))
        return self._forms.of(layout).read(data, at_ms)

    async def read_batch(self, layout: PackedLayout, tenant: str, entities: Sequence[str]) -> pa.RecordBatch:
        """As `PackedReader.read_batch`; TooLarge for more entities than may wait."""
        if len(entities) > self._most_waiting:
            raise TooLarge(f"{len(entities)} entities", mend=f"ask for at most {self._most_waiting} at once")
        keys = [layout.key(tenant, entity) for entity in entities]
        self._admit(len(keys))
        size = self._keys_per_call
        parts = [self._enqueue(keys[at : at + size]) for at in range(0, len(keys), size)]
        answers = await asyncio.gather(*parts)
        data = [value for answer in answers for value in answer.data]
        return self._forms.of(layout).columns.decode(data, to_millis(self._clock.now()))

    def _admit(self, count: int) -> None:
        if self._held + count > self._most_waiting:
            raise QueueFull(
                f"{self._held} keys wait to be read", where="online store", mend="try again soon, or ask less"
            )

    def _enqueue(self, keys: Sequence[bytes]) -> "asyncio.Future[_Answer]":
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[_Answer] = loop.create_future()
        self._waiting.append(_Asked(keys, answer))
        self._held += len(keys)
        if self._sender is None:
            self._sender = loop.create_task(self._send(), name="packed reads")
        return answer

    async def _send(self) -> None:
        """One call after the other until nobody waits."""
        asked: list[_Asked] = []
        try:
            while asked := self._next():
                keys = [key for one in asked for key in one.keys]
                found = await self._values.get(keys)
                self._held -= len(keys)
                at_ms, begin = to_millis(self._clock.now()), 0
                for its_keys, answer in asked:
                    end = begin + len(its_keys)
                    if not answer.done():
                        answer.set_result(_Answer(found[begin:end], at_ms))
                    begin = end
        except Exception as error:
            for one in (*asked, *self._waiting):
                if not one.answer.done():
                    one.answer.set_exception(_own(error))
        finally:
            for one in (*asked, *self._waiting):
                one.answer.cancel()  # all are done, unless this task was cancelled
            self._waiting.clear()
            self._held = 0
            self._sender = None

    def _next(self) -> list[_Asked]:
        """Those for the next call; who went away is left out."""
        chosen: list[_Asked] = []
        room = self._keys_per_call
        while self._waiting and len(self._waiting[0].keys) <= room:
            one = self._waiting.popleft()
            if one.answer.done():
                self._held -= len(one.keys)
            else:
                chosen.append(one)
                room -= len(one.keys)
        return chosen


def _own(error: Exception) -> MillstreamError:
    """The error, made anew for each who waits: one that is raised in many places has no right traceback."""
    if isinstance(error, Unavailable):
        return Unavailable(error.what, where=error.where, mend=error.mend, code=error.code)
    own = InternalError(f"{type(error).__name__}: {error}", where="reads of the online store")
    own.__cause__ = error
    return own
