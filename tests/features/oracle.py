"""The naive oracle: every feature of every event by looking at all events again, in exact arithmetic."""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from features.view import Count, CountDistinct, FeatureView, Max, Mean, Std, Sum


def naive(view: FeatureView, events: Sequence[Any], asked: Any) -> dict[str, int | float | None]:
    """The features of `asked` over `events`; only what is at or before its time counts."""
    at = getattr(asked, view.time)
    entity = getattr(asked, view.entity)
    out: dict[str, int | float | None] = {}
    for feature in view.features:
        inside = [
            event
            for event in events
            if event.tenant == asked.tenant
            and getattr(event, view.entity) == entity
            and at - feature.over <= getattr(event, view.time) <= at
        ]
        values = (
            [getattr(e, feature.column) for e in inside if getattr(e, feature.column) is not None]
            if feature.column
            else []
        )
        out[feature.name] = _value(feature.aggregate, inside, values, feature.empty)
    return out


def _value(aggregate: object, inside: Sequence[Any], values: Sequence[Any], empty: Any) -> Any:
    match aggregate:
        case Count():
            return len(inside)
        case CountDistinct():
            return len(set(values))
    if not values:
        return empty
    match aggregate:
        case Sum():
            return sum(values)
        case Max():
            return max(values)
        case Mean():
            return float(sum(map(Fraction, values)) / len(values))
        case Std():
            mean = sum(map(Fraction, values)) / len(values)
            return math.sqrt(sum((Fraction(value) - mean) ** 2 for value in values) / len(values))
    raise AssertionError(aggregate)


def same(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Integers and nulls equal, floats to 1e-9, with the feature's name in the message."""
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        if isinstance(value, float):
            assert found[name] is not None, name
            assert math.isclose(found[name], value, rel_tol=1e-9, abs_tol=1e-9), (name, found[name], value)
        else:
            assert found[name] == value, (name, found[name], value)
            assert type(found[name]) is type(value), name
