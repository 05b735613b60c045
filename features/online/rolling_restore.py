"""Entities of a rolling view made again from all of their rows, beside a running writer.

What the writer has folded into tiles cannot be told apart by id any more, and rows from before would be taken
for repeats. So an entity is put in place whole, in one step: its rows, those beyond the cap folded, instead
of its tiles; rows that the writer has added are kept, each id once. That is right as long as all that was
folded is among the given rows. The step is a compare-and-set on how far the entity was folded when that was
so: a writer that has folded in between is not overwritten, and the entity is to be restored anew.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from operator import itemgetter
from typing import Any

import msgspec
import redis

from features.online.rolling import CAP, RESOLUTION, TRIM, Event, RollingStore
from features.online.rows import Tile, fold
from features.view import FeatureView

Key = tuple[str, str]
"""tenant, entity"""
Folded = Mapping[Key, bytes]
"""Up to which time in ms the rows of an entity are in tiles, as text; empty where none are."""

_PIPELINED = 256
_LOOK = """
return {redis.call('HGET', KEYS[3], 'until') or '', redis.call('ZRANGE', KEYS[1], 0, -1)}
"""
_RESTORE = (
    """
if (redis.call('HGET', KEYS[3], 'until') or '') ~= ARGV[2] then return -1 end
if ARGV[3] ~= '' and redis.call('ZCOUNT', KEYS[1], '-inf', ARGV[3]) ~= tonumber(ARGV[4]) then return -1 end
redis.call('DEL', KEYS[3])
local i = 7
for _ = 1, tonumber(ARGV[5]) do
  redis.call('HSET', KEYS[3], ARGV[i], ARGV[i + 1])
  i = i + 2
end
if ARGV[3] ~= '' then redis.call('HSET', KEYS[3], 'until', ARGV[3]) end
for _ = 1, tonumber(ARGV[6]) do
  redis.call('ZREM', KEYS[1], ARGV[i])
  redis.call('HDEL', KEYS[2], ARGV[i])
  i = i + 1
end
while i < #ARGV do
  if redis.call('HSETNX', KEYS[2], ARGV[i], ARGV[i + 2]) == 1 then
    redis.call('ZADD', KEYS[1], ARGV[i + 1], ARGV[i])
  end
  i = i + 3
end
"""
    + TRIM
)


@dataclass
class _Entity:
    """What is to be in place of an entity. there: ids of its rows when it was looked at."""

    folded: bytes
    there: dict[str, None]
    given: int = 0
    rows: list[tuple[str, int, list[Any]]] = field(default_factory=list)
    tiles: dict[int, Tile] = field(default_factory=dict)
    until: int | None = None
    dropped: list[str] = field(default_factory=list)
    """Ids of rows that are there and now in tiles."""


class RollingRestore:
    """For one rolling view; `cap` and `resolution` are those of its `RollingStore`. Errors of the client
    (`redis.RedisError`) come through: restore again."""

    def __init__(
        self, client: redis.Redis, view: FeatureView, *, cap: int = CAP, resolution: timedelta = RESOLUTION
    ) -> None:
        self.view = view
        self._client = client
        self._cap = cap
        self._ttl_ms = view.ttl // timedelta(milliseconds=1)
        self._resolution_ms = resolution // timedelta(milliseconds=1)
        self._store = RollingStore(client, view, cap=cap, resolution=resolution)
        self._look = client.register_script(_LOOK)
        self._restore = client.register_script(_RESTORE)

    def folded(self, entities: Sequence[Key]) -> dict[Key, bytes]:
        """How far they are folded now. Rows that are read from the stream after this hold all of that."""
        return {key: folded for key, (folded, _) in self._looked_at(entities).items()}

    def restore(self, batches: Iterable[Sequence[Event]], known: Folded) -> tuple[int, list[Key]]:
        """Put the entities of these rows in place: how many rows, and the entities that were not restored.

        batches: all rows of each entity within the view's time to live, each id once, in order of entity and
        time. known: how far entities were folded when all folded rows were among these; nothing, where an
        entity is not named. Not restored are entities that are folded otherwise than `known`, or were written
        to out of order meanwhile. At most `cap` rows of an entity are held, and the rows of a batch.
        """
        work: dict[Key, _Entity] = {}
        failed: list[Key] = []
        done, current = 0, None
        for events in batches:
            new = dict.fromkeys((event[0], event[1]) for event in events)
            for key, (folded, there) in self._looked_at([key for key in new if key not in work]).items():
                work[key] = _Entity(folded, there)
            for tenant, entity, id, at, values in events:
                current = (tenant, entity)
                self._add(work[current], id, at, values)
            complete = {key: work.pop(key) for key in list(work) if key != current}
            rows, again = self._put(complete, known)
            done, failed = done + rows, failed + again
        rows, again = self._put(work, known)
        return done + rows, failed + again

    def _looked_at(self, entities: Sequence[Key]) -> dict[Key, tuple[bytes, dict[str, None]]]:
        found: dict[Key, tuple[bytes, dict[str, None]]] = {}
        for begin in range(0, len(entities), _PIPELINED):
            part = entities[begin : begin + _PIPELINED]
            with self._client.pipeline(transaction=False) as pipe:
                for key in part:
                    self._look(keys=self._store.keys(*key), client=pipe)
                for key, (folded, ids) in zip(part, pipe.execute(), strict=True):
                    found[key] = folded, dict.fromkeys(id.decode() for id in ids)
        return found

    def _add(self, one: _Entity, id: str, at: int, values: list[Any]) -> None:
        one.given += 1
        one.rows.append((id, at, values))
        if len(one.rows) <= self._cap:
            return
        until = one.rows[len(one.rows) - self._cap // 2 - 1][1]
        chosen = one.rows[: bisect_right(one.rows, until, key=itemgetter(1))]
        del one.rows[: len(chosen)]
        one.until = until
        one.dropped += [id for id, _, _ in chosen if id in one.there]
        one.tiles |= fold(
            [(at, values) for _, at, values in chosen],
            one.tiles,
            resolution_ms=self._resolution_ms,
            columns=len(self.view.columns),
        )

    def _put(self, work: Mapping[Key, _Entity], known: Folded) -> tuple[int, list[Key]]:
        able: list[Key] = []
        failed: list[Key] = []
        done = 0
        for key, one in work.items():
            (able if one.folded == known.get(key, b"") else failed).append(key)
        for begin in range(0, len(able), _PIPELINED):
            part = able[begin : begin + _PIPELINED]
            with self._client.pipeline(transaction=False) as pipe:
                for key in part:
                    self._restore(keys=self._store.keys(*key), args=self._arguments(work[key]), client=pipe)
                counts = pipe.execute()
            for key, count in zip(part, counts, strict=True):
                if count < 0:
                    failed.append(key)
                    continue
                done += work[key].given
                if count > self._cap:
                    self._store.fold_oldest(*key)
        return done, failed

    def _arguments(self, one: _Entity) -> list[Any]:
        until = "" if one.until is None else one.until
        given: list[Any] = [self._ttl_ms, one.folded, until, len(one.dropped), len(one.tiles)]
        given.append(len(one.dropped))
        for start, tile in one.tiles.items():
            given += [start, tile.text()]
        given += one.dropped
        for id, at, values in one.rows:
            given += [id, at, msgspec.json.encode(values)]
        return given
