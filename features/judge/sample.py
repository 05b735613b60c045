"""Events for a view at random: what `features verify` sends through the stream where nothing is recorded.

They are hard on purpose: several tenants with the same entities, entities that share a prefix or hold the
characters that keys escape, equal times, disorder within the view's bound, repeats of whole events, pauses
longer than any window, and events too late for their windows. Text columns take the values that the view's
filters ask for; no value is one that the record refuses. The same seed gives the same events.
"""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, get_type_hints

import msgspec
import pyarrow as pa

from core.errors import DeclarationError
from features.aggregates import simple_parts
from features.derived import Ago, Arithmetic, Coalesce, Derived, MovingAverage
from features.filters import And, Column, Comparison, Condition, In, Not, Or, Scalar
from features.lookups import Lookup
from features.view import FeatureView
from features.windows import Rolling
from schemas.codec import arrow_schema
from schemas.record import FieldSpec, Record

TENANTS = ("acme", "acme|", "b")
ENTITIES = ("north", "north|", "n%25orth", "ü", "south", "s", "7", "east", "e|ast", "west")
REPEATED, LATE, MISSING, UNKNOWN = 0.03, 0.01, 0.1, 0.2
_EPOCH = datetime(2020, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)


@dataclass(frozen=True)
class Sample:
    """events: in order of arrival, repeats and late ones included, in the Arrow schema of the record. late:
    ids that came behind the newest time of all by more than the bound and two seconds. references: for each
    lookup a table with a row for most of what the events look up."""

    events: pa.Table
    late: frozenset[tuple[str, str]]
    references: Mapping[str, pa.Table]


def sample(view: FeatureView, *, rows: int, seed: int, until: datetime) -> Sample:
    """About `rows` events of the view's source, the last at most at `until`.

    They lie in stretches of six of the shortest windows: one at the end, and one each span before it that a
    window or a derived feature reaches back, so that every look back finds something.
    """
    dice = random.Random(f"{view.digest} {seed}")
    values = _Values(view.source, _literals(view, ""), dice)
    length = 6 * (min(view.windows) if isinstance(view.window, Rolling) else view.window.every)
    spans = _apart(sorted({timedelta(0), *_spans(view)}), length)
    each = max(rows // len(spans), 1)
    gap = length / each
    made: list[dict[str, Any]] = []
    late: set[tuple[str, str]] = set()
    newest = None
    for stretch, span in enumerate(reversed(spans)):
        begin = until - span - gap * each
        for number in range(each):
            at = begin + gap * number + dice.random() * gap
            behind = dice.choice([0.0, 0.0, 0.5, 0.9]) * min(view.disorder, gap * 4)
            at = max(at - behind, begin)
            if dice.random() < 0.2 and made and newest is not None:
                at = max(made[-1][view.time], newest - view.disorder * 0.9)  # equal times are common
            event = _event(view, values, f"{seed}-{stretch}-{number}", at)
            if newest is not None and dice.random() < LATE:
                event[view.time] = _whole(newest - view.disorder - timedelta(seconds=2) - gap * 20)
                late.add((event["tenant"], event["id"]))
            made.append(event)
            newest = event[view.time] if newest is None else max(newest, event[view.time])
            if dice.random() < REPEATED:
                made.append(dict(dice.choice(made[-50:])))
    schema = arrow_schema(view.source.spec())
    references = {lookup.name: _reference(view, lookup, made, dice) for lookup in view.lookups}
    return Sample(pa.Table.from_pylist(made, schema=schema), frozenset(late), references)


def _reference(
    view: FeatureView, lookup: Lookup, events: list[dict[str, Any]], dice: random.Random
) -> pa.Table:
    spec = lookup.record.spec()
    values = _Values(lookup.record, _literals(view, f"{lookup.name}."), dice)
    keys = {(event["tenant"], *(event[name] for name in lookup.on)): None for event in events}
    rows = []
    for tenant, *found in sorted(key for key in keys if None not in key):
        if dice.random() < UNKNOWN:
            continue
        row = {"tenant": tenant, "id": "|".join(map(str, found))}
        row |= dict(zip(lookup.on.values(), found, strict=True))
        for field in spec.fields:
            if field.name not in row:
                row[field.name] = _EPOCH if field.kind == "time" else values.of(field)
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=arrow_schema(spec))


def _spans(view: FeatureView) -> Iterator[timedelta]:
    yield from (window * 1.01 for window in view.windows)
    for feature in view.features:
        if isinstance(feature.definition, Derived):
            yield from _looks_back(feature.definition)


