"""Windowed views that Flink's window functions can run, and the reasons why one cannot."""

from core.errors import DeclarationError
from features.view import FeatureView
from features.windows import Windowed

FLINKS_OWN = "window_time"
"""The column that Flink's window functions add besides `window_start` and `window_end`."""


def check_windowed(view: FeatureView, engine: str) -> Windowed:
    """The windows of the view. Raises DeclarationError with every reason why `engine` cannot run it."""
    reasons = []
    if not isinstance(view.window, Windowed):
        reasons.append("it has a row per event and not one per window")
    if view.lookups:
        reasons.append(
            f"it looks up {', '.join(lookup.name for lookup in view.lookups)}, and a reference table is not "
            "on a topic that Flink could join"
        )
    for name in (*view.entity_fields, *view.columns, *view.feature_names):
        if name == FLINKS_OWN:
            reasons.append(f"{name!r} is a column that Flink adds")
    if reasons or not isinstance(view.window, Windowed):
        raise DeclarationError(
            f"{engine} cannot run {view.name} v{view.version}: {'; '.join(reasons)}",
            where=view.where,
            mend="compute it over recorded events (features.history), or declare it as a windowed view over "
            "fields of the record",
        )
    return view.window
