"""Windowed views that Flink's window functions can run, and the reasons why one cannot."""

from collections.abc import Iterator

from core.errors import DeclarationError
from features.lookups import Lookup
from features.view import FeatureView
from features.windows import Windowed

FLINKS_OWN = "window_time"
"""The column that Flink's window functions add besides `window_start` and `window_end`."""


def check_windowed(view: FeatureView, engine: str) -> Windowed:
    """The windows of the view. Raises DeclarationError with every reason why `engine` cannot run it."""
    reasons = []
    if not isinstance(view.window, Windowed):
        reasons.append("it has a row per event and not one per window")
    for lookup in view.lookups:
        reasons += _unreadable(lookup)
    for name in (*view.entity_fields, *view.columns, *view.feature_names):
        if name == FLINKS_OWN:
            reasons.append(f"{name!r} is a column that Flink adds")
    if reasons or not isinstance(view.window, Windowed):
        raise DeclarationError(
            f"{engine} cannot run {view.name} v{view.version}: {'; '.join(reasons)}",
            where=view.where,
            mend="compute it over recorded events (features.offline.history), or declare it as a windowed "
            "view, its lookups with the compacted topics that hold their tables",
        )
    return view.window


def _unreadable(lookup: Lookup) -> Iterator[str]:
    """Why a stream cannot follow the reference table."""
    spec = lookup.record.spec()
    if lookup.topic is None:
        yield f"it looks up {lookup.name}, a reference table that is on no topic"
        return
    if lookup.topic.record is not lookup.record:
        yield f"topic {lookup.topic.name} has another record than lookup {lookup.name}"
    if lookup.topic.cleanup != "compact":
        yield f"topic {lookup.topic.name} of lookup {lookup.name} is not compacted: its old rows would go"
    if spec.entity is not None and spec.field(spec.entity).nullable:
        yield f"topic {lookup.topic.name} of lookup {lookup.name} has a key that may be null, {spec.entity}"
    if tuple(lookup.on.values()) != (spec.entity,):
        yield (
            f"lookup {lookup.name} is by {', '.join(lookup.on.values())}, and topic {lookup.topic.name} has "
            f"the newest row per {spec.entity}"
        )
