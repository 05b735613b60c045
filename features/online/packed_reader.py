"""Reading packed values: one at a time, from coroutines, and of many as lists or Arrow columns.

Every read says for each feature its value, event time, age and status (`features.online.status`):

    fresh     not older than the layout's `fresh_for`
    stale     older than that; the value is given all the same
    expired   older than the feature's own time to live: its empty value is given
    missing   nothing is there, or nothing that can be read (which is counted): its empty value is given

All of a value's features have its event time. A null that was written is a value.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec
import pyarrow as pa

from core.clock import Clock, SystemClock, from_millis, to_millis
from core.errors import InternalError, MillstreamError, QueueFull, TooLarge, Unavailable
from core.telemetry.metrics import counter
from features.online.packed import PackedLayout, Value
from features.online.packed_bands import AgeBands
from features.online.packed_codec import PackedCodec, Unreadable, version_of
from features.online.packed_columns import PackedColumns
from features.online.packed_values import AsyncPackedValues, PackedValues
from features.online.status import Status

UNREADABLE = counter(
    "online_packed_unreadable_total",
    "Values in the online store that read as missing: of another layout (fingerprint), or damaged",
    ["view", "reason"],
)


class PackedRead(msgspec.Struct, frozen=True, eq=False):
    """One entity's features of one view. `event_time_ms` and `age_ms` are None when it is missing; an event
    time ahead of the clock gives a negative age.

    The value is checked when it is read and unpacked when it is asked for, each time anew: keep what
    `values` gives.
    """

    _form: "_Form"
    _found: bytes | tuple[Value, ...]
    _band: int
    event_time_ms: int | None
    age_ms: int | None

    @property
    def values(self) -> dict[str, Value]:
        """By feature, in the order of the layout."""
        return self._form.values(self._found, self._band)

    @property
    def statuses(self) -> dict[str, Status]:
        """By feature, in the order of the layout."""
        return self._form.statuses(self._band).copy()

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


class PackedLists(msgspec.Struct, frozen=True, eq=False):
    """Many entities' features of one view. Every list has one place per entity, in order; what is said of
    each is what `PackedRead` says of one."""

    _form: "_Form"
    values: dict[str, list[Value]]
    """By feature, in the order of the layout."""
    event_times_ms: Sequence[int | None]
    ages_ms: Sequence[int | None]
    _bands: list[int]

    @property
    def statuses(self) -> dict[str, list[Status]]:
        """By feature, in the order of the layout."""
        told = [self._form.statuses(band) for band in self._bands]
        return {name: [statuses[name] for statuses in told] for name in self.values}


class _Form:
    """A layout, made ready for reading."""

    def __init__(self, layout: PackedLayout) -> None:
        self._layout = layout
        self._codec = PackedCodec(layout)
        self._strings = bool(self._codec.strings)
        # a dictionary of many names is made twice as fast from a struct as from pairs
        self._named = msgspec.defstruct("Values", [(name, Value) for name in layout.names])
        self._bands = AgeBands(layout)
        self.columns = PackedColumns(self._codec, self._bands, self._count)
        self._missing = PackedRead(self, (), self._bands.missing, None, None)

    def read(self, data: bytes | None, now_ms: int) -> PackedRead:
        if data is None:
            return self._missing
        codec = self._codec
        try:
            codec.check(data)
            found = codec.unpack(data) if self._strings else data
        except Unreadable as problem:
            self._count(problem.reason)
            return self._missing
        event_time_ms, _ = version_of(data)
        age = now_ms - event_time_ms
        return PackedRead(self, found, self._bands.of(age), event_time_ms, age)

    def lists(self, values: Sequence[bytes | None], now_ms: int) -> PackedLists:
        whole = None
        if values and not self._strings and None not in values:
            whole = self._codec.unpack_joined(b"".join(values), len(values))  # type: ignore[arg-type]  # no None
        if whole is not None:
            times, columns = whole
            ages = [now_ms - time for time in times]
            oldest = self._bands.of(max(ages))
            if not self._bands.empty[oldest]:
                one = self._bands.of(min(ages)) == oldest
                bands = [oldest] * len(ages) if one else [self._bands.of(age) for age in ages]
                by_name = msgspec.structs.asdict(self._named(*columns))
                return PackedLists(self, by_name, times, ages, bands)
        reads = [self.read(data, now_ms) for data in values]
        named = [read.values for read in reads]
        return PackedLists(
            self,
            {name: [values[name] for values in named] for name in self._layout.names},
            [read.event_time_ms for read in reads],
            [read.age_ms for read in reads],
            [read._band for read in reads],
        )

    def values(self, found: bytes | tuple[Value, ...], band: int) -> dict[str, Value]:
        empty = self._bands.empty[band]
        if len(empty) == len(self._layout.names):
            return empty.copy()
        values = self._codec.unpack(found) if isinstance(found, bytes) else found
        named = msgspec.structs.asdict(self._named(*values))
        return named | empty if empty else named

    def statuses(self, band: int) -> dict[str, Status]:
        return self._bands.statuses[band]

    def _count(self, reason: str) -> None:
        UNREADABLE.labels(self._layout.view, reason).inc()


class _Forms(dict[PackedLayout, _Form]):
    """The layouts met so far, made ready once."""

    def __missing__(self, layout: PackedLayout) -> _Form:
        form = self[layout] = _Form(layout)
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
        return self._forms[layout].read(data, to_millis(self._clock.now()))

    def read_many(self, layout: PackedLayout, tenant: str, entities: Sequence[str]) -> list[PackedRead]:
        """The features of each entity now, in their order. One round trip."""
        data = self._values.get(layout.keys(tenant, entities))
        now_ms, form = to_millis(self._clock.now()), self._forms[layout]
        return [form.read(value, now_ms) for value in data]

    def read_lists(self, layout: PackedLayout, tenant: str, entities: Sequence[str]) -> PackedLists:
        """The features of each entity now, by feature: for a few dozen entities the quickest. One round
        trip."""
        data = self._values.get(layout.keys(tenant, entities))
        return self._forms[layout].lists(data, to_millis(self._clock.now()))

    def read_batch(self, layout: PackedLayout, tenant: str, entities: Sequence[str]) -> pa.RecordBatch:
        """One row per entity, in order, an entity as often as it is asked for; columns as
        `features.online.packed_columns` says. One round trip."""
        data = self._values.get(layout.keys(tenant, entities))
        return self._forms[layout].columns.decode(data, to_millis(self._clock.now()))


class _One(msgspec.Struct):
    """Who waits for one value."""

    key: bytes
    form: _Form
    answer: "asyncio.Future[PackedRead]"


class _Part(msgspec.Struct):
    """A batch, or a part of one, that waits for its values."""

    keys: Sequence[bytes]
    answer: "asyncio.Future[Sequence[bytes | None]]"


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
        keys_per_call: int = 256,
        most_waiting: int = 20_000,
    ) -> None:
        self._values = values
        self._clock = clock or SystemClock()
        self._forms = _Forms()
        self._keys_per_call = keys_per_call
        self._most_waiting = most_waiting
        self._waiting: deque[_One | _Part] = deque()
        self._held = 0
        self._sender: asyncio.Task[None] | None = None

    async def read(self, layout: PackedLayout, tenant: str, entity: str) -> PackedRead:
        """The features of one entity now. Raises Unavailable (also QueueFull), InvalidInput."""
        key = layout.key(tenant, entity)
        self._admit(1)
        answer: asyncio.Future[PackedRead] = asyncio.get_running_loop().create_future()
        self._waiting.append(_One(key, self._forms[layout], answer))
        return await answer

    async def read_many(self, layout: PackedLayout, tenant: str, entities: Sequence[str]) -> list[PackedRead]:
        """As `PackedReader.read_many`; TooLarge for more entities than may wait."""
        data = await self._values_of(layout, tenant, entities)
        now_ms, form = to_millis(self._clock.now()), self._forms[layout]
        return [form.read(value, now_ms) for value in data]

    async def read_batch(self, layout: PackedLayout, tenant: str, entities: Sequence[str]) -> pa.RecordBatch:
        """As `PackedReader.read_batch`; TooLarge for more entities than may wait."""
        data = await self._values_of(layout, tenant, entities)
        return self._forms[layout].columns.decode(data, to_millis(self._clock.now()))

    async def _values_of(
        self, layout: PackedLayout, tenant: str, entities: Sequence[str]
    ) -> list[bytes | None]:
        if len(entities) > self._most_waiting:
            raise TooLarge(f"{len(entities)} entities", mend=f"ask for at most {self._most_waiting} at once")
        keys = layout.keys(tenant, entities)
        self._admit(len(keys))
        loop, size = asyncio.get_running_loop(), self._keys_per_call
        parts = [_Part(keys[at : at + size], loop.create_future()) for at in range(0, len(keys), size)]
        self._waiting.extend(parts)
        answers = await asyncio.gather(*(part.answer for part in parts))
        return [value for answer in answers for value in answer]

    def _admit(self, count: int) -> None:
        """Make room for so many keys, which the caller puts in the queue before it waits for anything."""
        if self._held + count > self._most_waiting:
            raise QueueFull(
                f"{self._held} keys wait to be read", where="online store", mend="try again soon, or ask less"
            )
        self._held += count
        if self._sender is None:
            self._sender = asyncio.get_running_loop().create_task(self._send(), name="packed reads")

    async def _send(self) -> None:
        """One call after the other until nobody waits."""
        asked: list[_One | _Part] = []
        try:
            while self._waiting:
                asked, keys = self._next()
                found = await self._values.get(keys)
                self._held -= len(keys)
                self._answer(asked, found)
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

    def _next(self) -> tuple[list[_One | _Part], list[bytes]]:
        """Those for the next call, and their keys; who went away is left out."""
        asked: list[_One | _Part] = []
        keys: list[bytes] = []
        waiting, most = self._waiting, self._keys_per_call
        while waiting and len(keys) < most:
            one = waiting.popleft()
            if isinstance(one, _One):
                if one.answer.done():
                    self._held -= 1
                    continue
                keys.append(one.key)
            elif one.answer.done():
                self._held -= len(one.keys)
                continue
            elif len(keys) + len(one.keys) > most:
                waiting.appendleft(one)
                break
            else:
                keys += one.keys
            asked.append(one)
        return asked, keys

    def _answer(self, asked: Sequence[_One | _Part], found: Sequence[bytes | None]) -> None:
        now_ms, at = to_millis(self._clock.now()), 0
        for one in asked:
            if isinstance(one, _One):
                if not one.answer.done():
                    one.answer.set_result(one.form.read(found[at], now_ms))
                at += 1
            else:
                if not one.answer.done():
                    one.answer.set_result(found[at : at + len(one.keys)])
                at += len(one.keys)


def _own(error: Exception) -> MillstreamError:
    """The error, made anew for each who waits: one that is raised in many places has no right traceback."""
    if isinstance(error, Unavailable):
        return Unavailable(error.what, where=error.where, mend=error.mend, code=error.code)
    own = InternalError(f"{type(error).__name__}: {error}", where="reads of the online store")
    own.__cause__ = error
    return own
