"""The rows and tiles of one entity, and what a view says of them as of a time. Pure; no store.

A row is (time in ms, values of the view's columns). Rows above a cap are folded into *tiles*: per stretch of
time the number of rows and, per column, count, sum, sum of squares, maximum and the distinct values. A tile
that lies within a window is exact; one that a window's edge or the asked time cuts, or whose distinct values
were too many to keep, makes the read `truncated`.
"""

import json
import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import msgspec

from core.clock import from_millis
from features.aggregates import Count, CountDistinct, Max, Mean, Std, Sum, column_of
from features.online.status import Status
from features.plain import check_plain, plain
from features.view import Feature, FeatureView, Value

Values = Sequence[Any]
Row = tuple[int, Values]

MOST_DISTINCT = 256


class ReadResult(msgspec.Struct, frozen=True):
    """Features as of a time; see `features.online.status` for what the statuses mean.

    event_time_ms: of the entity's newest row at or before the time; None where none is known, and then so is
        `age_ms`, the time that had gone by since.
    """

    values: dict[str, Value]
    statuses: dict[str, Status]
    event_time_ms: int | None
    age_ms: int | None

    @property
    def event_time(self) -> datetime | None:
        return None if self.event_time_ms is None else from_millis(self.event_time_ms)

    @property
    def age(self) -> timedelta | None:
        return None if self.age_ms is None else timedelta(milliseconds=self.age_ms)

    @property
    def truncated(self) -> bool:
        """Whether any feature is."""
        return "truncated" in self.statuses.values()


@dataclass
class Moments:
    """What is kept of one column of the rows of a tile or window. Integers stay integers."""

    count: int = 0
    total: Any = 0
    squares: Any = 0
    largest: Any = None
    distinct: set[Any] | None = field(default_factory=set)

    def add(self, value: Any) -> None:
        if value is None:
            return
        self.count += 1
        if not isinstance(value, str):
            self.total += value
            self.squares += value * value
            self.largest = value if self.largest is None else max(self.largest, value)
        if self.distinct is not None:
            self.distinct.add(value)

    def merge(self, other: "Moments") -> None:
        self.count += other.count
        self.total += other.total
        self.squares += other.squares
        if other.largest is not None:
            self.largest = other.largest if self.largest is None else max(self.largest, other.largest)
        if self.distinct is not None:
            self.distinct = None if other.distinct is None else self.distinct | other.distinct


@dataclass
class Tile:
    """Rows of [start, start + resolution) in ms: how many, and the moments of each column."""

    start: int
    rows: int
    columns: list[Moments]

    def add(self, values: Values) -> None:
        self.rows += 1
        for moments, value in zip(self.columns, values, strict=True):
            moments.add(value)

    def text(self) -> str:
        columns = [
            [
                m.count,
                m.total,
                m.squares,
                m.largest,
                None if m.distinct is None else sorted(m.distinct, key=repr),
            ]
            for m in self.columns
        ]
        return json.dumps([self.rows, columns], separators=(",", ":"))

    @classmethod
    def parse(cls, start: int, text: str | bytes) -> "Tile":
        rows, columns = json.loads(text)
        return cls(
            start,
            rows,
            [Moments(n, total, sq, top, None if d is None else set(d)) for n, total, sq, top, d in columns],
        )


def fold(
    rows: Iterable[Row], tiles: Mapping[int, Tile], *, resolution_ms: int, columns: int
) -> dict[int, Tile]:
    """The tiles that `rows` touch, with the rows in them; `tiles` are those that are there already."""
    out: dict[int, Tile] = {}
    for at, values in rows:
        start = at - at % resolution_ms
        if start not in out:
            before = tiles.get(start)
            out[start] = (
                Tile.parse(start, before.text())
                if before
                else Tile(start, 0, [Moments() for _ in range(columns)])
            )
        out[start].add(values)
    for tile in out.values():
        for moments in tile.columns:
            if moments.distinct is not None and len(moments.distinct) > MOST_DISTINCT:
                moments.distinct = None
    return out


@dataclass(frozen=True)
class Stored:
    """What a store has of one entity for a read.

    rows, tiles: in any order; rows at most the longest window older than the asked time. before: time in ms
    of the newest row at or before the asked time, None without one. newest: of the newest row of all; rows
    older than that by more than the view's time to live are gone.
    """

    rows: Sequence[Row]
    tiles: Sequence[Tile]
    before: int | None
    newest: int | None


