"""The rows and tiles of one entity, and what a view says of them as of a time. Pure; no store.

A row is (time in ms, values of the view's columns). Rows above a cap are folded into *tiles*: per stretch of
time the number of rows and, per column, count, sum, sum of squares, maximum and the distinct values. A tile
that lies within a window is exact; one that a window's edge or the asked time cuts, or whose distinct values
were too many to keep, makes the read `truncated`.
"""

import json
import math
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from operator import itemgetter, mul
from typing import Any

import msgspec

from core.clock import from_millis
from features.aggregates import Count, CountDistinct, Max, Mean, Std, Sum, column_of
from features.online.status import Status
from features.plain import Plain, check_plain, plain
from features.view import FeatureView, Value

Values = Sequence[Any]
Row = tuple[int, Values]

MOST_DISTINCT = 256
_TIME = itemgetter(0)


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

    def extend(self, given: Sequence[Any], kinds: Collection[type]) -> None:
        """Add many values, for aggregates of these kinds alone."""
        values = [value for value in given if value is not None]
        if not values:
            return
        self.count += len(values)
        if Sum in kinds or Mean in kinds or Std in kinds:
            self.total += sum(values)
        if Std in kinds:
            self.squares += sum(map(mul, values, values))
        if Max in kinds:
            largest = max(values)
            self.largest = largest if self.largest is None else max(self.largest, largest)
        if CountDistinct in kinds and self.distinct is not None:
            self.distinct.update(values)

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


@dataclass(frozen=True, slots=True)
class _Asked:
    """A feature of one window. place: its column, None for a count of rows. nothing: its value where no row
    is in the window; empty: where its column is null in all of them."""

    name: str
    place: int | None
    value: Callable[[Moments], Value | None]
    empty: Value
    nothing: Value
    ttl_ms: int
    distinct: bool


class Reader:
    """Answers for one plain view, DeclarationError for others."""

    def __init__(self, view: FeatureView, resolution: timedelta) -> None:
        check_plain(view, "the online store of rolling views")
        self.view = view
        self.resolution_ms = _ms(resolution)
        self.longest_ms = _ms(view.windows[-1])
        self.ttl_ms = _ms(view.ttl)
        self._kinds: list[set[type]] = [set() for _ in view.columns]
        places = {name: index for index, name in enumerate(view.columns)}
        self._windows: list[tuple[int, list[_Asked]]] = []
        for over in view.windows:
            asked = []
            for feature in view.over(over):
                aggregate = plain(feature)
                column = column_of(aggregate)
                place = None if column is None else places[column]
                if place is not None:
                    self._kinds[place].add(type(aggregate))
                value = _value_of(aggregate, whole=view.kind(feature) == "long")
                nothing = value(Moments())
                asked.append(
                    _Asked(
                        feature.name,
                        place,
                        value,
                        feature.empty,
                        feature.empty if nothing is None else nothing,
                        _ms(view.ttl_of(feature)),
                        isinstance(aggregate, CountDistinct),
                    )
                )
            self._windows.append((_ms(over), asked))

    def read(self, stored: Stored, at_ms: int) -> ReadResult:
        """As of `at_ms`, inclusive, over the rows at most a window old (`t - over` included)."""
        ordered = sorted([row for row in stored.rows if row[0] <= at_ms], key=_TIME)
        times = [row[0] for row in ordered]
        newest = self._newest(times, stored, at_ms)
        age = None if newest is None else at_ms - newest
        values: dict[str, Value] = dict.fromkeys(self.view.feature_names)
        statuses: dict[str, Status] = dict.fromkeys(self.view.feature_names, "missing")
        # each window holds the shorter ones whole, so that no row is added twice
        columns, reached = [Moments() for _ in self._kinds], len(ordered)
        for over_ms, asked in self._windows:
            since = at_ms - over_ms
            begin = bisect_left(times, since)
            for place, moments in enumerate(columns):
                moments.extend([row[1][place] for row in ordered[begin:reached]], self._kinds[place])
            reached = begin
            whole = [t for t in stored.tiles if t.start + self.resolution_ms > since and t.start <= at_ms]
            cut = any(t.start < since or t.start + self.resolution_ms - 1 > at_ms for t in whole)
            cut |= stored.newest is not None and since < stored.newest - self.ttl_ms
            count = len(ordered) - begin + sum(tile.rows for tile in whole)
            rows = Moments(count=count)
            given = columns if not whole else _with_tiles(columns, whole)
            for one in asked:
                name, moments = one.name, rows if one.place is None else given[one.place]
                if age is not None and age > one.ttl_ms:
                    values[name], statuses[name] = one.nothing, "expired"
                    continue
                value = one.value(moments)
                values[name] = one.empty if value is None else value
                if cut or (one.distinct and moments.distinct is None):
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


def _with_tiles(columns: Sequence[Moments], tiles: Sequence[Tile]) -> list[Moments]:
    """The moments of rows and tiles together, new ones."""
    together = []
    for place, moments in enumerate(columns):
        copy = replace(moments, distinct=None if moments.distinct is None else set(moments.distinct))
        for tile in tiles:
            copy.merge(tile.columns[place])
        together.append(copy)
    return together


def _value_of(aggregate: Plain, *, whole: bool) -> Callable[[Moments], Value | None]:
    """What computes the aggregate, None where there is no value; `whole` numbers stay integers. More distinct
    values than are kept read as the most kept."""
    number = int if whole else float
    match aggregate:
        case Count():
            return lambda moments: moments.count
        case CountDistinct():
            return lambda moments: MOST_DISTINCT if moments.distinct is None else len(moments.distinct)
        case Sum():
            return lambda moments: number(moments.total) if moments.count else None
        case Max():
            return lambda moments: number(moments.largest) if moments.count else None
        case Mean():
            return lambda moments: float(moments.total / moments.count) if moments.count else None
        case Std():
            return lambda moments: _spread(moments) if moments.count else None


def _spread(moments: Moments) -> float:
    """The standard deviation of the whole population."""
    squares = moments.count * moments.squares - moments.total * moments.total
    return math.sqrt(max(squares, 0)) / moments.count


def _ms(span: timedelta) -> int:
    return span // timedelta(milliseconds=1)
