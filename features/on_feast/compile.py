"""Feature views and services as Feast objects. Data only, never a pickled function.

Every view has the join key `tenant` (an entity of its own, shared by all views) and one per field of its
entity; all are strings. The Feast ttl is the view's; units, empty values and times to live of features are
tags of the fields. What a feature computes is told in its description: Feast runs none of it.

    windowed  fields as declared, time `window_end`. Can be materialized, and pushed to through the push
              source `<view>_push`.
    rolling   online values are computed from the entity's recent rows as of the read, so there is nothing to
              materialize or push: `online` is off, which for Feast only means that. Reads work.

The batch source is the Delta table of the view's rows (`FileSource` with `DeltaFormat`), which Feast's own
offline stores cannot read here: Dask takes every file in the folder, also those that a compaction replaced,
and DuckDB's wants an extension from the network. `features.on_feast.history` reads it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import feast
from feast.data_format import DeltaFormat
from feast.types import Bool, Float64, Int64, PrimitiveFeastType, String
from feast.value_type import ValueType

from core.errors import DeclarationError, UnknownName
from core.ids import canonical_json
from features.derived import Derived
from features.feature_rows import WINDOW_END, field_name
from features.kinds import ValueKind
from features.on_feast.forms import FORM, TENANT, form_text
from features.services import FeatureService
from features.view import Feature, FeatureView
from features.windows import Rolling

_TYPES: dict[ValueKind, PrimitiveFeastType] = {
    "long": Int64, "double": Float64, "string": String, "boolean": Bool,
}  # fmt: skip
_TOLD = ("name", "type", "unit", "empty")
"""Parts of a feature's meaning that the field says otherwise."""
_MS = timedelta(milliseconds=1)


@dataclass(frozen=True)
class FeastObjects:
    """What `FeatureStore.apply` takes, each once."""

    entities: tuple[feast.Entity, ...]
    views: tuple[feast.FeatureView, ...]
    services: tuple[feast.FeatureService, ...]


def compile_feast(
    views: Sequence[FeatureView], services: Sequence[FeatureService] = (), *, history: Mapping[str, Path]
) -> FeastObjects:
    """The objects of these views and services. history: by view name, the folder of the Delta table of its
    rows, which need not be there yet.

    Raises DeclarationError for a view that Feast cannot hold, with the reasons, or two of one name;
    UnknownName for a service over another view, or a view without a folder.
    """
    entities: dict[str, feast.Entity] = {}
    made: dict[str, feast.FeatureView] = {}
    for view in views:
        if view.name in made:
            raise DeclarationError(
                f"{view.name} is there twice",
                where=view.where,
                mend="Feast has one view of a name: apply one",
            )
        if view.name not in history:
            raise UnknownName("history of view", view.name, history, where=view.where)
        keys = join_keys(view)
        _check(view, keys)
        entities |= {key: _entity(key) for key in keys if key not in entities}
        made[view.name] = _view(view, [entities[key] for key in keys], history[view.name])
    return FeastObjects(
        tuple(entities.values()),
        tuple(made.values()),
        tuple(_service(service, views, made) for service in services),
    )


def join_keys(view: FeatureView) -> tuple[str, ...]:
    """`tenant`, then the fields of the entity; `lookup.column` is written `lookup_column`."""
    return (TENANT, *(field_name(name) for name in view.entity_fields))


def push_source(view: FeatureView) -> str:
    """The name of a windowed view's push source."""
    return f"{view.name}_push"


def _check(view: FeatureView, keys: tuple[str, ...]) -> None:
    taken = [*keys, *view.feature_names]
    twice = sorted({name for name in taken if taken.count(name) > 1})
    if twice:
        raise DeclarationError(
            f"Feast cannot hold {view.name} v{view.version}: {', '.join(twice)} would be a column twice",
            where=view.where,
            mend=f"rename it; the columns are {', '.join(keys)} and the features",
        )


def _entity(key: str) -> feast.Entity:
    description = "whose it is; from the caller's credential" if key == TENANT else ""
    return feast.Entity(name=key, value_type=ValueType.STRING, description=description)


def _view(view: FeatureView, entities: list[feast.Entity], history: Path) -> feast.FeatureView:
    rolling = isinstance(view.window, Rolling)
    rows = feast.FileSource(
        name=f"{view.name}_rows",
        path=str(history),
        timestamp_field=view.time if rolling else WINDOW_END,
        file_format=DeltaFormat(),
    )
    keys = [feast.Field(name=entity.join_key, dtype=String) for entity in entities]
    meanings = view.canonical()["features"]
    features = [_field(view, *one) for one in zip(view.features, meanings, strict=True)]
    return feast.FeatureView(
        name=view.name,
        entities=entities,
        schema=[*keys, *features],
        ttl=view.ttl,
        source=rows if rolling else feast.PushSource(name=push_source(view), batch_source=rows),
        online=not rolling,
        description=_description(view),
        tags={
            "millstream.version": str(view.version),
            "millstream.digest": view.digest,
            "millstream.source": view.source.spec().full_name,
            FORM: form_text(view),
        },
    )


def _description(view: FeatureView) -> str:
    if isinstance(view.window, Rolling):
        return "Rolling: computed as of the read from the entity's recent rows; not materialized, not pushed."
    return f"Windows {_json(view.canonical()['window'])}; a value's event time is the end of its window."


def _field(view: FeatureView, feature: Feature, meaning: Mapping[str, Any]) -> feast.Field:
    tags = {"unit": feature.unit, "empty": _json(feature.empty)}
    if feature.ttl is not None:
        tags["ttl_ms"] = str(feature.ttl // _MS)
    if isinstance(feature.definition, Derived):
        tags["derived"] = "true"
    return feast.Field(
        name=feature.name,
        dtype=_TYPES[view.kind(feature)],
        description=_json({part: meaning[part] for part in meaning if part not in _TOLD}),
        tags=tags,
    )


def _service(
    service: FeatureService, views: Sequence[FeatureView], made: Mapping[str, feast.FeatureView]
) -> feast.FeatureService:
    for view in service.views:
        if view not in views:
            raise UnknownName(
                "feature view",
                f"{view.name} v{view.version}",
                [f"{one.name} v{one.version}" for one in views],
                where=service.where,
            )
    return feast.FeatureService(
        name=service.name,
        features=[made[view.name][list(names)] for view, names in service.features],
        description=f"{sum(len(names) for _, names in service.features)} features",
    )


def _json(value: object) -> str:
    return canonical_json(value).decode()
