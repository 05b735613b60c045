"""What is refused when a view is built, with the reason and how to mend it."""

import math
import re
from datetime import timedelta
from typing import TYPE_CHECKING

from core.errors import DeclarationError, UnknownName
from features.aggregates import (
    Aggregate,
    Count,
    CountDistinct,
    First,
    Last,
    Quantile,
    Ratio,
    Simple,
    simple_parts,
)
from features.derived import Arithmetic, Coalesce, Derived, Literally, features_of, times_of
from features.filters import And, Column, Comparison, Condition, In, IsNull, Not, Or, Scalar
from features.kinds import COLUMN_KINDS, ValueKind, value_kind
from features.lookups import Lookup
from features.windows import Rolling, Tumbling, Windowed
from schemas.record import Kind

if TYPE_CHECKING:
    from features.view import Feature, FeatureView

RESERVED = ("at_ms", "window_start", "window_end")
"""Names that the compiled SQL gives its own columns."""
LONGEST = timedelta(days=99)
_NAME = re.compile(r"^[a-z][a-z0-9_]*$")
_NUMBERS: tuple[Kind, ...] = ("int", "long", "float", "double")
_COUNTABLE: tuple[Kind, ...] = ("string", "int", "long", "boolean")
_SECOND = timedelta(seconds=1)
_MILLI = timedelta(milliseconds=1)


def check(view: "FeatureView") -> None:
    """Raises DeclarationError for what cannot be computed, UnknownName for a name that is not there."""
    if not _NAME.match(view.name):
        _refuse(view, f"view name {view.name!r}", "use lower case letters, digits and _")
    if view.version < 1:
        _refuse(view, f"version {view.version}", "count versions from 1")
    if not view.features:
        _refuse(view, "a view without features", "declare at least one Feature")
    if view.disorder < timedelta(0):
        _refuse(view, f"disorder {view.disorder}", "give zero or more")
    if not 0 <= view.tolerance < 1:
        _refuse(view, f"tolerance {view.tolerance}", "give a relative difference, 0 <= t < 1")
    if view.ttl < _MILLI:
        _refuse(view, f"ttl {view.ttl}", "give at least a millisecond")
    if not isinstance(view.window, Rolling):
        _check_window(view, view.window)
    _check_lookups(view)
    _check_entity(view)
    _check_names(view)
    for feature in view.features:
        if isinstance(feature.definition, Derived):
            _check_derived(view, feature, feature.definition)
        else:
            _check_aggregate(view, feature, feature.definition)
        _check_ttl(view, feature)
    for feature in view.features:  # kinds need every feature to be right
        _check_empty(view, feature, view.kind(feature))
    if view.windows and view.ttl < view.windows[-1]:
        _refuse(
            view, f"ttl {view.ttl} is below the window {view.windows[-1]}", "keep rows as long as windows"
        )


def _refuse(view: "FeatureView", what: str, mend: str) -> None:
    raise DeclarationError(what, where=view.where, mend=mend)


def _check_window(view: "FeatureView", window: Windowed) -> None:
    shape = type(window).__name__
    _check_span(view, f"{shape} windows", window.size)
    if isinstance(window, Tumbling):
        return
    _check_span(view, f"{shape} windows each", window.every)
    if window.every >= window.size or window.size % window.every:
        _refuse(
            view,
            f"{shape} windows of {window.size} each {window.every}",
            "let `every` be a whole part of `size`; windows that follow each other are Tumbling",
        )


def _check_span(view: "FeatureView", what: str, span: timedelta) -> None:
    if span < _SECOND or span % _SECOND:
        _refuse(view, f"{what} of {span}", "give whole seconds, at least one")
    if span > LONGEST:
        _refuse(view, f"{what} of {span}", f"give at most {LONGEST.days} days")


def _check_lookups(view: "FeatureView") -> None:
    names = [lookup.name for lookup in view.lookups]
    for lookup in view.lookups:
        if not _NAME.match(lookup.name):
            _refuse(view, f"lookup name {lookup.name!r}", "use lower case letters, digits and _")
        if names.count(lookup.name) > 1:
            _refuse(view, f"lookup {lookup.name!r} is there twice", "give one of them another name")
        if not lookup.on:
            _refuse(view, f"lookup {lookup.name!r} has no key", "say which field equals which column")
        for name, column in lookup.on.items():
            _check_key(view, lookup, name, column)


