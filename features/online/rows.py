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
from typing import Any, Literal

from core.clock import from_millis
from features.aggregates import Count, CountDistinct, Max, Mean, Std, Sum, column_of
from features.plain import check_plain, plain
from features.view import Feature, FeatureView, Value

Status = Literal["present", "empty", "missing"]
Values = Sequence[Any]
Row = tuple[int, Values]

MOST_DISTINCT = 256


@dataclass(frozen=True)
class ReadResult:
    """Features as of a time.

    statuses: `present`, `empty` (no value in the window; the feature's `empty` is given) or `missing` (the
        entity has no row at all). event_time: of the newest row that was counted, None without one.
    truncated: some rows were folded and a window's edge cuts what is left of them, so that counts and sums
        may be too high by a part of one tile.
    """

    values: Mapping[str, Value]
    statuses: Mapping[str, Status]
    event_time: datetime | None
    truncated: bool


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


class Reader:
    """Answers for one plain view, DeclarationError for others. `read` takes rows in any order."""

    def __init__(self, view: FeatureView, resolution: timedelta) -> None:
        check_plain(view, "the online store of rolling views")
        self.view = view
        self.resolution_ms = resolution // timedelta(milliseconds=1)
        self.longest_ms = view.windows[-1] // timedelta(milliseconds=1)
        self._column = {name: index for index, name in enumerate(view.columns)}

    def read(self, rows: Sequence[Row], tiles: Sequence[Tile], at_ms: int, *, seen: bool) -> ReadResult:
        """As of `at_ms`, inclusive, over the rows at most a window old (`t - over` included). `seen`:
        whether the entity has rows at all, these or older ones."""
        ordered = sorted((row for row in rows if row[0] <= at_ms), key=lambda row: row[0])
        times = [row[0] for row in ordered]
        values: dict[str, Value] = {}
        statuses: dict[str, Status] = {}
        truncated, known = False, seen or bool(rows or tiles)
        for over in self.view.windows:
            since = at_ms - over // timedelta(milliseconds=1)
            inside = ordered[bisect_left(times, since) : bisect_right(times, at_ms)]
            whole = [
                tile for tile in tiles if tile.start + self.resolution_ms > since and tile.start <= at_ms
            ]
            cut = any(t.start < since or t.start + self.resolution_ms - 1 > at_ms for t in whole)
            count = len(inside) + sum(tile.rows for tile in whole)
            truncated |= cut
            moments_of: dict[str | None, Moments] = {None: Moments(count=count)}
            for feature in self.view.over(over):
                aggregate = plain(feature)
                column = column_of(aggregate)
                if column is not None and column not in moments_of:
                    moments_of[column] = self._moments(column, inside, whole)
                moments = moments_of[column]
                value = self._value(feature, moments)
                truncated |= isinstance(aggregate, CountDistinct) and moments.distinct is None
                values[feature.name] = feature.empty if value is None else value
                present = bool(moments.count)
                statuses[feature.name] = "present" if present else ("empty" if known else "missing")
        newest = times[-1] if times else None
        if newest is None and tiles:
            newest = min(at_ms, max(tile.start for tile in tiles) + self.resolution_ms - 1)
        order = self.view.feature_names
        return ReadResult(
            {name: values[name] for name in order},
            {name: statuses[name] for name in order},
            None if newest is None else from_millis(newest),
            truncated,
        )

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