def _looks_back(derived: Derived) -> Iterator[timedelta]:
    match derived:
        case Ago(_, by):
            yield by
        case MovingAverage(_, over):
            yield over
        case Arithmetic(_, left, right):
            yield from (*_looks_back(left), *_looks_back(right))
        case Coalesce(parts):
            for part in parts:
                yield from _looks_back(part)


def _apart(spans: list[timedelta], length: timedelta) -> list[timedelta]:
    """Those of them, ascending, whose stretches do not overlap."""
    kept = spans[:1]
    for span in spans[1:]:
        if span - kept[-1] >= length:
            kept.append(span)
    return kept


def _event(view: FeatureView, values: "_Values", id: str, at: datetime) -> dict[str, Any]:
    dice = values.dice
    made: dict[str, Any] = {"tenant": dice.choice(TENANTS), "id": id, view.time: _whole(at)}
    for field in view.source.spec().fields:
        if field.name in made:
            continue
        if field.name in view.entity_fields:
            made[field.name] = ENTITIES[min(int(dice.expovariate(0.4)), len(ENTITIES) - 1)]
        elif field.nullable and (field.name not in view.columns or dice.random() < MISSING):
            made[field.name] = None
        else:
            made[field.name] = values.of(field)
    return made


class _Values:
    """Values that fit the fields of a record; `wanted` by field: those that filters ask for."""

    def __init__(self, record: type[Record], wanted: Mapping[str, list[Scalar]], dice: random.Random) -> None:
        self.dice = dice
        self._record = record
        self._types = get_type_hints(record, include_extras=True)
        self._wanted = wanted
        self._fitting: dict[str, tuple[list[Any], list[Any]]] = {}

    def of(self, field: FieldSpec) -> Any:
        """Raises DeclarationError for a field that takes none of the values tried."""
        if field.name not in self._fitting:
            wanted = [v for v in self._wanted.get(field.name, []) if self._fits(field, v)]
            others = [v for v in _CANDIDATES.get(field.kind, [None]) if self._fits(field, v)]
            if not others and not wanted:
                raise DeclarationError(
                    f"no value for field {field.name!r} comes to mind",
                    where=f"record {self._record.__name__}",
                    mend="verify the view over recorded events",
                )
            self._fitting[field.name] = (wanted, others)
        wanted, others = self._fitting[field.name]
        if wanted and (not others or self.dice.random() < 0.7):
            return self.dice.choice(wanted)
        return self.dice.choice(others)

    def _fits(self, field: FieldSpec, value: Any) -> bool:
        try:
            msgspec.convert(value, self._types[field.name])
        except msgspec.ValidationError:
            return False
        return True


_CANDIDATES: Mapping[str, list[Any]] = {
    "string": ["x", "y", "X", "ü|", "medium"],
    "int": [0, 1, 3, -7, 40_000],
    "long": [0, 1, 7, 250, 1_999, 2_000, 20_000, 3_000_000_000],
    "float": [0.0, 0.25, 1.5, -2.75, 1_000.125],
    "double": [0.0, 0.25, 1.5, -2.75, 1_000.125],
    "boolean": [True, False],
    "bytes": [b""],
    "array": [[]],
    "map": [{}],
    "time": [_EPOCH],
}


def _literals(view: FeatureView, prefix: str) -> dict[str, list[Scalar]]:
    """What filters compare the fields of the record with; of a lookup, with its prefix, its columns."""
    found: dict[str, list[Scalar]] = {}
    for _, aggregate in view.aggregates:
        for part in simple_parts(aggregate):
            if part.where is not None:
                _collect(part.where, found)
    return {name[len(prefix) :]: values for name, values in found.items() if name.startswith(prefix)}


def _collect(condition: Condition, found: dict[str, list[Scalar]]) -> None:
    match condition:
        case Comparison(_, _, Column(_)):
            return
        case Comparison(column, _, value):
            found.setdefault(column, []).append(value)  # type: ignore[arg-type]
        case In(column, values):
            found.setdefault(column, []).extend(values)
        case And(left, right) | Or(left, right):
            _collect(left, found)
            _collect(right, found)
        case Not(inner):
            _collect(inner, found)


def _whole(at: datetime) -> datetime:
    """Milliseconds: what Avro and Flink keep."""
    return at.replace(microsecond=at.microsecond // 1000 * 1000)