def _check_key(view: "FeatureView", lookup: Lookup, name: str, column: str) -> None:
    if "." in name:
        _refuse(view, f"lookup {lookup.name!r} by {name!r}", "look up by a field of the record itself")
    ours, theirs = view.field(name), lookup.record.spec().field(column)
    kinds = {COLUMN_KINDS.get(ours.kind), COLUMN_KINDS.get(theirs.kind)}
    if kinds not in ({"string"}, {"long"}):
        _refuse(
            view,
            f"lookup {lookup.name!r}: {name!r}, a {ours.kind}, equals {column!r}, a {theirs.kind}",
            "join two strings or two integers",
        )


def _check_entity(view: "FeatureView") -> None:
    if not view.entity_fields or len(set(view.entity_fields)) != len(view.entity_fields):
        _refuse(view, f"entity {view.entity!r}", "name one field, or several different ones")
    for name in view.entity_fields:
        spec = view.field(name)
        if "." in name and isinstance(view.window, Rolling):
            _refuse(
                view,
                f"entity {name!r} of a rolling view: every event has features, its lookup may find nothing",
                "name a field of the record, or declare a windowed view",
            )
        if spec.kind != "string" or (spec.nullable and "." not in name):
            _refuse(view, f"entity {name!r} is no required string", "name a field that is always there")


def _check_names(view: "FeatureView") -> None:
    seen: set[str] = set(view.source.spec().names)
    for feature in view.features:
        if not _NAME.match(feature.name):
            _refuse(view, f"feature name {feature.name!r}", "use lower case letters, digits and _")
        if feature.name in seen:
            _refuse(
                view,
                f"feature {feature.name!r} is there twice",
                "features and record fields share one name space",
            )
        seen.add(feature.name)
    for name in RESERVED:
        if name in view.feature_names or name in (*view.entity_fields, *view.columns):
            _refuse(view, f"the name {name!r} is the framework's own", "give it another name")


def _check_aggregate(view: "FeatureView", feature: "Feature", aggregate: Aggregate) -> None:
    parts = simple_parts(aggregate)
    for part in parts:
        _check_over(view, feature, part)
        _check_column(view, feature, part)
        if part.where is not None:
            _check_condition(view, feature, part.where)
    if isinstance(aggregate, Ratio):
        if len({part.over for part in parts}) > 1:
            _refuse(
                view,
                f"{feature.name}: a ratio over {parts[0].over} and {parts[1].over}",
                "give both the same window, or divide two features: feature(...) / feature(...)",
            )
        for part in parts:
            if isinstance(part, First | Last) and view.field(part.column).kind not in _NUMBERS:
                _refuse(view, f"{feature.name}: a ratio of {part.column!r}", "divide numbers")


def _check_over(view: "FeatureView", feature: "Feature", aggregate: Simple) -> None:
    if not isinstance(view.window, Rolling):
        if aggregate.over is not None:
            _refuse(
                view,
                f"{feature.name}: over {aggregate.over} in a windowed view",
                "leave `over` out: the window is the view's",
            )
    elif aggregate.over is None:
        _refuse(view, f"{feature.name}: no window", "say `over=`: a rolling view has none of its own")
    else:
        _check_span(view, f"{feature.name}: window", aggregate.over)


def _check_column(view: "FeatureView", feature: "Feature", aggregate: Simple) -> None:
    if isinstance(aggregate, Count):
        return
    if isinstance(aggregate, CountDistinct):
        allowed = _COUNTABLE
    else:
        allowed = tuple(COLUMN_KINDS) if isinstance(aggregate, First | Last) else _NUMBERS
    kind = view.field(aggregate.column).kind
    if kind not in allowed:
        _refuse(
            view,
            f"{feature.name}: {type(aggregate).__name__} of {aggregate.column!r}, a {kind}",
            f"use a column of {', '.join(allowed)}",
        )
    if isinstance(aggregate, Quantile) and not 0 <= aggregate.p <= 1:
        _refuse(view, f"{feature.name}: the quantile {aggregate.p}", "give 0 <= p <= 1")


