"""The naive oracle: every feature from its definition, by looking at all events again, in exact arithmetic.

No SQL, and nothing of the compilers: it reads declarations and events only.
"""

import math
from collections.abc import Mapping, Sequence
from datetime import timedelta
from fractions import Fraction
from typing import Any

from core.clock import from_millis, to_millis
from features.aggregates import (
    Count,
    CountDistinct,
    First,
    Last,
    Max,
    Mean,
    Min,
    Quantile,
    Ratio,
    Std,
    Sum,
)
from features.derived import Ago, Arithmetic, Coalesce, FeatureValue, Literally, MovingAverage
from features.filters import And, Column, Comparison, In, IsNull, Not, Or
from features.view import Cumulating, Derived, Feature, FeatureView

Row = dict[str, Any]
Values = dict[str, Any]
References = Mapping[str, Sequence[Any]]


def naive(
    view: FeatureView, events: Sequence[Any], asked: Any, references: References | None = None
) -> Values:
    """The features of a rolling view at the event `asked`; only what is at or before its time counts."""
    rows = [_row(view, event, references or {}) for event in events]
    mine = _row(view, asked, references or {})
    keys = ("tenant", *view.entity_fields)
    history = [
        row
        for row in rows
        if all(row[key] == mine[key] for key in keys) and row[view.time] <= mine[view.time]
    ]
    values: Values = {}
    while len(values) < len(view.features):
        for feature in view.features:
            if isinstance(feature.definition, Derived):
                try:
                    value = _expression(feature.definition, values.__getitem__, None)
                except KeyError:
                    continue
            else:
                inside = [row for row in history if row[view.time] >= mine[view.time] - feature.over]
                value = _aggregate(feature.definition, inside, view.time)
            values[feature.name] = _finished(view, feature, value)
    return {name: values[name] for name in view.feature_names}


def naive_windows(
    view: FeatureView, events: Sequence[Any], references: References | None = None
) -> list[Row]:
    """The rows of a windowed view, ordered by (tenant, entity, end)."""
    keys = ("tenant", *view.entity_fields)
    groups: dict[tuple[str, ...], list[Row]] = {}
    for event in events:
        row = _row(view, event, references or {})
        if all(row[key] is not None for key in keys):
            groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    out = []
    for key in sorted(groups):
        windows = _Windows(view, groups[key])
        for end in sorted(windows.rows):
            values = {feature.name: windows.value(feature, end) for feature in view.features}
            start = from_millis(windows.start(end))
            out.append(
                dict(zip(keys, key, strict=True))
                | {"window_start": start, "window_end": from_millis(end)}
                | values
            )
    return out


class _Windows:
    """All windows of one entity: end in ms -> its rows, none of them empty."""

    def __init__(self, view: FeatureView, rows: Sequence[Row]) -> None:
        self.view = view
        self.size, self.every = _ms(view.window.size), _ms(view.window.every)
        times = [to_millis(row[view.time]) for row in rows]
        self.rows: dict[int, list[Row]] = {}
        first = min(times) // self.every * self.every
        for end in range(first, max(times) + self.size + self.every, self.every):
            inside = [row for row, at in zip(rows, times, strict=True) if self.start(end) <= at < end]
            if inside:
                self.rows[end] = inside

    def start(self, end: int) -> int:
        if isinstance(self.view.window, Cumulating):
            start = end - end % self.size
            return start - self.size if start == end else start
        return end - self.size

    def value(self, feature: Feature, end: int) -> Any:
        if end not in self.rows:
            return _finished(self.view, feature, None)
        if isinstance(feature.definition, Derived):
            value = _expression(
                feature.definition,
                lambda name: self.value(self.view.feature(name), end),
                lambda name, earlier: self.value(self.view.feature(name), end - earlier),
                self.every,
            )
        else:
            value = _aggregate(feature.definition, self.rows[end], self.view.time)
        return _finished(self.view, feature, value)


