"""Reads of a rolling view at random times, and what DuckDB says of the same times.

The store is fed with the events in order of arrival, those up to a request's time before it, and some of them
twice. Some requests have an own record. The judge has one query per window, over all events and own records
up to the time of each request: not the query that makes history, which has a row per event.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Protocol

import duckdb
import numpy as np
import pyarrow as pa
import redis

from core.clock import from_millis
from core.ids import new_id
from features.compile.duckdb_values import aggregate_sql, quote
from features.judge.requests import Answered, Key, Request, draw
from features.online.memory import MemoryRollingStore
from features.online.rolling import RollingStore
from features.online.status import FeatureRead
from features.plain import plain
from features.times import millis
from features.view import Feature, FeatureView, Value

_AGAIN = 3
_OWN_COLUMNS = 1_000
_MS = timedelta(milliseconds=1)


class _Store(Protocol):
    def write(self, batch: pa.RecordBatch) -> None: ...

    def read(self, tenant: str, entity: str, at: datetime, own: Mapping[str, Any] | None) -> FeatureRead: ...


class RollingRequests:
    """`events`: each once. `client`: see `features.judge.verify_requests`."""

    def __init__(self, view: FeatureView, events: pa.Table, client: redis.Redis | None) -> None:
        self._view = view
        self._client = client
        self._entity = view.single_entity
        names = ("tenant", self._entity, "id", *view.columns)
        at = {view.time: millis(events.column(view.time))}
        self._events = pa.table({name: events.column(name) for name in names} | at)

    def ask(self, reads: int, seed: int) -> list[Answered]:
        view, events = self._view, self._events
        keys = list(zip(*(events.column(name).to_pylist() for name in ("tenant", self._entity)), strict=True))
        happened: dict[Key, list[int]] = {}
        for key, at in zip(keys, events.column(view.time).to_pylist(), strict=True):
            happened.setdefault(key, []).append(at)
        spans = {*view.windows, view.ttl, *(view.ttl_of(feature) for feature in view.features)}
        own = [
            {name: row[name] for name in view.columns} for row in events.slice(0, _OWN_COLUMNS).to_pylist()
        ]
        requests = draw(happened, [span // _MS for span in spans], own, number=reads, seed=seed)
        asked = {request.key for request in requests}
        events = events.filter(pa.array([key in asked for key in keys], pa.bool_()))
        found = self._read(events, requests, seed)
        return [
            Answered(read.values, read.statuses, *right)
            for read, right in zip(found, self._right(events, requests), strict=True)
        ]

    def _read(self, events: pa.Table, requests: Sequence[Request], seed: int) -> list[FeatureRead]:
        chance, base = random.Random(seed), f"verify-{new_id()}-"
        tenants = [base + tenant for tenant in events.column("tenant").to_pylist()]
        events = events.set_column(0, "tenant", pa.array(tenants, pa.string()))
        at = np.asarray(events.column(self._view.time).to_numpy(), dtype=np.int64)
        order = np.argsort(at, kind="stable")
        by_time = at[order]
        store: _Store = MemoryRollingStore(self._view)
        if self._client is not None:
            store = RollingStore(self._client, self._view)
        fed, found = 0, []
        try:
            for request in requests:
                until = int(np.searchsorted(by_time, request.at_ms, side="right"))
                rows = sorted(order[fed:until].tolist())  # in order of arrival
                if fed:
                    rows += [order[chance.randrange(fed)] for _ in range(_AGAIN)]
                fed = until
                for batch in events.take(pa.array(rows, pa.int64())).combine_chunks().to_batches():
                    store.write(batch)
                tenant, entity = base + request.key[0], request.key[1]
                found.append(store.read(tenant, entity, from_millis(request.at_ms), request.own))
        finally:
            if isinstance(store, RollingStore) and self._client is not None:
                entities = events.column(self._entity).to_pylist()
                for pair in dict.fromkeys(zip(tenants, entities, strict=True)):
                    self._client.unlink(*store.keys(*pair))
        return found

    def _right(
        self, events: pa.Table, requests: Sequence[Request]
    ) -> list[tuple[dict[str, Value], dict[str, bool], bool]]:
        """Per request the values, which of them are of something, and whether the entity was known."""
        view = self._view
        with duckdb.connect() as connection:
            self._register(connection, events, requests)
            ages = dict(connection.sql("SELECT __number, MIN(__age) FROM __seen GROUP BY ALL").fetchall())
            inside: dict[str, dict[int, Value]] = {}
            nothing: dict[str, Value] = {}
            for over in view.windows:
                names = [feature.name for feature in view.over(over)]
                items = ", ".join(_aggregate(view, feature) for feature in view.over(over))
                found = connection.sql(
                    f"SELECT __number, {items} FROM __seen WHERE __age <= {over // _MS} GROUP BY __number"
                ).fetchall()
                (empty,) = connection.sql(f"SELECT {items} FROM __seen WHERE FALSE").fetchall()
                for place, name in enumerate(names):
                    inside[name] = {row[0]: row[place + 1] for row in found}
                    nothing[name] = empty[place]
        right = []
        for number in range(len(requests)):
            age = ages.get(number)
            there = {
                feature.name: age is not None
                and number in inside[feature.name]
                and age <= view.ttl_of(feature) // _MS
                for feature in view.features
            }
            values = {name: inside[name][number] if good else nothing[name] for name, good in there.items()}
            right.append((values, there, age is not None))
        return right

    def _register(
        self, connection: duckdb.DuckDBPyConnection, events: pa.Table, requests: Sequence[Request]
    ) -> None:
        """`__seen`: for each request, by its number, the events up to its time and its own record, with their
        ages in ms."""
        columns = {
            "__number": pa.array(range(len(requests)), pa.int64()),
            "__tenant": pa.array([request.key[0] for request in requests], pa.string()),
            "__entity": pa.array([request.key[1] for request in requests], pa.string()),
            "__at": pa.array([request.at_ms for request in requests], pa.int64()),
        }
        names = self._view.columns
        own = [{"__number": n, **one.own} for n, one in enumerate(requests) if one.own is not None]
        own_schema = pa.schema([("__number", pa.int64()), *(events.schema.field(name) for name in names)])
        connection.register("__asked", pa.table(columns))
        connection.register("__events", events)
        connection.register("__own", pa.Table.from_pylist(own, own_schema))
        time = f"e.{quote(self._view.time)}"
        theirs, mine = ("".join(f", {of}.{quote(name)}" for name in names) for of in "eo")
        same = f"e.tenant = __tenant AND e.{quote(self._entity)} = __entity AND {time} <= __at"
        connection.execute(
            f"CREATE TEMP TABLE __seen AS SELECT __number, __at - {time} AS __age{theirs} "
            f"FROM __asked JOIN __events e ON {same} UNION ALL SELECT __number, 0{mine} FROM __own o"
        )


def _aggregate(view: FeatureView, feature: Feature) -> str:
    """The aggregate over a group of rows, which are those of its window."""
    return aggregate_sql(view, feature, replace(plain(feature), over=None))
