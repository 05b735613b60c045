"""The online store against the Feast SDK with Feast's own Redis store, on one Redis: 48 double features.

    read_1, read_10, read_100  median time of a read of so many entities, each time others, to the same form:
                               values by name of 1 and 10, an Arrow table of 100. Feast's
                               `get_online_features(...).to_dict()` or `.to_arrow()` over ours
    coalesced_reads            reads a second of 128 coroutines: ours over one GET each with redis.asyncio,
                               which is left to unpack nothing
    write                      entities a second made readable, 1,000 at a time: ours, compare-and-set
                               included, over Feast's `write_to_online_store` of a ready data frame

Feast has the shorter key (no tenant) and its registry in memory, from a file. What its reads take before the
answer is turned into a dictionary or table is among the figures. The cores are kept awake (see
`bench.harness.awake`).
"""

import asyncio
import itertools
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import feast
import pandas as pd
import pyarrow as pa
import redis
import redis.asyncio
from feast.types import Float64, String
from feast.value_type import ValueType

from bench.features_goals import GOALS
from bench.harness import (
    BenchResult,
    Measure,
    Ratio,
    awake,
    compare,
    control,
    require_equal,
    typical,
    versions,
)
from bench.own_redis import own_redis
from bench.registry import text
from core.settings import LOOPBACK
from features.online.layout import layout_of
from features.online.packed import Value
from features.online.packed_codec import PackedCodec
from features.online.packed_reader import AsyncPackedReader, PackedReader
from features.online.packed_redis import AsyncRedisPackedValues, RedisPackedValues
from features.online.packed_writer import PackedRow, PackedWriter
from features.online.rolling import RollingStore
from features.view import Count, Feature, FeatureView, Mean, Sum, Tumbling
from schemas.record import Record, record

FEATURES, ENTITIES, WRITTEN, COROUTINES = 48, 2_000, 1_000, 128
TENANT = "acme"
RECENT_ROWS = 50
_EACH = 40
"""Reads of one coroutine in one measurement."""
_READS = {1: 200, 10: 60, 100: 15}
"""Reads in one measurement, by entities."""


@record(entity="device", time="measured_at", namespace="millstream.bench")
class Measurement(Record, frozen=True, kw_only=True):
    """What a device measured."""

    device: str
    measured_at: datetime
    value: float
    count: int


NAMES = tuple(f"mean_{number}" for number in range(FEATURES))
WINDOWED = FeatureView(
    name="device_means",
    version=1,
    source=Measurement,
    entity="device",
    disorder=timedelta(seconds=1),
    features=tuple(Feature(name, Mean("value"), unit="degrees") for name in NAMES),
    ttl=timedelta(days=1),
    window=Tumbling(timedelta(minutes=1)),
)
LAYOUT = layout_of(WINDOWED)
ROLLING = FeatureView(
    name="device_activity",
    version=1,
    source=Measurement,
    entity="device",
    disorder=timedelta(seconds=1),
    features=tuple(
        feature
        for minutes in (10, 60)
        for feature in (
            Feature(f"rows_{minutes}m", Count(over=timedelta(minutes=minutes)), unit="rows", empty=0),
            Feature(f"sum_{minutes}m", Sum("count", over=timedelta(minutes=minutes)), unit="", empty=0),
            Feature(f"mean_{minutes}m", Mean("count", over=timedelta(minutes=minutes)), unit=""),
        )
    ),
    ttl=timedelta(hours=2),
)

Rows = list[tuple[str, list[float]]]
Asked = TypeVar("Asked")


def bench() -> BenchResult:
    """See the module."""
    rng = random.Random(20_260_301)
    rows: Rows = [(f"device-{n}", [rng.uniform(-1e3, 1e3) for _ in NAMES]) for n in range(ENTITIES)]
    with (
        awake(),
        own_redis() as port,
        _peer(port) as peer,
        redis.Redis(port=port, socket_timeout=10.0) as client,
    ):
        values = RedisPackedValues(client)
        writer, reader = PackedWriter(values, LAYOUT), PackedReader(values)
        now = datetime.now(UTC).replace(microsecond=0)
        writer.write(_packed(rows, now))
        peer.write_to_online_store("device_means", _frame(rows, now))
        ratios = [_read(reader, peer, count) for count in _READS]
        ratios.append(_coalesced(port, reader, [device for device, _ in rows]))
        ours, theirs = _writes(writer, peer, rows[:WRITTEN], now)
        _compare_written(reader, peer, rows[:WRITTEN])
        ratios.append(
            compare(
                "write",
                numerator=theirs,
                denominator=ours,
                goal=GOALS["write"].bound,
                meaning="time to make 1,000 entities readable: Feast's writing over ours",
            )
        )
        _compare_written(reader, peer, rows[:WRITTEN])
        figures = {f"read of {count} ours ms": _ours(reader, count) for count in _READS}
        figures |= {f"read of {count} Feast ms": _theirs(peer, count) for count in _READS}
        figures |= {
            f"read of {count} Feast, its answer ms": _theirs(peer, count, turned=False) for count in _READS
        }
        return BenchResult(
            bench="features-online",
            ratios=ratios,
            versions=versions(("feast", "redis", "hiredis", "pyarrow"), server=_server(client)),
            sizes={
                "entities": ENTITIES,
                "features": FEATURES,
                "bytes per value": client.strlen(LAYOUT.key(TENANT, "device-0")),
                "recent rows": RECENT_ROWS,
            },
            figures={name: typical(measure) * 1e3 for name, measure in figures.items()}
            | {
                "write ours entities/s": WRITTEN / typical(ours),
                "write Feast entities/s": WRITTEN / typical(theirs),
                "rolling read ms (goal 0.4)": typical(_rolling(client)) * 1e3,
            },
            control=control(_ours(reader, 1)),
        )