def _check_condition(view: "FeatureView", feature: "Feature", condition: Condition) -> None:
    match condition:
        case And(left, right) | Or(left, right):
            _check_condition(view, feature, left)
            _check_condition(view, feature, right)
        case Not(inner):
            _check_condition(view, feature, inner)
        case IsNull(column):
            view.field(column)
        case In(column, values):
            if not values:
                _refuse(view, f"{feature.name}: {column!r} in no values", "name at least one value")
            for value in values:
                _check_pair(view, feature, column, "=", value)
        case Comparison(column, operator, Column(other)):
            ours, theirs = _compared(view, feature, column), _compared(view, feature, other)
            if ours != theirs:
                _refuse(
                    view,
                    f"{feature.name}: {column!r}, a {ours}, compared with {other!r}, a {theirs}",
                    "compare columns of one sort",
                )
            _check_order(view, feature, column, operator, ours)
        case Comparison(column, operator, str() | int() | float() as value):
            _check_pair(view, feature, column, operator, value)
        case _:
            _refuse(view, f"{feature.name}: {condition!r} is no filter", "build it with field(...)")


def _compared(view: "FeatureView", feature: "Feature", column: str) -> ValueKind:
    kind = view.field(column).kind
    if kind not in COLUMN_KINDS:
        raise DeclarationError(
            f"{feature.name}: {column!r}, a {kind}, in a filter",
            where=view.where,
            mend=f"compare a column of {', '.join(COLUMN_KINDS)}",
        )
    return COLUMN_KINDS[kind]


def _check_pair(view: "FeatureView", feature: "Feature", column: str, operator: str, value: Scalar) -> None:
    ours, theirs = _compared(view, feature, column), value_kind(value)
    if ours != theirs and (ours, theirs) != ("double", "long"):
        _refuse(
            view,
            f"{feature.name}: {column!r}, a {ours}, compared with {value!r}, a {theirs}",
            "compare with a value of the column's type",
        )
    _check_constant(view, feature, value)
    _check_order(view, feature, column, operator, ours)


def _check_order(view: "FeatureView", feature: "Feature", column: str, operator: str, kind: str) -> None:
    if kind == "boolean" and operator not in ("=", "<>"):
        _refuse(view, f"{feature.name}: {column!r} {operator} ...", "compare booleans with == or !=")


def _check_constant(view: "FeatureView", feature: "Feature", value: Scalar) -> None:
    """What every engine can write and read back."""
    if isinstance(value, str):
        if "\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value):
            _refuse(view, f"{feature.name}: {value!r} is no text", "leave out NUL and lone surrogates")
    elif isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            _refuse(view, f"{feature.name}: {value} does not fit into 64 bits", "give a smaller number")
    elif not math.isfinite(value):
        _refuse(view, f"{feature.name}: {value} is no number", "give a finite number")


def _check_derived(view: "FeatureView", feature: "Feature", derived: Derived) -> None:
    for name in features_of(derived):
        if name not in view.feature_names:
            raise UnknownName("feature", name, view.feature_names, where=f"{view.where}, {feature.name}")
    if not features_of(derived):
        _refuse(view, f"{feature.name}: derived from no feature", "read at least one feature")
    for function, span in times_of(derived):
        if isinstance(view.window, Rolling):
            _refuse(
                view,
                f"{feature.name}: {function} in a rolling view, which has values at events only: "
                f"there is none exactly {span} earlier",
                "declare it in a windowed view (Tumbling, Hopping, Cumulating)",
            )
        elif span < view.window.every or span % view.window.every:
            _refuse(
                view,
                f"{feature.name}: {function} {span}, but windows end each {view.window.every}",
                "give a multiple of that, at least once",
            )
        elif span > LONGEST:
            _refuse(view, f"{feature.name}: {function} {span}", f"give at most {LONGEST.days} days")
    _check_constants(view, feature, derived)


def _check_constants(view: "FeatureView", feature: "Feature", derived: Derived) -> None:
    match derived:
        case Literally(value):
            _check_constant(view, feature, value)
        case Arithmetic(_, left, right):
            _check_constants(view, feature, left)
            _check_constants(view, feature, right)
        case Coalesce(parts):
            for part in parts:
                _check_constants(view, feature, part)


def _check_ttl(view: "FeatureView", feature: "Feature") -> None:
    if feature.ttl is not None and not _MILLI <= feature.ttl <= view.ttl:
        _refuse(
            view,
            f"{feature.name}: ttl {feature.ttl}",
            f"give at least a millisecond and at most the view's, {view.ttl}",
        )


def _check_empty(view: "FeatureView", feature: "Feature", kind: ValueKind) -> None:
    if feature.empty is None:
        return
    given = value_kind(feature.empty)
    if given != kind and (kind, given) != ("double", "long"):
        _refuse(
            view,
            f"{feature.name}: empty {feature.empty!r} of a {kind}",
            "give a value of the feature's type",
        )
    _check_constant(view, feature, feature.empty)
