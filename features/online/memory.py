"""The rolling store in memory: for tests and for trying things out; behaves as the one in Redis does."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa

from core.clock import to_millis
from features.online.rolling import CAP, RESOLUTION, events_of, feature_columns
from features.online.rows import Reader, ReadResult, Row, Stored, Tile, fold
from features.view import FeatureView


class MemoryRollingStore:
    """See `features.online.rolling.RollingStore`; entities do not expire by the wall clock here."""

    def __init__(self, view: FeatureView, *, cap: int = CAP, resolution: timedelta = RESOLUTION) -> None:
        self.view = view
        self._cap = cap
        self._reader = Reader(view, resolution)
        self._ttl_ms = view.ttl // timedelta(milliseconds=1)
        self._rows: dict[tuple[str, str], dict[str, Row]] = {}
        self._tiles: dict[tuple[str, str], dict[int, Tile]] = {}
        self._until: dict[tuple[str, str], int] = {}

    def write(self, batch: pa.RecordBatch) -> None:
        """Store rows; idempotent by id."""
        touched: set[tuple[str, str]] = set()
        for tenant, entity, id, at, values in events_of(self.view, batch):
            key = (tenant, entity)
            touched.add(key)
            rows = self._rows.setdefault(key, {})
            if at > self._until.get(key, at - 1):
                rows.setdefault(id, (at, values))
            newest = max((at for at, _ in rows.values()), default=at)
            for old in [id for id, row in rows.items() if row[0] < newest - self._ttl_ms]:
                del rows[old]
        for key in touched:
            self._fold_oldest(key)

    def read(
        self, tenant: str, entity: str, at: datetime, own: Mapping[str, Any] | None = None
    ) -> ReadResult:
        """The features as of `at`, inclusive."""
        at_ms = to_millis(at)
        mine = None if own is None else (str(own["id"]), at_ms, [own[name] for name in self.view.columns])
        return self._answer((tenant, entity), at_ms, mine)

    def read_many(self, tenant: str, entities: Sequence[str], at: datetime) -> list[ReadResult]:
        """The features of each entity as of `at`, in their order."""
        return [self._answer((tenant, entity), to_millis(at), None) for entity in entities]

    def read_rows(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """For each row the features as of its own time, itself included."""
        return feature_columns(
            self.view,
            [
                self._answer((tenant, entity), at, (id, at, values))
                for tenant, entity, id, at, values in events_of(self.view, batch)
            ],
        )

    def _answer(self, key: tuple[str, str], at_ms: int, own: tuple[str, int, list[Any]] | None) -> ReadResult:
        stored = self._rows.get(key, {})
        since = at_ms - self._reader.longest_ms
        rows = {id: row for id, row in stored.items() if since <= row[0] <= at_ms}
        if own is not None:
            rows[own[0]] = (own[1], own[2])
        tiles = list(self._tiles.get(key, {}).values())
        before = max((at for at, _ in stored.values() if at <= at_ms), default=None)
        newest = max((at for at, _ in stored.values()), default=None)
        return self._reader.read(Stored(list(rows.values()), tiles, before, newest), at_ms)

    def _fold_oldest(self, key: tuple[str, str]) -> None:
        rows = sorted(self._rows[key].values(), key=lambda row: row[0])
        if len(rows) <= self._cap:
            return
        until = rows[len(rows) - self._cap // 2 - 1][0]
        if until == rows[-1][0]:
            return
        chosen = [row for row in rows if row[0] <= until]
        tiles = self._tiles.setdefault(key, {})
        tiles |= fold(chosen, tiles, resolution_ms=self._reader.resolution_ms, columns=len(self.view.columns))
        oldest = rows[-1][0] - self._ttl_ms - self._reader.resolution_ms
        self._tiles[key] = {start: tile for start, tile in tiles.items() if start >= oldest}
        self._rows[key] = {id: row for id, row in self._rows[key].items() if row[0] > until}
        self._until[key] = until