class Reader:
    """Answers for one plain view, DeclarationError for others."""

    def __init__(self, view: FeatureView, resolution: timedelta) -> None:
        check_plain(view, "the online store of rolling views")
        self.view = view
        self.resolution_ms = _ms(resolution)
        self.longest_ms = _ms(view.windows[-1])
        self.ttl_ms = _ms(view.ttl)
        self._column = {name: index for index, name in enumerate(view.columns)}
        self._windows = [
            (_ms(over), [(feature, _ms(view.ttl_of(feature))) for feature in view.over(over)])
            for over in view.windows
        ]

    def read(self, stored: Stored, at_ms: int) -> ReadResult:
        """As of `at_ms`, inclusive, over the rows at most a window old (`t - over` included)."""
        ordered = sorted((row for row in stored.rows if row[0] <= at_ms), key=lambda row: row[0])
        times = [row[0] for row in ordered]
        newest = self._newest(times, stored, at_ms)
        age = None if newest is None else at_ms - newest
        values: dict[str, Value] = dict.fromkeys(self.view.feature_names)
        statuses: dict[str, Status] = dict.fromkeys(self.view.feature_names, "missing")
        for over_ms, features in self._windows:
            since = at_ms - over_ms
            inside = ordered[bisect_left(times, since) : bisect_right(times, at_ms)]
            whole = [t for t in stored.tiles if t.start + self.resolution_ms > since and t.start <= at_ms]
            cut = any(t.start < since or t.start + self.resolution_ms - 1 > at_ms for t in whole)
            cut |= stored.newest is not None and since < stored.newest - self.ttl_ms
            count = len(inside) + sum(tile.rows for tile in whole)
            moments_of: dict[str | None, Moments] = {None: Moments(count=count)}
            for feature, ttl_ms in features:
                column = column_of(plain(feature))
                if column is not None and column not in moments_of:
                    moments_of[column] = self._moments(column, inside, whole)
                moments, name = moments_of[column], feature.name
                if age is not None and age > ttl_ms:
                    values[name], statuses[name] = self._nothing(feature), "expired"
                    continue
                value = self._value(feature, moments)
                values[name] = feature.empty if value is None else value
                if cut or (moments.distinct is None and isinstance(feature.definition, CountDistinct)):
                    statuses[name] = "truncated"
                elif age is not None:
                    statuses[name] = "fresh" if count else "expired"
        return ReadResult(values, statuses, newest, age)

    def _newest(self, times: Sequence[int], stored: Stored, at_ms: int) -> int | None:
        """The time of the newest row at or before the asked time; of folded rows the end of their tile."""
        if times:
            return times[-1]
        if stored.before is not None:
            return stored.before
        starts = [tile.start for tile in stored.tiles if tile.start <= at_ms]
        return min(at_ms, max(starts) + self.resolution_ms - 1) if starts else None

    def _nothing(self, feature: Feature) -> Value:
        """The value of a feature in whose window is no row."""
        value = self._value(feature, Moments())
        return feature.empty if value is None else value

    def _moments(self, column: str, rows: Sequence[Row], tiles: Sequence[Tile]) -> Moments:
        index, moments = self._column[column], Moments()
        for _, values in rows:
            moments.add(values[index])
        for tile in tiles:
            moments.merge(tile.columns[index])
        return moments

    def _value(self, feature: Feature, moments: Moments) -> Value:
        """The value, or None without one. More distinct values than are kept read as the most kept."""
        aggregate = plain(feature)
        if isinstance(aggregate, Count):
            return moments.count
        if isinstance(aggregate, CountDistinct):
            return MOST_DISTINCT if moments.distinct is None else len(moments.distinct)
        if not moments.count:
            return None
        whole = self.view.kind(feature) == "long"
        match aggregate:
            case Sum():
                return int(moments.total) if whole else float(moments.total)
            case Max():
                return int(moments.largest) if whole else float(moments.largest)
            case Mean():
                return float(moments.total / moments.count)
            case Std():
                spread = moments.count * moments.squares - moments.total * moments.total
                return math.sqrt(max(spread, 0)) / moments.count


def _ms(span: timedelta) -> int:
    return span // timedelta(milliseconds=1)
