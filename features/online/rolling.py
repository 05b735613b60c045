"""The online store of rolling views, in Redis: what is needed to answer for any time now.

Per (tenant, view, entity) three keys with one hash tag, so that they share a slot in a Redis Cluster:

    ...:times   sorted set   event id -> event time (ms)
    ...:rows    hash         event id -> the aggregated columns, as a JSON array
    ...:tiles   hash         start of a tile (ms) -> what was folded; `until`: all rows up to here are folded

Writes are idempotent by event id and may come in any order: the first row of an id stays, a late row lands
at its own time. Rows older than the newest by more than the view's time to live go, and so does an entity
that has had no row for that long. Above `cap` rows the oldest half is folded into tiles of `resolution`;
a row at or before `until` is taken for a repeat and changes nothing. Works on Redis 6.2 and later.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from itertools import groupby
from operator import itemgetter
from typing import Any, cast

import msgspec
import pyarrow as pa
import redis
from redis.exceptions import NoScriptError

from core.clock import to_millis
from core.errors import InvalidInput
from core.telemetry.metrics import counter
from features.online.rows import Reader, ReadResult, Row, Stored, Tile, fold
from features.times import millis
from features.view import FeatureView
from schemas.keys import key_of

CAP = 2_048
RESOLUTION = timedelta(minutes=10)
_PIPELINED = 256

TRIM = """
local newest = redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')[2]
if newest then
  local before = '(' .. string.format('%.0f', tonumber(newest) - tonumber(ARGV[1]))
  local old = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', before, 'LIMIT', 0, 1000)
  if #old > 0 then
    redis.call('ZREM', KEYS[1], unpack(old))
    redis.call('HDEL', KEYS[2], unpack(old))
  end
end
for i = 1, 3 do redis.call('PEXPIRE', KEYS[i], ARGV[1]) end
return redis.call('ZCARD', KEYS[1])
"""
"""How every script that adds rows ends; the first argument is the time to live."""

_WRITE = (
    """
local folded = tonumber(redis.call('HGET', KEYS[3], 'until')) or -math.huge
for i = 2, #ARGV, 3 do
  local at = tonumber(ARGV[i + 1])
  if at > folded and redis.call('HSETNX', KEYS[2], ARGV[i], ARGV[i + 2]) == 1 then
    redis.call('ZADD', KEYS[1], ARGV[i + 1], ARGV[i])
  end