@contextmanager
def _peer(port: int) -> Iterator[feast.FeatureStore]:
    with tempfile.TemporaryDirectory(prefix="millstream-bench-") as folder:
        store = feast.FeatureStore(
            config=feast.RepoConfig(
                project="bench",
                provider="local",
                registry=str(Path(folder) / "registry.db"),
                online_store={"type": "redis", "connection_string": f"{LOOPBACK}:{port}"},
                entity_key_serialization_version=3,
            )
        )
        device = feast.Entity(name="device", value_type=ValueType.STRING)
        view = feast.FeatureView(
            name="device_means",
            entities=[device],
            schema=[
                feast.Field(name="device", dtype=String),
                *(feast.Field(name=name, dtype=Float64) for name in NAMES),
            ],
            ttl=WINDOWED.ttl,
            source=feast.FileSource(path=str(Path(folder) / "none.parquet"), timestamp_field="at"),
        )
        store.apply([device, view])
        yield store


def _packed(rows: Rows, at: datetime) -> list[PackedRow]:
    at_ms = round(at.timestamp() * 1000)
    return [PackedRow(TENANT, device, at_ms, 0, values) for device, values in rows]


def _frame(rows: Rows, at: datetime) -> pd.DataFrame:
    frame = pd.DataFrame([values for _, values in rows], columns=NAMES)
    frame["device"] = [device for device, _ in rows]
    frame["at"] = at
    return frame


def _read(reader: PackedReader, peer: feast.FeatureStore, count: int) -> Ratio:
    devices = _devices(count, seed=0)[0]
    found = peer.get_online_features(_REFERENCES, [{"device": one} for one in devices]).to_dict()
    ours = _columns(reader.read_batch(LAYOUT, TENANT, devices))
    require_equal(f"values of {count} entities", ours, {name: found[name] for name in NAMES})
    require_equal(f"lists of {count}", ours, reader.read_lists(LAYOUT, TENANT, devices).values)
    named = [read.values for read in reader.read_many(LAYOUT, TENANT, devices)]
    require_equal(f"values by name of {count}", ours, {name: [one[name] for one in named] for name in NAMES})
    tabled = peer.get_online_features(_REFERENCES, [{"device": one} for one in devices]).to_arrow()
    require_equal(f"columns of {count} entities", ours, {n: tabled.column(n).to_pylist() for n in NAMES})
    return compare(
        f"read_{count}",
        numerator=_theirs(peer, count),
        denominator=_ours(reader, count),
        goal=GOALS[f"read_{count}"].bound,
        meaning=f"median read of {count} x {FEATURES}: Feast SDK on its Redis store over ours",
    )


_REFERENCES = [f"device_means:{name}" for name in NAMES]


_COLUMNAR_FROM = 32
"""From so many entities on both sides give Arrow's columns; below, values by name, as services read them."""


def _devices(count: int, *, seed: int) -> list[list[str]]:
    rng = random.Random(seed)
    return [[f"device-{rng.randrange(ENTITIES)}" for _ in range(count)] for _ in range(_READS[count])]


def _columns(batch: pa.RecordBatch) -> dict[str, list[float]]:
    return {name: batch.column(name).to_pylist() for name in NAMES}


def _ours(reader: PackedReader, count: int) -> Measure:
    asked = _devices(count, seed=1)

    def one(devices: list[str]) -> object:
        return reader.read(LAYOUT, TENANT, devices[0]).values

    def few(devices: list[str]) -> object:
        return reader.read_lists(LAYOUT, TENANT, devices).values

    def many(devices: list[str]) -> object:
        return reader.read_batch(LAYOUT, TENANT, devices)

    return _median(one if count == 1 else few if count < _COLUMNAR_FROM else many, asked)


def _theirs(peer: feast.FeatureStore, count: int, *, turned: bool = True) -> Measure:
    asked = [[{"device": one} for one in many] for many in _devices(count, seed=1)]

    def read(rows: list[dict[str, str]]) -> object:
        answer = peer.get_online_features(_REFERENCES, rows)
        if not turned:
            return answer
        return answer.to_dict() if count < _COLUMNAR_FROM else answer.to_arrow()

    return _median(read, asked)


