"""A tumbling view to running aggregates in Python, for an engine that has neither windows nor SQL (Faust).

    RunningView(view).begin() ──> Window ──add(event)──add(event)──> values

One `Window` is the state of one (tenant, entity) in one window: an accumulator per aggregate. Windows are in
milliseconds and half open, as `features.windows` has them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from operator import attrgetter
from typing import Any

from core.errors import DeclarationError
from features.aggregates import Aggregate, CountDistinct, Quantile, Ratio, Simple, column_of, simple_parts
from features.compile.accumulators import (
    Accumulator,
    Order,
    Value,
    accumulator,
    why_not_mergeable,
)
from features.compile.predicates import Predicate, predicate
from features.derived import Derived
from features.kinds import is_exact
from features.view import Feature, FeatureView
from features.windows import Rolling, Tumbling
from schemas.record import Record

ENGINE = "Faust"
_MILLI = timedelta(milliseconds=1)
_WRAP, _HALF = 1 << 64, 1 << 63


def check_running(view: FeatureView) -> Tumbling:
    """The windows of the view. Raises DeclarationError with every reason why Faust cannot run it."""
    reasons = list(_reasons(view))
    if reasons or not isinstance(view.window, Tumbling):
        raise DeclarationError(
            f"{ENGINE} cannot run {view.name} v{view.version}: {'; '.join(reasons)}",
            where=view.where,
            mend="run it on Flink, or declare it as a tumbling view of mergeable aggregates (Count, Sum, "
            "Mean, Std, Min, Max, First, Last, Ratio) over an entity that its source is keyed by",
        )
    return view.window


def _reasons(view: FeatureView) -> list[str]:
    found = []
    if isinstance(view.window, Rolling):
        found.append("it has a row per event and not one per window")
    elif not isinstance(view.window, Tumbling):
        found.append(f"its windows are {type(view.window).__name__}, an event is in several of them")
    if view.lookups:
        found.append(f"it looks up {', '.join(lookup.name for lookup in view.lookups)}")
    spec = view.source.spec()
    if spec.entity not in view.entity_fields:
        found.append(
            f"its source is keyed by {spec.entity}, so the events of one {', '.join(view.entity_fields)} lie "
            "on several partitions"
        )
    if spec.field(view.time).nullable:
        found.append(f"an event may have no {view.time}")
    for feature in view.features:
        if isinstance(feature.definition, Derived):
            found.append(f"{feature.name} is derived from other features")
            continue
        reasons = [why_not_mergeable(part) for part in simple_parts(feature.definition)]
        found += [f"{feature.name} {reason}" for reason in dict.fromkeys(reasons) if reason is not None]
    return found


@dataclass(frozen=True)
class _Part:
    """One simple aggregate: which events it takes, what it reads of them, its empty state."""

    taken: Predicate | None
    read: Callable[[Record], Any] | None
    begin: Callable[[], Accumulator]


class Window:
    """The aggregates of one entity in one window."""

    __slots__ = ("_parts", "_states")

    def __init__(self, parts: tuple[_Part, ...]) -> None:
        self._parts = parts
        self._states = [part.begin() for part in parts]

    def add(self, event: Record, order: Order) -> None:
        """Take in an event of the window; in any order, each once."""
        for part, state in zip(self._parts, self._states, strict=True):
            if part.taken is not None and part.taken(event) is not True:
                continue
            value = None if part.read is None else part.read(event)
            if part.read is None or value is not None:
                state.add(value, order)

    def value(self, index: int) -> Value | None:
        """The value of the aggregate at that place."""
        return self._states[index].value()


class RunningView:
    """A view, ready to be computed. Raises DeclarationError for one that `check_running` refuses."""

    def __init__(self, view: FeatureView) -> None:
        self.view = view
        self.size_ms = check_running(view).size // _MILLI
        self._places: dict[str, int] = {}
        parts: list[_Part] = []
        for feature, aggregate in view.aggregates:
            self._places[feature.name] = len(parts)
            parts += [_part(view, part) for part in simple_parts(aggregate)]
        self._parts = tuple(parts)

    def begin(self) -> Window:
        """A window without an event."""
        return Window(self._parts)

    def end_of(self, at_ms: int) -> int:
        """The end of the window that an event of this time is in; times before 1970 too."""
        return at_ms - at_ms % self.size_ms + self.size_ms

    def values(self, window: Window) -> dict[str, Value | None]:
        """The features of a window, by name, of their kinds. Integers beyond 64 bits wrap around, as they do
        in Flink; a double is not finite where its inputs are not or their sum is beyond doubles."""
        return {f.name: self._value(window, f, aggregate) for f, aggregate in self.view.aggregates}

    def _value(self, window: Window, feature: Feature, aggregate: Aggregate) -> Value | None:
        place = self._places[feature.name]
        value = window.value(place)
        if isinstance(aggregate, Ratio):
            value = _divided(value, window.value(place + 1))
        if value is None:
            value = feature.empty
        if value is None:
            return None
        kind = self.view.kind(feature)
        if kind == "double":
            return float(value)
        return (int(value) + _HALF) % _WRAP - _HALF if kind == "long" else value


def _part(view: FeatureView, part: Simple) -> _Part:
    if isinstance(part, CountDistinct | Quantile):
        raise DeclarationError(f"{type(part).__name__} is not mergeable", where=view.where)
    column = column_of(part)
    return _Part(
        taken=None if part.where is None else predicate(part.where),
        read=None if column is None else attrgetter(column),
        begin=accumulator(part, exact=is_exact(part, view.field)),
    )


def _divided(above: Value | None, below: Value | None) -> float | None:
    return None if above is None or not below else float(above) / float(below)
