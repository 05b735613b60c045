"""The record of an enriched topic: the event, its features, and what the stream knows of its way."""

from datetime import datetime
from typing import Any

from core.errors import DeclarationError
from features.kinds import ValueKind
from features.view import FeatureView
from features.windows import Rolling
from schemas.record import Record, define

#: Fields added after the features. `received_at`, `source`, `traceparent` come from the event's headers.
PROVENANCE = ("late", "received_at", "source", "traceparent")
_TYPES: dict[ValueKind, type] = {"long": int, "double": float, "string": str, "boolean": bool}


def enriched_record(record: type[Record], view: FeatureView) -> type[Record]:
    """`record` with the features of `view` (null for a late row, or where a window has no value), `late`,
    and where it came from. Named `Enriched<Record>`; its event time and entity are the record's."""
    if view.source is not record:
        raise DeclarationError(
            f"{view.name} is a view over {view.source.__name__}, not {record.__name__}",
            where=view.where,
            mend="enrich the record that the view is declared over",
        )
    if not isinstance(view.window, Rolling):
        raise DeclarationError(
            f"{view.name} has a row per window, not one per event",
            where=view.where,
            mend="enrich with a rolling view",
        )
    extra: dict[str, tuple[Any, Any]] = {
        feature.name: (_TYPES[view.kind(feature)] | None, None) for feature in view.features
    }
    extra["late"] = (bool, False)
    extra["received_at"] = (datetime | None, None)
    extra["source"] = (str | None, None)
    extra["traceparent"] = (str | None, None)
    for name in PROVENANCE:
        if name in record.spec().names:
            raise DeclarationError(
                f"field {name!r} is reserved",
                where=f"record {record.__name__}",
                mend="rename the record's field",
            )
    return define(
        f"Enriched{record.__name__}",
        record,
        extra,
        doc=f"{record.__name__} with the features of {view.name}.",
    )
