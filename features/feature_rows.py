"""The record of a features topic: one row of a windowed view, as stream, backfill and correction write it.

Its key is (tenant, entity); its event time is the end of its window. Of two rows of one window the one with
the higher `sequence` counts: 0 is the stream's, corrections count up from 1.
"""

from datetime import UTC, datetime, timedelta
from typing import cast

import msgspec

from core.errors import DeclarationError
from features.kinds import ValueKind
from features.view import FeatureView
from features.windows import Rolling
from schemas.record import Record, record
from schemas.topic import Topic

ENTITY, WINDOW_START, WINDOW_END, SEQUENCE = "entity", "window_start", "window_end", "sequence"
OWN = ("tenant", "id", ENTITY, WINDOW_START, WINDOW_END, SEQUENCE)
"""The fields of every feature row besides the fields of the entity and the features."""
_TYPES: dict[ValueKind, type] = {"long": int, "double": float, "string": str, "boolean": bool}


def row_id(entity: str, window_end: datetime, sequence: int) -> str:
    """The id of a row, one per window and sequence: `<entity>|<end in UTC>|<sequence>`."""
    end = window_end.astimezone(UTC).replace(tzinfo=None).isoformat(sep=" ", timespec="milliseconds")
    return f"{entity}|{end}|{sequence}"


def feature_record(view: FeatureView) -> type[Record]:
    """tenant, id (`row_id`), entity (`schemas.keys.entity_of` the fields of the entity), those fields,
    window_start, window_end (not in the window), sequence, the features (null without a value).

    Named `<View>Features`, in the name space of the view's source. Raises DeclarationError for a rolling
    view, and for a field of the entity or a feature with a name that every row has.
    """
    if isinstance(view.window, Rolling):
        raise DeclarationError(
            f"{view.name} has a row per event, not one per window",
            where=view.where,
            mend="enrich the events with it (features.enriched)",
        )
    fields = tuple(field_name(name) for name in view.entity_fields)
    for name in (*fields, *view.feature_names):
        taken = [*OWN, *fields, *view.feature_names].count(name) > 1
        if taken and (name != ENTITY or fields != (ENTITY,)):
            raise DeclarationError(
                f"the name {name!r} is there twice in a feature row",
                where=view.where,
                mend=f"rename the field or feature; every row has {', '.join(OWN)}",
            )
    types: dict[str, type] = {}
    types |= dict.fromkeys((ENTITY, *fields), str)
    types |= {WINDOW_START: datetime, WINDOW_END: datetime, SEQUENCE: int}
    features = [(feature.name, _TYPES[view.kind(feature)] | None, None) for feature in view.features]
    made = msgspec.defstruct(
        "".join(part.capitalize() for part in view.name.split("_")) + "Features",
        [*types.items(), *features],
        bases=(Record,),
        frozen=True,
        kw_only=True,
        namespace={
            "__doc__": f"{view.name} of one entity in one window.",
            "__module__": view.source.__module__,
        },
    )
    declare = record(entity=ENTITY, time=WINDOW_END, namespace=view.source.spec().namespace)
    return declare(cast(type[Record], made))


def field_name(name: str) -> str:
    """The name that a field of the entity has in the row: `lookup.column` becomes `lookup_column`."""
    return name.replace(".", "_")


def features_topic(domain: str, view: FeatureView, *, partitions: int, retention: timedelta) -> Topic:
    """The topic of a windowed view's rows: `<domain>.<view>.features.v<version>`, with as many partitions as
    the events it is computed from. A view has one: each call makes another record class."""
    return Topic(
        f"{domain}.{view.name}.features.v{view.version}",
        feature_record(view),
        partitions=partitions,
        retention=retention,
        append_time=True,
    )


def late_topic(domain: str, view: FeatureView, *, partitions: int, retention: timedelta) -> Topic:
    """The topic of the events that came too late for the view's windows: `<domain>.<view>.late.v<version>`,
    the events as they were."""
    return Topic(
        f"{domain}.{view.name}.late.v{view.version}",
        view.source,
        partitions=partitions,
        retention=retention,
        append_time=True,
    )