end
"""
    + TRIM
)

_READ = """
local found = redis.call('ZRANGEBYSCORE', KEYS[1], ARGV[1], ARGV[2], 'WITHSCORES')
local rows, ids = {}, {}
for i = 1, #found, 2 do
  ids[#ids + 1] = found[i]
  if #ids == 1000 or i + 1 == #found then
    for _, row in ipairs(redis.call('HMGET', KEYS[2], unpack(ids))) do rows[#rows + 1] = row end
    ids = {}
  end
end
local before = false
if #found == 0 then
  before = redis.call('ZREVRANGEBYSCORE', KEYS[1], ARGV[2], '-inf', 'WITHSCORES', 'LIMIT', 0, 1)[2]
end
local newest = redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')[2]
return {found, rows, redis.call('HGETALL', KEYS[3]), before or false, newest or false}
"""

# Takes effect only if the rows up to the new `until` are still exactly those that were folded.
_FOLD = """
local before = redis.call('HGET', KEYS[3], 'until') or ''
if before ~= ARGV[1] then return 0 end
local ids = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[2])
if #ids ~= tonumber(ARGV[3]) then return 0 end
for i = 5, #ARGV, 2 do redis.call('HSET', KEYS[3], ARGV[i], ARGV[i + 1]) end
redis.call('HSET', KEYS[3], 'until', ARGV[2])
for i = 1, #ids do
  redis.call('ZREM', KEYS[1], ids[i])
  redis.call('HDEL', KEYS[2], ids[i])
end
for _, start in ipairs(redis.call('HKEYS', KEYS[3])) do
  if start ~= 'until' and tonumber(start) < tonumber(ARGV[4]) then redis.call('HDEL', KEYS[3], start) end
end
redis.call('PEXPIRE', KEYS[3], redis.call('PTTL', KEYS[1]))
return 1
"""


class RollingStore:
    """The online form of one rolling view. Errors of the client (`redis.RedisError`) come through.

    cap: rows kept per entity before the oldest half is folded. resolution: length of a tile.
    """

    def __init__(
        self, client: redis.Redis, view: FeatureView, *, cap: int = CAP, resolution: timedelta = RESOLUTION
    ) -> None:
        self.view = view
        self._client = client
        self._cap = cap
        self._reader = Reader(view, resolution)
        self._ttl_ms = view.ttl // timedelta(milliseconds=1)
        self._write = client.register_script(_WRITE)
        self._read = client.register_script(_READ)
        self._fold = client.register_script(_FOLD)

    def write(self, batch: pa.RecordBatch) -> None:
        """Store rows: columns tenant, id, the entity, the event time, the aggregated columns; others are
        not looked at. Idempotent by id; done when it returns."""
        for part in _parts(sorted(events_of(self.view, batch), key=itemgetter(0, 1))):
            with self._client.pipeline(transaction=False) as pipe:
                for (tenant, entity), rows in part:
                    given: list[Any] = [self._ttl_ms]
                    for _, _, id, at, values in rows:
                        given += [id, at, msgspec.json.encode(values)]
                    self._write(keys=self.keys(tenant, entity), args=given, client=pipe)
                counts = pipe.execute()
            for ((tenant, entity), _), count in zip(part, counts, strict=True):
                if count > self._cap:
                    self.fold_oldest(tenant, entity)

    def read(
        self, tenant: str, entity: str, at: datetime, own: Mapping[str, Any] | None = None
    ) -> ReadResult:
        """The features as of `at`, inclusive. `own` is a record that counts whether or not it is stored
        already: its `id` and the aggregated columns, at the time `at`."""
        at_ms = to_millis(at)
        stored = self._read(keys=self.keys(tenant, entity), args=self._range(at_ms))
        mine = None if own is None else (str(own["id"]), at_ms, [own[name] for name in self.view.columns])
        return self._answer(stored, at_ms, mine)

    def read_many(self, tenant: str, entities: Sequence[str], at: datetime) -> list[ReadResult]:
        """The features of each entity as of `at`, in their order; one round trip for up to 256 of them."""
        at_ms = to_millis(at)
        results: list[ReadResult] = []
        for begin in range(0, len(entities), _PIPELINED):
            part = entities[begin : begin + _PIPELINED]
            stored = self._read_all([(tenant, entity, at_ms) for entity in part])
            results += [self._answer(found, at_ms, None) for found in stored]
        return results

    def read_rows(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """For each row the features as of its own time, itself included, in row order; one column per
        feature (int64 or float64, null where there is no value)."""
        return feature_columns(self.view, self.read_events(events_of(self.view, batch)))

    def read_events(self, events: Sequence["Event"]) -> list[ReadResult]:
        """For each event the features as of its own time, itself included, in their order."""
        results: list[ReadResult] = []
        for begin in range(0, len(events), _PIPELINED):
            part = events[begin : begin + _PIPELINED]
            stored = self._read_all([(tenant, entity, at) for tenant, entity, _, at, _ in part])
            for (_, _, id, at, values), found in zip(part, stored, strict=True):
                results.append(self._answer(found, at, (id, at, values)))
        return results

    def _read_all(self, asked: Sequence[tuple[str, str, int]]) -> list[Any]:
        """What is stored for each (tenant, entity, time in ms), in one round trip; in a second one for a
        server that started anew. A script in redis-py's pipeline would ask first whether it is known."""
        calls = [(*self.keys(tenant, entity), *self._range(at)) for tenant, entity, at in asked]
        found = self._execute(calls)
        forgotten = [at for at, answer in enumerate(found) if isinstance(answer, NoScriptError)]
        if forgotten:
            self._client.script_load(_READ)
            for at, answer in zip(forgotten, self._execute([calls[at] for at in forgotten]), strict=True):
                found[at] = answer
        for answer in found:
            if isinstance(answer, Exception):
                raise answer
        return found

    def _execute(self, calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        with self._client.pipeline(transaction=False) as pipe:
            for call in calls:
                pipe.evalsha(self._read.sha, 3, *call)
            return list(pipe.execute(raise_on_error=False))

    def keys(self, tenant: str, entity: str) -> list[str]:
        """The entity's keys; what is in braces decides the slot."""
        base = f"ms:{self.view.name}:{self.view.version}:{{{key_of(tenant, entity)}}}"
        return [f"{base}:times", f"{base}:rows", f"{base}:tiles"]

    def _range(self, at_ms: int) -> list[Any]:
        return [at_ms - self._reader.longest_ms, at_ms]

    def _answer(self, stored: Any, at_ms: int, own: tuple[str, int, list[Any]] | None) -> ReadResult:
        found, texts, folded, before, newest = stored
        mine: dict[str, Row] = {} if own is None else {own[0]: (own[1], own[2])}
        try:
            # one JSON list of all rows: decoding each by itself takes three times as long
            columns = msgspec.json.decode(b"[" + b",".join(texts) + b"]")
            times = map(int, map(float, found[1::2]))
            rows: dict[str, Row] = dict(
                zip(map(_text, found[::2]), zip(times, columns, strict=True), strict=True)
            )
            there = Stored(list((rows | mine).values()), _tiles(folded), _time(before), _time(newest))
            return self._reader.read(there, at_ms)
        except _DAMAGED_BY:
            DAMAGED.labels(self.view.name).inc()
            return self._reader.read(Stored(list(mine.values()), (), None, None), at_ms)

    def fold_oldest(self, tenant: str, entity: str) -> None:
        """Fold the oldest half into tiles. Another writer in between makes it do nothing; the next write
        tries again."""
        keys = self.keys(tenant, entity)
        stored: Any = self._read(keys=keys, args=["-inf", "+inf"])
        found, texts, folded, *_ = stored
        rows = [(int(float(at)), text) for at, text in zip(found[1::2], texts, strict=True)]
        if len(rows) <= self._cap:
            return
        until = rows[len(rows) - self._cap // 2 - 1][0]
        if until == rows[-1][0]:
            return  # all at one time: nothing can be told apart by time
        chosen: list[Row] = [(at, msgspec.json.decode(text)) for at, text in rows if at <= until]
        known = {tile.start: tile for tile in _tiles(folded)}
        made = fold(chosen, known, resolution_ms=self._reader.resolution_ms, columns=len(self.view.columns))
        pairs = [part for start, tile in made.items() for part in (start, tile.text())]
        fields = dict(zip((_text(name) for name in folded[::2]), folded[1::2], strict=True))
        oldest = rows[-1][0] - self._ttl_ms - self._reader.resolution_ms
        self._fold(keys=keys, args=[fields.get("until", b""), until, len(chosen), oldest, *pairs])


DAMAGED = counter(
    "online_rolling_damaged_total",
    "Entities whose rows or tiles cannot be read; they read as missing",
    ["view"],
)
_DAMAGED_BY = (msgspec.DecodeError, ValueError, TypeError, KeyError, IndexError, AttributeError)

Event = tuple[str, str, str, int, list[Any]]
"""tenant, entity, id, time in ms, values of the view's columns."""


def events_of(view: FeatureView, batch: pa.RecordBatch) -> list[Event]:
    """The rows of a batch. Raises InvalidInput for a missing column, or a null key or time."""
    names = ("tenant", view.single_entity, "id")
    for name in (*names, view.time, *view.columns):
        if name not in batch.schema.names:
            raise InvalidInput(f"no column {name!r}", where=view.where, mend="give the view's columns")
    times = millis(pa.chunked_array([batch.column(view.time)]))
    if times.null_count or any(batch.column(name).null_count for name in names):
        raise InvalidInput("a row without tenant, entity, id or time", where=view.where, mend="leave it out")
    keys = [batch.column(name).to_pylist() for name in names]
    columns = [batch.column(name).to_pylist() for name in view.columns]
    values = [list(row) for row in zip(*columns, strict=True)] if columns else [[] for _ in keys[0]]
    return list(zip(*keys, times.to_pylist(), values, strict=True))


def feature_columns(view: FeatureView, results: Sequence[ReadResult]) -> pa.RecordBatch:
    """Results as columns, one per feature."""
    return pa.RecordBatch.from_pydict(
        {
            feature.name: pa.array(
                [result.values[feature.name] for result in results],
                pa.int64() if view.kind(feature) == "long" else pa.float64(),
            )
            for feature in view.features
        }
    )


def _parts(events: list[Event]) -> list[list[tuple[tuple[str, str], list[Event]]]]:
    """Grouped by (tenant, entity), so many groups at a time."""
    groups = [(key, list(rows)) for key, rows in groupby(events, key=itemgetter(0, 1))]
    return [groups[begin : begin + _PIPELINED] for begin in range(0, len(groups), _PIPELINED)]


def _tiles(folded: Sequence[Any]) -> list[Tile]:
    pairs = [(_text(folded[i]), folded[i + 1]) for i in range(0, len(folded), 2)]
    return [Tile.parse(int(start), cast(bytes, text)) for start, text in pairs if start != "until"]


def _time(score: bytes | None) -> int | None:
    return None if score is None else int(float(score))


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
