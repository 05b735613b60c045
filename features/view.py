"""Feature views: per-entity features of an event stream, declared once as data.

A view compiles to Flink SQL (the stream), DuckDB SQL (training sets and the judge of the stream) and
reads of the online store. What its values *mean* has a digest: name, version, source, entity, time and
features. How it is run (disorder bound, time to live, tolerance of the check) is not part of it.
"""

import re
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import Any, Literal

from core.errors import DeclarationError
from core.ids import canonical_json, digest
from features.aggregates import Aggregate, Count, CountDistinct, Max, Mean, Std, Sum
from schemas.record import FieldSpec, Kind, Record

__all__ = [
    "Aggregate", "Count", "CountDistinct", "Feature", "FeatureView", "Max", "Mean", "Rolling", "Std", "Sum",
]  # fmt: skip

Value = int | float | None
_NAME = re.compile(r"^[a-z][a-z0-9_]*$")
_INTEGERS: tuple[Kind, ...] = ("int", "long")
_NUMBERS: tuple[Kind, ...] = ("int", "long", "float", "double")
_COUNTABLE: tuple[Kind, ...] = ("string", "int", "long", "boolean")
_SECOND = timedelta(seconds=1)


@dataclass(frozen=True)
class Rolling:
    """For every event: all events of the entity up to its own time, itself and equal times included."""


@dataclass(frozen=True)
class Feature:
    """One named value. `empty` is what it is when its window has no values (None: not known)."""

    name: str
    aggregate: Aggregate
    unit: str
    empty: Value = None

    @property
    def over(self) -> timedelta:
        return self.aggregate.over

    @property
    def column(self) -> str | None:
        """The aggregated column; None for a count of rows."""
        return None if isinstance(self.aggregate, Count) else self.aggregate.column


@dataclass(frozen=True)
class FeatureView:
    """Features of `entity` over the events of `source`.

    disorder: how much older than the newest event an event may be and still be counted in time.
    ttl: how long the online form of an idle entity is kept; at least the longest window.
    tolerance: relative difference of double features that `features verify` still calls equal. The
        default 1e-9 is a thousand times what one division and one square root can differ by (2^-52 each)
        and a thousand times below a cent in ten thousand dollars; views over float columns widen it.
    """

    name: str
    version: int
    source: type[Record]
    entity: str
    disorder: timedelta
    features: tuple[Feature, ...]
    ttl: timedelta
    window: Rolling = Rolling()
    tolerance: float = 1e-9

    def __post_init__(self) -> None:
        spec = self.source.spec()
        if not _NAME.match(self.name):
            self._refuse(f"view name {self.name!r}", "use lower case letters, digits and _")
        if self.version < 1:
            self._refuse(f"version {self.version}", "count versions from 1")
        if not self.features:
            self._refuse("a view without features", "declare at least one Feature")
        if spec.field(self.entity).kind != "string" or spec.field(self.entity).nullable:
            self._refuse(f"entity {self.entity!r} is no required string", "name a field that is always there")
        if self.disorder < timedelta(0):
            self._refuse(f"disorder {self.disorder}", "give zero or more")
        if not 0 <= self.tolerance < 1:
            self._refuse(f"tolerance {self.tolerance}", "give a relative difference, 0 <= t < 1")
        seen: set[str] = set(spec.names)
        for feature in self.features:
            self._check(feature, seen)
            seen.add(feature.name)
        if self.ttl < self.windows[-1]:
            self._refuse(
                f"ttl {self.ttl} is below the window {self.windows[-1]}", "keep rows as long as windows"
            )

    def _check(self, feature: Feature, seen: set[str]) -> None:
        if not _NAME.match(feature.name):
            self._refuse(f"feature name {feature.name!r}", "use lower case letters, digits and _")
        if feature.name in seen:
            self._refuse(
                f"feature {feature.name!r} is there twice", "features and record fields share one name space"
            )
        if feature.over < _SECOND or feature.over % _SECOND:
            self._refuse(f"{feature.name}: window of {feature.over}", "give whole seconds, at least one")
        if feature.over > timedelta(days=99):
            self._refuse(f"{feature.name}: window of {feature.over}", "give at most 99 days")
        if feature.column is None:
            return
        kind = self.source.spec().field(feature.column).kind
        allowed = _COUNTABLE if isinstance(feature.aggregate, CountDistinct) else _NUMBERS
        if kind not in allowed:
            self._refuse(
                f"{feature.name}: {type(feature.aggregate).__name__} of {feature.column!r}, a {kind}",
                f"use a column of {', '.join(allowed)}",
            )

    def _refuse(self, what: str, mend: str) -> None:
        raise DeclarationError(what, where=self.where, mend=mend)

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
    def feature_names(self) -> tuple[str, ...]:
        return tuple(feature.name for feature in self.features)

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The aggregated columns, each once, in order of first use."""
        return tuple(dict.fromkeys(f.column for f in self.features if f.column is not None))

    @cached_property
    def windows(self) -> tuple[timedelta, ...]:
        """The distinct windows, shortest first."""
        return tuple(sorted({feature.over for feature in self.features}))

    def over(self, window: timedelta) -> tuple[Feature, ...]:
        """The features over that window, as declared."""
        return tuple(feature for feature in self.features if feature.over == window)

    def column_spec(self, feature: Feature) -> FieldSpec | None:
        return None if feature.column is None else self.source.spec().field(feature.column)

    def is_exact(self, feature: Feature) -> bool:
        """Whether the feature is built from integers only (see `features.aggregates`)."""
        column = self.column_spec(feature)
        return column is None or isinstance(feature.aggregate, CountDistinct) or column.kind in _INTEGERS

    def kind(self, feature: Feature) -> Literal["long", "double"]:
        """The type of the feature's value."""
        if isinstance(feature.aggregate, Mean | Std) or not self.is_exact(feature):
            return "double"
        return "long"

    def canonical(self) -> dict[str, Any]:
        """What the values mean, as JSON data; equal views have equal forms."""
        return {
            "name": self.name,
            "version": self.version,
            "source": self.source.spec().full_name,
            "entity": self.entity,
            "time": self.time,
            "window": type(self.window).__name__.lower(),
            "features": [
                {
                    "name": feature.name,
                    "aggregate": type(feature.aggregate).__name__,
                    "column": feature.column,
                    "over_s": feature.over // _SECOND,
                    "unit": feature.unit,
                    "empty": feature.empty,
                    "type": self.kind(feature),
                }
                for feature in self.features
            ],
        }

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the canonical form, in hex."""
        return digest(canonical_json(self.canonical()))
