"""Reads of a windowed view at random times, and what DuckDB says of the same times.

The store is fed with feature rows in time: a row can be there once its window ended the view's disorder bound
ago, which is when the stream closes it. Batches are shuffled, and some rows are given again. The right answer
is the last such window of the judge, as long as its age is within the feature's time to live.
"""

import random
from bisect import bisect_right
from collections.abc import Sequence
from datetime import timedelta

import pyarrow as pa
import redis

from core.clock import ManualClock, from_millis
from core.errors import UnknownName
from core.ids import new_id
from features.feature_rows import ENTITY, SEQUENCE, WINDOW_END
from features.judge.requests import Answered, Key, Request, draw
from features.online.layout import layout_of
from features.online.packed_reader import PackedReader
from features.online.packed_redis import RedisPackedValues
from features.online.packed_values import MemoryPackedValues, PackedValues
from features.online.packed_writer import PackedRow, PackedWriter
from features.online.status import FeatureRead
from features.times import millis
from features.view import FeatureView, Value
from schemas.keys import entity_of

_AGAIN = 3
_MS = timedelta(milliseconds=1)


class WindowedRequests:
    """`right`: the rows of `features.offline.history.compute`. `rows`: what is fed, as
    `features.feature_rows.feature_record` has it, `id` and the window's start not needed; None: the right
    ones. `client`: see `features.judge.verify_requests`."""

    def __init__(
        self, view: FeatureView, right: pa.Table, rows: pa.Table | None, client: redis.Redis | None
    ) -> None:
        self._view = view
        self._client = client
        self._layout = layout_of(view)
        self._delay_ms = view.disorder // _MS
        self._right: dict[Key, list[tuple[int, dict[str, Value]]]] = {}
        own: list[PackedRow] = []
        ends = millis(right.column(WINDOW_END)).to_pylist()
        for end, row in zip(ends, right.to_pylist(), strict=True):
            key = (row["tenant"], *(row[name] for name in view.entity_fields))
            values = {name: row[name] for name in view.feature_names}
            self._right.setdefault(key, []).append((end, values))
            own.append(PackedRow(key[0], entity_of(key[1:]), end, 0, list(values.values())))
        self._fed = sorted(own if rows is None else self._given(rows), key=_end)

    def ask(self, reads: int, seed: int) -> list[Answered]:
        view = self._view
        happened = {key: [end + self._delay_ms for end, _ in rows] for key, rows in self._right.items()}
        ttls = {view.ttl, *(view.ttl_of(feature) for feature in view.features)}
        # counted from when a row is there, which is the disorder bound after its time
        spans = [max(ttl // _MS - self._delay_ms, 0) for ttl in ttls] + [view.ttl // _MS]
        requests = draw(happened, spans, (), number=reads, seed=seed)
        found = self._read(requests, seed)
        return [self._answered(request, read) for request, read in zip(requests, found, strict=True)]

    def _given(self, rows: pa.Table) -> list[PackedRow]:
        names = self._view.feature_names
        for name in ("tenant", ENTITY, WINDOW_END, SEQUENCE, *names):
            if name not in rows.column_names:
                raise UnknownName("column", name, rows.column_names, where=self._view.where)
        ends = millis(rows.column(WINDOW_END)).to_pylist()
        return [
            PackedRow(row["tenant"], row[ENTITY], end, row[SEQUENCE], [row[name] for name in names])
            for end, row in zip(ends, rows.to_pylist(), strict=True)
        ]

    def _read(self, requests: Sequence[Request], seed: int) -> Sequence[FeatureRead]:
        chance, base, clock = random.Random(seed), f"verify-{new_id()}-", ManualClock(from_millis(0))
        values: PackedValues = MemoryPackedValues(clock)
        if self._client is not None:
            values = RedisPackedValues(self._client)
        reader, writer = PackedReader(values, clock), PackedWriter(values, self._layout)
        rows = [row._replace(tenant=base + row.tenant) for row in self._fed]
        fed, found = 0, []
        try:
            for request in requests:
                clock.at, clock.elapsed = from_millis(request.at_ms), request.at_ms / 1000
                until = bisect_right(rows, request.at_ms - self._delay_ms, key=_end)
                batch = rows[fed:until] + [rows[chance.randrange(fed)] for _ in range(_AGAIN if fed else 0)]
                fed = until
                chance.shuffle(batch)
                writer.write(batch)
                tenant, entity = base + request.key[0], entity_of(request.key[1:])
                found.append(reader.read(self._layout, tenant, entity))
        finally:
            if self._client is not None:
                for key in {self._layout.key(row.tenant, row.entity) for row in rows[:fed]}:
                    self._client.unlink(key)
        return found

    def _answered(self, request: Request, read: FeatureRead) -> Answered:
        view, rows = self._view, self._right.get(request.key, [])
        place = bisect_right(rows, request.at_ms - self._delay_ms, key=lambda row: row[0])
        last = rows[place - 1] if place else None
        there = {
            feature.name: last is not None and request.at_ms - last[0] <= view.ttl_of(feature) // _MS
            for feature in view.features
        }
        right = {
            feature.name: last[1][feature.name] if last is not None and there[feature.name] else feature.empty
            for feature in view.features
        }
        return Answered(read.values, read.statuses, right, there, last is not None)


def _end(row: PackedRow) -> int:
    return row.event_time_ms
