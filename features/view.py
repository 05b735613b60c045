"""Feature views: per-entity features of an event stream, declared once as data.

A view compiles to Flink SQL (the stream), DuckDB SQL (training sets and the judge of the stream) and
reads of the online store. What its values *mean* has a digest: name, version, source, lookups, entity, time,
window and features. How it is run (disorder bound, times to live, tolerance of the check) is not part of it.
"""

from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import Any

from core.errors import DeclarationError, UnknownName
from core.ids import canonical_json, digest
from features import checks, identity, kinds
from features.aggregates import (
    Aggregate,
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
    reads,
)
from features.derived import (
    Derived,
    ago,
    change,
    coalesce,
    feature,
    in_levels,
    moving_average,
    same_hour_last_week,
    same_hour_yesterday,
)
from features.filters import field
from features.kinds import ValueKind
from features.lookups import Lookup
from features.windows import ROLLING, Cumulating, Hopping, Rolling, Tumbling, Window
from schemas.record import FieldSpec, Record

__all__ = [
    "Aggregate", "Count", "CountDistinct", "Cumulating", "Derived", "Feature", "FeatureView", "First",
    "Hopping", "Last", "Lookup", "Max", "Mean", "Min", "Quantile", "Ratio", "Rolling", "Std", "Sum",
    "Tumbling", "Value", "ValueKind", "ago", "change", "coalesce", "feature", "field", "moving_average",
    "same_hour_last_week", "same_hour_yesterday",
]  # fmt: skip

Value = int | float | str | bool | None


@dataclass(frozen=True)
class Feature:
    """One named value: an aggregate over the window's rows, or derived from other features.

    empty: what it is where there would be no value: its window has none, or the derived expression is null
        (None: not known). It is also what a window without any row counts as for `ago` and the like.
    ttl: how long a value is good after its event time; None: as long as the view keeps it.
    """

    name: str
    definition: Aggregate | Derived
    unit: str
    empty: Value = None
    ttl: timedelta | None = None

    @property
    def over(self) -> timedelta | None:
        """The window of an aggregate in a rolling view."""
        return None if isinstance(self.definition, Derived) else self.definition.over


@dataclass(frozen=True)
class FeatureView:
    """Features of `entity` over the events of `source`.

    entity: a required string field, or several: then the key joins them (`schemas.keys.entity_of`). In a
        windowed view also string columns of a lookup; events without a value there are in no window.
    disorder: how much older than the newest event an event may be and still be counted in time.
    ttl: how long the online form of an idle entity is kept; in a rolling view at least the longest window.
    tolerance: relative difference of double features that `features verify` still calls equal. The
        default 1e-9 is a thousand times what one division and one square root can differ by (2^-52 each)
        and a thousand times below a cent in ten thousand dollars; views over float columns widen it.
    lookups: reference tables whose columns can be used as `lookup.column`.

    Raises DeclarationError for what cannot be computed, UnknownName for a name that is not there.
    """

    name: str
    version: int
    source: type[Record]
    entity: str | tuple[str, ...]
    disorder: timedelta
    features: tuple[Feature, ...]
    ttl: timedelta
    window: Window = ROLLING
    tolerance: float = 1e-9
    lookups: tuple[Lookup, ...] = ()

    def __post_init__(self) -> None:
        checks.check(self)

    @property
    def where(self) -> str:
        return f"feature view {self.name} v{self.version} over {self.source.__name__}"

    @property
    def time(self) -> str:
        """The event time field of the source."""
        time = self.source.spec().time
        if time is None:
            raise DeclarationError(f"{self.source.__name__} names no event time", where=self.where)
        return time

    @cached_property
    def entity_fields(self) -> tuple[str, ...]:
        return (self.entity,) if isinstance(self.entity, str) else self.entity

    @property
    def single_entity(self) -> str:
        """The entity field of a view that has one; raises DeclarationError for a composite entity."""
        if len(self.entity_fields) != 1:
            raise DeclarationError(f"entity {self.entity_fields} is no single field", where=self.where)
        return self.entity_fields[0]

    @cached_property
    def feature_names(self) -> tuple[str, ...]:
        return tuple(feature.name for feature in self.features)

    def feature(self, name: str) -> Feature:
        """The feature of that name; raises UnknownName with the nearest one."""
        for one in self.features:
            if one.name == name:
                return one
        raise UnknownName("feature", name, self.feature_names, where=self.where)

    def field(self, name: str) -> FieldSpec:
        """The field of the record or column of a lookup; raises UnknownName with the nearest one."""
        for lookup in self.lookups:
            prefix, _, column = name.partition(".")
            if prefix == lookup.name and column in lookup.record.spec().names:
                return lookup.record.spec().field(column)
        if name in self.source.spec().names:
            return self.source.spec().field(name)
        known = [*self.source.spec().names, *(name for lookup in self.lookups for name in lookup.columns)]
        raise UnknownName("field", name, known, where=self.where)

    @cached_property
    def aggregates(self) -> tuple[tuple[Feature, Aggregate], ...]:
        """The features that are aggregates, in order."""
        return tuple((f, f.definition) for f in self.features if not isinstance(f.definition, Derived))

    @cached_property
    def derived_levels(self) -> tuple[tuple[tuple[Feature, Derived], ...], ...]:
        """The derived features, each on a level above the features it reads."""
        derived = {f.name: f.definition for f in self.features if isinstance(f.definition, Derived)}
        levels = in_levels(derived, where=self.where)
        return tuple(tuple((self.feature(name), derived[name]) for name in level) for level in levels)

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """What the aggregates and the entity read: fields of the record and columns of lookups, each once."""
        found = [name for _, aggregate in self.aggregates for name in reads(aggregate)]
        return tuple(dict.fromkeys([*found, *(name for name in self.entity_fields if "." in name)]))

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The fields of the record that are needed besides tenant, id, entity and time: aggregated, filtered
        by or looked up with; each once, in order of first use."""
        found = [name for name in self.inputs if "." not in name]
        found += [name for lookup in self.lookups for name in lookup.on]
        return tuple(dict.fromkeys(found))

    @cached_property
    def windows(self) -> tuple[timedelta, ...]:
        """The distinct windows of a rolling view, shortest first."""
        return tuple(sorted({feature.over for feature in self.features if feature.over is not None}))

    def over(self, window: timedelta) -> tuple[Feature, ...]:
        """The features over that window, as declared."""
        return tuple(feature for feature in self.features if feature.over == window)

    def ttl_of(self, feature: Feature) -> timedelta:
        """How long a value of the feature is good after its event time."""
        return self.ttl if feature.ttl is None else feature.ttl

    @cached_property
    def _kinds(self) -> dict[str, ValueKind]:
        found = {f.name: kinds.aggregate_kind(aggregate, self.field) for f, aggregate in self.aggregates}
        for level in self.derived_levels:
            for f, derived in level:
                found[f.name] = kinds.derived_kind(derived, found.__getitem__, f"{self.where}, {f.name}")
        return found

    def kind(self, feature: Feature) -> ValueKind:
        """The type of the feature's value."""
        return self._kinds[feature.name]

    def canonical(self) -> dict[str, Any]:
        """What the values mean, as JSON data; equal views have equal forms."""
        return identity.canonical(self)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the canonical form, in hex."""
        return digest(canonical_json(self.canonical()))