def truth(condition: Any, row: Row) -> bool | None:
    """SQL's three values; None is unknown."""
    match condition:
        case Comparison(column, operator, right):
            left, other = row[column], row[right.name] if isinstance(right, Column) else right
            if left is None or other is None:
                return None
            return {
                "=": left == other,
                "<>": left != other,
                "<": left < other,
                "<=": left <= other,
                ">": left > other,
                ">=": left >= other,
            }[operator]
        case In(column, values):
            return None if row[column] is None else row[column] in values
        case IsNull(column):
            return row[column] is None
        case Not(inner):
            known = truth(inner, row)
            return None if known is None else not known
        case And(left, right):
            both = (truth(left, row), truth(right, row))
            return False if False in both else None if None in both else True
        case Or(left, right):
            both = (truth(left, row), truth(right, row))
            return True if True in both else None if None in both else False
    raise AssertionError(condition)


def _row(view: FeatureView, event: Any, references: References) -> Row:
    row = {name: getattr(event, name) for name in view.source.spec().names}
    for lookup in view.lookups:
        found = [
            reference
            for reference in references[lookup.name]
            if reference.tenant == event.tenant
            and all(
                row[ours] is not None and row[ours] == getattr(reference, theirs)
                for ours, theirs in lookup.on.items()
            )
        ]
        for name in lookup.record.spec().names:
            row[f"{lookup.name}.{name}"] = getattr(found[0], name) if found else None
    return row


def _finished(view: FeatureView, feature: Feature, value: Any) -> Any:
    """The empty value for none, and a whole double as a double."""
    value = feature.empty if value is None else value
    return float(value) if value is not None and view.kind(feature) == "double" else value


def _aggregate(aggregate: Any, inside: Sequence[Row], time: str) -> Any:
    if isinstance(aggregate, Ratio):
        above = _aggregate(aggregate.numerator, inside, time)
        below = _aggregate(aggregate.denominator, inside, time)
        return None if above is None or not below else float(Fraction(above) / Fraction(below))
    if aggregate.where is not None:
        inside = [row for row in inside if truth(aggregate.where, row) is True]
    if isinstance(aggregate, Count):
        return len(inside)
    column = aggregate.column
    inside = sorted(
        (row for row in inside if row[column] is not None), key=lambda row: (row[time], row["id"])
    )
    values = [row[column] for row in inside]
    if isinstance(aggregate, CountDistinct):
        return len(set(values))
    if not values:
        return None
    match aggregate:
        case Sum():
            total = sum(map(Fraction, values))
            return int(total) if isinstance(values[0], int) else float(total)
        case Min():
            return min(values)
        case Max():
            return max(values)
        case First():
            return values[0]
        case Last():
            return values[-1]
        case Mean():
            return float(sum(map(Fraction, values)) / len(values))
        case Std():
            mean = sum(map(Fraction, values)) / len(values)
            return math.sqrt(sum((Fraction(value) - mean) ** 2 for value in values) / len(values))
        case Quantile():
            ordered = sorted(map(Fraction, values))
            position = Fraction(aggregate.p) * (len(ordered) - 1)
            below, part = int(position), position - int(position)
            above = min(below + 1, len(ordered) - 1)
            return float(ordered[below] + part * (ordered[above] - ordered[below]))
    raise AssertionError(aggregate)


def _expression(derived: Any, now: Any, earlier: Any, every: int = 0) -> Any:
    match derived:
        case FeatureValue(name):
            return now(name)
        case Literally(value):
            return value
        case Ago(name, by):
            return earlier(name, _ms(by))
        case MovingAverage(name, over):
            values = [earlier(name, back) for back in range(0, _ms(over), every)]
            known = [Fraction(value) for value in values if value is not None]
            return float(sum(known) / len(known)) if known else None
        case Coalesce(parts):
            values = [_expression(part, now, earlier, every) for part in parts]
            return next((value for value in values if value is not None), None)
        case Arithmetic(sign, left, right):
            x, y = _expression(left, now, earlier, every), _expression(right, now, earlier, every)
            if x is None or y is None:
                return None
            if sign == "/":
                return None if y == 0 else float(Fraction(x) / Fraction(y))
            return {"+": x + y, "-": x - y, "*": x * y}[sign]
    raise AssertionError(derived)


def _ms(span: timedelta) -> int:
    return span // timedelta(milliseconds=1)


def same(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Integers and nulls equal, floats to 1e-9, with the feature's name in the message."""
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        if isinstance(value, float):
            assert isinstance(found[name], float), (name, found[name], value)
            assert math.isclose(found[name], value, rel_tol=1e-9, abs_tol=1e-9), (name, found[name], value)
        else:
            assert found[name] == value, (name, found[name], value)
            assert type(found[name]) is type(value), name
