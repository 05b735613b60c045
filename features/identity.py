"""What a view means, as JSON data, and what changed between two of them.

The digest of a view is over this form, so the form of a view must not change with the framework: what is
declared without a part has no entry for it.
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from core.errors import DeclarationError
from core.ids import canonical_json
from features.aggregates import Aggregate, Quantile, Ratio, Simple, column_of
from features.derived import Ago, Arithmetic, Coalesce, Derived, FeatureValue, Literally, MovingAverage
from features.filters import And, Column, Comparison, Condition, In, IsNull, Not, Or
from features.windows import Rolling, Tumbling, Window

if TYPE_CHECKING:
    from features.view import Feature, FeatureView

_SECOND = timedelta(seconds=1)


def canonical(view: "FeatureView") -> dict[str, Any]:
    """What the values of a view mean; equal views have equal forms."""
    form: dict[str, Any] = {
        "name": view.name,
        "version": view.version,
        "source": view.source.spec().full_name,
        "entity": view.entity_fields[0] if len(view.entity_fields) == 1 else list(view.entity_fields),
        "time": view.time,
        "window": _window(view.window),
        "features": [_feature(view, feature) for feature in view.features],
    }
    if view.lookups:
        form["lookups"] = {
            lookup.name: {"record": lookup.record.spec().full_name, "on": dict(lookup.on)}
            for lookup in view.lookups
        }
    return form


def changed_meaning(applied: Mapping[str, Any], declared: "FeatureView") -> tuple[str, ...]:
    """Why `declared` is refused, a line per difference and the rule; empty where it is not.

    applied: the canonical form of a view as it was when it was applied. A view of another name or version
    is another view, which replaces nothing.
    """
    new = declared.canonical()
    if (applied["name"], applied["version"]) != (new["name"], new["version"]):
        return ()
    if _text(applied) == _text(new):
        return ()
    lines = _changes("", applied, new, ("source", "entity", "time", "window", "lookups"))
    old_features = {feature["name"]: feature for feature in applied["features"]}
    new_features = {feature["name"]: feature for feature in new["features"]}
    lines += [f"- feature {name}" for name in old_features if name not in new_features]
    lines += [f"+ feature {name}" for name in new_features if name not in old_features]
    for name, new_feature in new_features.items():
        if name in old_features:
            parts = tuple(dict.fromkeys((*old_features[name], *new_feature)))
            lines += _changes(f"~ feature {name}: ", old_features[name], new_feature, parts)
    if not lines:
        lines.append(f"order of features {', '.join(old_features)} -> {', '.join(new_features)}")
    rule = f"rule: an applied version keeps its meaning; declare version {declared.version + 1}"
    return (*lines, rule)


def _changes(what: str, old: Mapping[str, Any], new: Mapping[str, Any], parts: tuple[str, ...]) -> list[str]:
    return [
        f"{what}{part} {_text(old.get(part))} -> {_text(new.get(part))}"
        for part in parts
        if _text(old.get(part)) != _text(new.get(part))
    ]


def _text(value: Any) -> str:
    """JSON, in which 1, 1.0 and true differ."""
    return canonical_json(value).decode()


def _window(window: Window) -> str | dict[str, Any]:
    shape = type(window).__name__.lower()
    if isinstance(window, Rolling):
        return shape
    form: dict[str, Any] = {"shape": shape, "size_s": window.size // _SECOND}
    if not isinstance(window, Tumbling):
        form["every_s"] = window.every // _SECOND
    return form


def _feature(view: "FeatureView", feature: "Feature") -> dict[str, Any]:
    definition = feature.definition
    meaning = {"derived": _derived(definition)} if isinstance(definition, Derived) else _aggregate(definition)
    return {
        "name": feature.name,
        **meaning,
        "unit": feature.unit,
        "empty": feature.empty,
        "type": view.kind(feature),
    }


def _aggregate(aggregate: Aggregate) -> dict[str, Any]:
    if isinstance(aggregate, Ratio):
        return {
            "aggregate": "Ratio",
            "numerator": _simple(aggregate.numerator),
            "denominator": _simple(aggregate.denominator),
        }
    return _simple(aggregate)


def _simple(aggregate: Simple) -> dict[str, Any]:
    form: dict[str, Any] = {"aggregate": type(aggregate).__name__, "column": column_of(aggregate)}
    if aggregate.over is not None:
        form["over_s"] = aggregate.over // _SECOND
    if isinstance(aggregate, Quantile):
        form["p"] = aggregate.p
    if aggregate.where is not None:
        form["where"] = _condition(aggregate.where)
    return form


def _condition(condition: Condition) -> list[Any]:
    match condition:
        case Comparison(column, operator, Column(other)):
            return [operator, column, {"column": other}]
        case Comparison(column, operator, value):
            return [operator, column, value]
        case In(column, values):
            return ["in", column, list(values)]
        case IsNull(column):
            return ["is_null", column]
        case And(left, right):
            return ["and", _condition(left), _condition(right)]
        case Or(left, right):
            return ["or", _condition(left), _condition(right)]
        case Not(inner):
            return ["not", _condition(inner)]
    raise DeclarationError(f"{condition!r} is no filter", mend="build it with field(...)")


def _derived(derived: Derived) -> Any:
    match derived:
        case FeatureValue(name):
            return ["feature", name]
        case Literally(value):
            return value
        case Arithmetic(sign, left, right):
            return [sign, _derived(left), _derived(right)]
        case Coalesce(parts):
            return ["coalesce", *(_derived(part) for part in parts)]
        case Ago(name, by):
            return ["ago", name, by // _SECOND]
        case MovingAverage(name, over):
            return ["moving_average", name, over // _SECOND]
    raise DeclarationError(f"{derived!r} is no derived feature", mend="build it with feature(...)")
