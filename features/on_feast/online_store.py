"""Our online store for Feast: its SDK, `feast serve`, `feast materialize` and push, on the keys and values
that the stream writes and the gateway reads.

    online_store:
        type: features.on_feast.online_store.MillstreamOnlineStore
        url: redis://redis:6379/0     # left out: the address of Millstream's settings

Reading: a windowed value that is missing or older than its time to live is null (Feast knows no empty values;
the field's tag `empty` says what it counts as); a stale one is given; a null that was written is a null that
is present. Rolling views are computed as of now: a window without events reads as its empty value, and only
an entity that nobody has seen is null.

Writing, windowed views only: compare-and-set on (event time, sequence), as every writer of ours does. Feast
keeps a row's event time in microseconds and no sequence: the store takes the whole milliseconds for the end
of the window and what is left of a millisecond, 0 to 999, for the sequence. The order is the same. A row
that is older than what is there, or differs at the same time, changes nothing.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, Literal

import pyarrow as pa
import redis
import redis.asyncio
from feast import Entity, FeatureView, RepoConfig
from feast.infra.online_stores.online_store import OnlineStore
from feast.infra.supported_async_methods import SupportedAsyncMethods
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value as FeastValue
from feast.repo_config import FeastConfigBaseModel
from pydantic import Field, StrictStr
from redis.exceptions import RedisError

from core.clock import Clock, SystemClock
from core.errors import InvalidInput
from core.settings import Redis, Settings, settings
from features.kinds import ValueKind
from features.on_feast.forms import FORM, PackedForm, RollingForm, parse_form
from features.on_feast.values import FeastRow, key_of, packed_rows, rolling_row, value_of, version_of
from features.online.client import connect, connect_async
from features.online.packed import PackedLayout
from features.online.packed_reader import AsyncPackedReader, PackedReader
from features.online.packed_redis import AsyncRedisPackedValues, RedisPackedValues, away
from features.online.packed_writer import PackedRow, PackedWriter
from features.online.rolling import RollingStore

_DELETED_AT_ONCE = 1_000

Given = tuple[EntityKey, dict[str, FeastValue], datetime, datetime | None]
"""A row to write: its key, its features, its event time (without a zone: UTC), when it was made."""


class MillstreamOnlineStoreConfig(FeastConfigBaseModel):
    """The section `online_store` of a feature_store.yaml."""

    type: Literal["features.on_feast.online_store.MillstreamOnlineStore"] = (
        "features.on_feast.online_store.MillstreamOnlineStore"
    )
    url: StrictStr | None = Field(None, description="Redis; None: the address of Millstream's settings")


@dataclass(frozen=True)
class _Packed:
    """A windowed view, ready to be read and written."""

    entity: tuple[str, ...]
    layout: PackedLayout
    writer: PackedWriter

    @cached_property
    def kinds(self) -> dict[str, ValueKind]:
        return {field.name: field.kind for field in self.layout.fields}


@dataclass(frozen=True)
class _Rolling:
    """A rolling view, ready to be read."""

    entity: tuple[str, ...]
    store: RollingStore

    @cached_property
    def kinds(self) -> dict[str, ValueKind]:
        view = self.store.view
        return {feature.name: view.kind(feature) for feature in view.features}


class MillstreamOnlineStore(OnlineStore):
    """Feast makes it without arguments and gives its configuration with every call, the same each time.

    Raises Unavailable while Redis is away, InvalidInput for keys and rows that cannot be stored.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._tables: dict[str, _Packed | _Rolling] = {}
        self._client: redis.Redis | None = None
        self._reader: PackedReader | None = None
        self._coroutines: tuple[asyncio.AbstractEventLoop, redis.asyncio.Redis, AsyncPackedReader] | None
        self._coroutines = None

    @property
    def async_supported(self) -> SupportedAsyncMethods:
        return SupportedAsyncMethods(read=True, write=True)

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[FeastRow]:
        """One row per key, in order. Windowed: one round trip per tenant. Rolling: one per key."""
        found = self._table(config, table)
        kinds = _kinds(found, table, requested_features)
        keys = [key_of(key, found.entity, where=table.name) for key in entity_keys]
        if isinstance(found, _Rolling):
            return self._read_rolling(found, keys, kinds)
        reader = self._packed_reader(config)
        batches = {
            tenant: reader.read_batch(found.layout, tenant, [keys[at][1] for at in places])
            for tenant, places in _by_tenant(keys).items()
        }
        return _in_order(keys, batches, kinds)

    async def online_read_async(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[FeastRow]:
        """As `online_read`; windowed reads of one tick of the event loop share a round trip."""
        found = self._table(config, table)
        kinds = _kinds(found, table, requested_features)
        keys = [key_of(key, found.entity, where=table.name) for key in entity_keys]
        if isinstance(found, _Rolling):
            return await asyncio.to_thread(self._read_rolling, found, keys, kinds)
        reader = self._coroutine_reader(config)
        places = _by_tenant(keys)
        batches = await asyncio.gather(
            *(
                reader.read_batch(found.layout, tenant, [keys[at][1] for at in there])
                for tenant, there in places.items()
            )
        )
        return _in_order(keys, dict(zip(places, batches, strict=True)), kinds)

    def online_write_batch(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[Given],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Done when Redis has answered. Rows that cannot be stored are left out, and the first of them is
        raised when all others are written."""
        found = self._table(config, table)
        if isinstance(found, _Rolling):
            raise InvalidInput(
                f"{table.name} is a rolling view: its values are computed when they are read",
                where="Feast online store",
                mend="write its events to the source topic; the stream keeps the recent rows",
            )
        names = found.layout.names
        rows = [
            PackedRow(
                *key_of(key, found.entity, where=table.name),
                *version_of(event_time),
                [value_of(values.get(name)) for name in names],
            )
            for key, values, event_time, _ in data
        ]
        outcomes = found.writer.write(rows)
        if progress is not None:
            progress(len(data))
        refused = [outcome for outcome in outcomes if isinstance(outcome, InvalidInput)]
        if refused:
            first = refused[0]
            raise InvalidInput(
                f"{len(refused)} of {len(rows)} rows cannot be stored: {first.what}",
                where=first.where,
                mend=first.mend,
            )

    async def online_write_batch_async(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[Given],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """As `online_write_batch`, in a thread."""
        await asyncio.to_thread(self.online_write_batch, config, table, data, progress)

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],
        entities_to_delete: Sequence[Entity],
        entities_to_keep: Sequence[Entity],
        partial: bool,
    ) -> None:
        """Deletes the values of views that were taken out of the registry: of their version, no other."""
        for table in tables_to_delete:
            self._delete(config, table)

    def teardown(self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]) -> None:
        """Deletes the values of these views."""
        for table in tables:
            self._delete(config, table)

    async def close(self) -> None:
        """Closes the connections of coroutine reads."""
        if self._coroutines is not None:
            _, client, _ = self._coroutines
            self._coroutines = None
            await client.aclose()

    def _read_rolling(
        self, found: _Rolling, keys: Sequence[tuple[str, str]], kinds: dict[str, ValueKind]
    ) -> list[FeastRow]:
        now = self._clock.now()
        try:
            return [rolling_row(found.store.read(tenant, entity, now), kinds) for tenant, entity in keys]
        except (RedisError, OSError) as problem:
            raise away(problem) from problem

    def _delete(self, config: RepoConfig, table: FeatureView) -> None:
        form = _form(table)
        name, version = (
            (form.view, form.version)
            if isinstance(form, PackedForm)
            else (form.meaning["name"], form.meaning["version"])
        )
        client = self._redis(config)
        try:
            held: list[bytes] = []
            for key in client.scan_iter(f"ms:{name}:{version}:*", count=_DELETED_AT_ONCE):
                held.append(key)
                if len(held) == _DELETED_AT_ONCE:
                    client.unlink(*held)
                    held.clear()
            if held:
                client.unlink(*held)
        except (RedisError, OSError) as problem:
            raise away(problem) from problem

    def _table(self, config: RepoConfig, table: FeatureView) -> _Packed | _Rolling:
        text = table.tags.get(FORM, "")
        found = self._tables.get(text)
        if found is None:
            form = _form(table)
            if isinstance(form, RollingForm):
                found = _Rolling(form.entity, RollingStore(self._redis(config), form.view))
            else:
                values = RedisPackedValues(self._redis(config))
                found = _Packed(form.entity, form.layout, PackedWriter(values, form.layout))
            self._tables[text] = found
        return found

    def _redis(self, config: RepoConfig) -> redis.Redis:
        if self._client is None:
            self._client = connect(_settings(config))
        return self._client

    def _packed_reader(self, config: RepoConfig) -> PackedReader:
        if self._reader is None:
            self._reader = PackedReader(RedisPackedValues(self._redis(config)), self._clock)
        return self._reader

    def _coroutine_reader(self, config: RepoConfig) -> AsyncPackedReader:
        loop = asyncio.get_running_loop()
        if self._coroutines is None or self._coroutines[0] is not loop:
            client = connect_async(_settings(config))
            reader = AsyncPackedReader(AsyncRedisPackedValues(client), self._clock)
            self._coroutines = (loop, client, reader)
        return self._coroutines[2]


def _settings(config: RepoConfig) -> Settings:
    url = config.online_store.url
    return settings() if url is None else settings().model_copy(update={"redis": Redis(url=url)})


def _form(table: FeatureView) -> PackedForm | RollingForm:
    if FORM not in table.tags:
        raise InvalidInput(
            f"{table.name} was not declared with Millstream",
            where="Feast online store",
            mend="declare it as a FeatureView of features.view and apply that",
        )
    return parse_form(table.tags[FORM])


def _kinds(
    found: _Packed | _Rolling, table: FeatureView, requested: Sequence[str] | None
) -> dict[str, ValueKind]:
    names = [field.name for field in table.features] if requested is None else requested
    return {name: found.kinds[name] for name in names}


def _by_tenant(keys: Sequence[tuple[str, str]]) -> dict[str, list[int]]:
    places: defaultdict[str, list[int]] = defaultdict(list)
    for at, (tenant, _) in enumerate(keys):
        places[tenant].append(at)
    return places


def _in_order(
    keys: Sequence[tuple[str, str]], batches: dict[str, pa.RecordBatch], kinds: dict[str, ValueKind]
) -> list[FeastRow]:
    rows = {tenant: iter(packed_rows(batch, kinds)) for tenant, batch in batches.items()}
    return [next(rows[tenant]) for tenant, _ in keys]
