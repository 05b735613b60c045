"""Reading features of many entities and several views in one call, whatever the shape of the views.

    reading = FeatureReading.of(client, Readable(views, services))
    reads = reading.read("acme", reading.readable.features(["card_activity:count_1h"]), ["1-2-3"])
    reads.rows()[0].features["card_activity:count_1h"].value

Every feature comes with its value, event time, age and status (`features.online.status`); an entity that
nobody saw is `missing`, never an error. Rolling views are computed for the asked time (now, unless `at` is
given), with the request's own record if there is one; windowed views are as they are now.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

import msgspec
import pyarrow as pa
import redis
from redis.exceptions import RedisError

from core.clock import Clock, SystemClock
from core.errors import InvalidInput, QueueFull, Rejected, UnknownName
from features.online.layout import layout_of
from features.online.packed import PackedLayout
from features.online.packed_reader import AsyncPackedReader, PackedReader
from features.online.packed_redis import AsyncRedisPackedValues, RedisPackedValues, away
from features.online.reading_columns import joined, rolling_columns
from features.online.rolling import RollingStore
from features.online.selection import Entity, Readable, Selection, keys_of
from features.online.status import FeatureRead, Status
from features.view import FeatureView, Value
from features.windows import Rolling

MOST_WAITING = 20_000


class RollingReads(Protocol):
    """The online form of a rolling view (`features.online.rolling.RollingStore`, or the one in memory)."""

    def read(self, tenant: str, entity: str, at: datetime, own: Mapping[str, Any] | None) -> FeatureRead: ...

    def read_many(self, tenant: str, entities: Sequence[str], at: datetime) -> Sequence[FeatureRead]: ...


class FeatureValue(msgspec.Struct, frozen=True):
    """What a read says of one feature; `event_time` and `age_ms` are None where it is missing."""

    value: Value
    event_time: datetime | None
    age_ms: int | None
    status: Status


class EntityFeatures(msgspec.Struct, frozen=True):
    """The features of one entity, by `view:feature`; the entity as it was asked for."""

    entity: Entity
    features: dict[str, FeatureValue]


@dataclass(frozen=True)
class FeatureReads:
    """What was read, as of `at`: per view of the selection one read per entity, in order."""

    selection: Selection
    entities: Sequence[Entity]
    at: datetime
    reads: Sequence[Sequence[FeatureRead]]

    def rows(self) -> list[EntityFeatures]:
        """One per entity, in order."""
        found: list[dict[str, FeatureValue]] = [{} for _ in self.entities]
        for (view, names), reads in zip(self.selection, self.reads, strict=True):
            labels = [(name, f"{view.name}:{name}") for name in names]
            for features, read in zip(found, reads, strict=True):
                values, statuses, time, age = read.values, read.statuses, read.event_time, read.age_ms
                for name, label in labels:
                    features[label] = FeatureValue(values[name], time, age, statuses[name])
        return [
            EntityFeatures(entity, features) for entity, features in zip(self.entities, found, strict=True)
        ]


class _Views:
    """What both readers share: the views, by shape, and what may be asked of them."""

    def __init__(self, readable: Readable, stores: Mapping[str, RollingReads], clock: Clock) -> None:
        self.readable = readable
        self.clock = clock
        self._stores = stores
        self._layouts = {
            view.name: layout_of(view)
            for view in readable.views.values()
            if not isinstance(view.window, Rolling)
        }
        for name in readable.views:
            if name not in self._layouts and name not in stores:
                raise UnknownName("store of a rolling view", name, stores)

    def layout(self, view: FeatureView) -> PackedLayout | None:
        """None for a rolling view."""
        return self._layouts.get(view.name)

    def rolling(
        self,
        view: FeatureView,
        tenant: str,
        entities: Sequence[str],
        at: datetime,
        own: Mapping[str, Any] | None = None,
    ) -> Sequence[FeatureRead]:
        """Raises Unavailable while Redis is away."""
        store = self._stores[view.name]
        try:
            if own is None:
                return store.read_many(tenant, entities, at)
            return [store.read(tenant, entity, at, own) for entity in entities]
        except (RedisError, OSError) as error:
            raise away(error) from error

    def check(self, selection: Selection, entities: int, at: datetime | None, own: Any) -> datetime:
        """The asked time. Raises Rejected for one that a view cannot be read as of, InvalidInput for an own
        record that is not for one entity of rolling views or lacks a column."""
        now = self.clock.now()
        for view, _ in selection:
            if at is not None:
                _check_time(view, at, now)
            if own is not None:
                _check_own(view, own, entities)
        return now if at is None else at


class FeatureReading:
    """The synchronous reader; `stores` by view, of the rolling ones. May be shared by threads if the stores
    and values may.

    Reads raise Rejected for entities or a time that do not fit the views, InvalidInput for a record that does
    not, Unavailable while Redis is away.
    """

    def __init__(
        self,
        readable: Readable,
        stores: Mapping[str, RollingReads],
        packed: PackedReader,
        clock: Clock | None = None,
    ) -> None:
        self.readable = readable
        self._packed = packed
        self._views = _Views(readable, stores, clock or SystemClock())

    @classmethod
    def of(cls, client: redis.Redis, readable: Readable, clock: Clock | None = None) -> "FeatureReading":
        """The reader of the views in Redis."""
        packed = PackedReader(RedisPackedValues(client), clock)
        return cls(readable, rolling_stores(client, readable), packed, clock)

    def read(
        self,
        tenant: str,
        selection: Selection,
        entities: Sequence[Entity],
        *,
        at: datetime | None = None,
        own: Mapping[str, Any] | None = None,
    ) -> FeatureReads:
        """One round trip per view, for up to 256 entities of a rolling one.

        at: rolling views as of then; bounds as `_check_time` says. own: a record of the source of the asked
        views, all rolling, that counts at that time whether or not it is stored: its id and the view's
        columns; for one entity, whose it is.
        """
        keys = keys_of(selection, entities)
        when = self._views.check(selection, len(entities), at, own)
        reads: list[Sequence[FeatureRead]] = []
        for (view, _), mine in zip(selection, keys, strict=True):
            layout = self._views.layout(view)
            if layout is None:
                reads.append(self._views.rolling(view, tenant, mine, when, own))
            else:
                reads.append(self._packed.read_many(layout, tenant, mine))
        return FeatureReads(selection, entities, when, reads)

    def read_batch(
        self, tenant: str, selection: Selection, entities: Sequence[Entity], *, at: datetime | None = None
    ) -> pa.RecordBatch:
        """One row per entity, in order; columns as `features.online.reading_columns.joined` says."""
        keys = keys_of(selection, entities)
        when = self._views.check(selection, len(entities), at, None)
        parts: list[pa.RecordBatch] = []
        for (view, _), mine in zip(selection, keys, strict=True):
            layout = self._views.layout(view)
            if layout is None:
                parts.append(rolling_columns(view, self._views.rolling(view, tenant, mine, when)))
            else:
                parts.append(self._packed.read_batch(layout, tenant, mine))
        return joined(selection, keys, parts)


class AsyncFeatureReading:
    """The reader for coroutines, of one event loop; refusals as those of `FeatureReading`.

    Windowed views are read by `packed`, in one call per tick of the loop for all who read. Rolling views are
    read and computed in threads, by stores with a synchronous client.

    most_waiting: entities of rolling views that may wait for an answer; beyond, a read is refused with
    QueueFull.
    """

    def __init__(
        self,
        readable: Readable,
        stores: Mapping[str, RollingReads],
        packed: AsyncPackedReader,
        clock: Clock | None = None,
        *,
        most_waiting: int = MOST_WAITING,
    ) -> None:
        self.readable = readable
        self._packed = packed
        self._views = _Views(readable, stores, clock or SystemClock())
        self._most_waiting = most_waiting
        self._waiting = 0

    @classmethod
    def of(
        cls,
        client: redis.Redis,
        coroutine_client: "redis.asyncio.Redis",
        readable: Readable,
        clock: Clock | None = None,
    ) -> "AsyncFeatureReading":
        """The reader of the views in Redis."""
        packed = AsyncPackedReader(AsyncRedisPackedValues(coroutine_client), clock)
        return cls(readable, rolling_stores(client, readable), packed, clock)

    async def read(
        self, tenant: str, selection: Selection, entities: Sequence[Entity], *, at: datetime | None = None
    ) -> FeatureReads:
        """As `FeatureReading.read`, without an own record."""
        keys = keys_of(selection, entities)
        when = self._views.check(selection, len(entities), at, None)
        reads = await asyncio.gather(
            *(self._one(view, tenant, mine, when) for (view, _), mine in zip(selection, keys, strict=True))
        )
        return FeatureReads(selection, entities, when, reads)

    async def _one(
        self, view: FeatureView, tenant: str, entities: Sequence[str], at: datetime
    ) -> Sequence[FeatureRead]:
        layout = self._views.layout(view)
        if layout is not None:
            return await self._packed.read_many(layout, tenant, entities)
        if self._waiting + len(entities) > self._most_waiting:
            raise QueueFull(
                f"{self._waiting} entities wait to be read",
                where=view.where,
                mend="try again soon, or ask less",
            )
        self._waiting += len(entities)
        try:
            return await asyncio.to_thread(self._views.rolling, view, tenant, entities, at)
        finally:
            self._waiting -= len(entities)


def rolling_stores(client: redis.Redis, readable: Readable) -> dict[str, RollingStore]:
    """The stores in Redis of the rolling views among them, by name."""
    return {
        name: RollingStore(client, view)
        for name, view in readable.views.items()
        if isinstance(view.window, Rolling)
    }


def _check_time(view: FeatureView, at: datetime, now: datetime) -> None:
    """A windowed view has only its newest value. A rolling one keeps rows for its time to live, so that it
    can be read as of the past as far back as that exceeds its longest window, and not as of the future."""
    if not isinstance(view.window, Rolling):
        reason = "only rolling views can be read as of a time"
    elif at.tzinfo is None:
        reason = "has no time zone"
    else:
        back = view.ttl - view.windows[-1]
        if now - back <= at <= now:
            return
        reason = f"must be now or at most {back} ago"
    raise Rejected(
        f"{view.name} as of {at.isoformat()}",
        fields={"/as_of": reason},
        where=view.where,
        code="invalid_request",
    )


def _check_own(view: FeatureView, own: Mapping[str, Any], entities: int) -> None:
    if not isinstance(view.window, Rolling):
        raise InvalidInput("an own record", where=view.where, mend="only rolling views count it")
    if entities != 1:
        raise InvalidInput(
            f"an own record for {entities} entities", where=view.where, mend="it is one's: ask for that"
        )
    for name in ("id", *view.columns):
        if name not in own:
            raise InvalidInput(f"an own record without {name!r}", where=view.where, mend="give its columns")