def _median(call: Callable[[Asked], object], asked: Sequence[Asked]) -> Measure:
    """The median wall seconds of a call, over all that is asked."""

    def measure() -> float:
        took = []
        for one in asked:
            begun = time.perf_counter()
            call(one)
            took.append(time.perf_counter() - begun)
        return statistics.median(took)

    return measure


def _coalesced(port: int, reader: PackedReader, devices: Sequence[str]) -> Ratio:
    keys = {device: LAYOUT.key(TENANT, device) for device in devices}
    shares = [list(itertools.islice(itertools.cycle(devices), at, at + _EACH)) for at in range(COROUTINES)]

    async def through(read: Callable[[str], Awaitable[object]]) -> float:
        async def one(share: Sequence[str]) -> None:
            for device in share:
                await read(device)

        await asyncio.gather(*(one(share[:1]) for share in shares))  # connects
        begun = time.perf_counter()
        await asyncio.gather(*(one(share) for share in shares))
        return time.perf_counter() - begun

    async def coalesced() -> float:
        async with redis.asyncio.Redis(port=port, socket_timeout=10.0) as client:
            many = AsyncPackedReader(AsyncRedisPackedValues(client, timeout_s=10.0))
            return await through(lambda device: many.read(LAYOUT, TENANT, device))

    async def plain() -> float:
        async with redis.asyncio.Redis(port=port, socket_timeout=10.0) as client:
            return await through(lambda device: client.get(keys[device]))

    async def both(device: str) -> tuple[dict[str, Value], dict[str, Value]]:
        async with redis.asyncio.Redis(port=port, socket_timeout=10.0) as client:
            many = AsyncPackedReader(AsyncRedisPackedValues(client, timeout_s=10.0))
            data = await client.get(keys[device])
            plainly = dict(zip(NAMES, PackedCodec(LAYOUT).unpack(data), strict=True))
            return (await many.read(LAYOUT, TENANT, device)).values, plainly

    for device in devices[:20]:
        ours, theirs = asyncio.run(both(device))
        require_equal("coalesced values", ours, theirs)
    return compare(
        "coalesced_reads",
        numerator=lambda: asyncio.run(plain()),
        denominator=lambda: asyncio.run(coalesced()),
        goal=GOALS["coalesced_reads"].bound,
        meaning=f"time of {COROUTINES * _EACH} reads of {COROUTINES} coroutines: plain GETs over ours",
    )


def _writes(
    writer: PackedWriter, peer: feast.FeatureStore, rows: Rows, begin: datetime
) -> tuple[Measure, Measure]:
    """Each call writes the rows anew, a second later than the call before, so that none is left out."""
    ours_at, theirs_at = itertools.count(1), itertools.count(1)

    def ours() -> float:
        given = _packed(rows, begin + timedelta(seconds=next(ours_at)))
        begun = time.perf_counter()
        outcomes = writer.write(given)
        took = time.perf_counter() - begun
        require_equal("rows written", set(outcomes), {"written"})
        return took

    def theirs() -> float:
        frame = _frame(rows, begin + timedelta(seconds=next(theirs_at)))
        begun = time.perf_counter()
        peer.write_to_online_store("device_means", frame)
        return time.perf_counter() - begun

    return ours, theirs


def _compare_written(reader: PackedReader, peer: feast.FeatureStore, rows: Rows) -> None:
    devices = [device for device, _ in rows]
    found = peer.get_online_features(_REFERENCES, [{"device": one} for one in devices]).to_dict()
    written = {name: [values[at] for _, values in rows] for at, name in enumerate(NAMES)}
    require_equal("values written", _columns(reader.read_batch(LAYOUT, TENANT, devices)), written)
    require_equal("values written by Feast", {name: found[name] for name in NAMES}, written)


def _rolling(client: redis.Redis) -> Measure:
    """The median read of entities with 50 rows within the hour, all of them younger than 10 minutes."""
    store, now = RollingStore(client, ROLLING), datetime.now(UTC)
    devices = [f"device-{n}" for n in range(100)]
    ages = [timedelta(seconds=10 * n) for n in range(RECENT_ROWS)]
    for device in devices:
        store.write(
            pa.RecordBatch.from_pydict(
                {
                    "tenant": [TENANT] * RECENT_ROWS,
                    "id": [f"{device}-{n}" for n in range(RECENT_ROWS)],
                    "device": [device] * RECENT_ROWS,
                    "measured_at": pa.array([now - age for age in ages], pa.timestamp("ms", tz="UTC")),
                    "count": list(range(RECENT_ROWS)),
                }
            )
        )
    found = store.read(TENANT, devices[0], now).values
    require_equal("rows within the hour", found["rows_60m"], RECENT_ROWS)
    require_equal("their sum", found["sum_60m"], sum(range(RECENT_ROWS)))
    return _median(lambda device: store.read(TENANT, device, datetime.now(UTC)), devices)


def _server(client: redis.Redis) -> str:
    told: Any = client.info("server")
    return f"Redis {told['redis_version']}"


if __name__ == "__main__":
    sys.stdout.write(text(bench()))
