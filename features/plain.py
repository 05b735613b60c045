"""Plain rolling views: what the chain of windows in Flink and the online store of rolling views compute."""

from core.errors import DeclarationError
from features.aggregates import Aggregate, Count, CountDistinct, Max, Mean, Std, Sum, simple_parts
from features.derived import Derived
from features.view import Feature, FeatureView
from features.windows import Rolling

Plain = Count | Sum | Mean | Std | Max | CountDistinct


def plain(feature: Feature) -> Plain:
    """The aggregate of a feature of a plain view."""
    if not isinstance(feature.definition, Plain):
        raise DeclarationError(f"feature {feature.name!r} is no plain aggregate")
    return feature.definition


def check_plain(view: FeatureView, engine: str) -> None:
    """Raises DeclarationError with every reason why `engine` cannot run the view."""
    reasons = []
    if not isinstance(view.window, Rolling):
        reasons.append(f"its windows are {type(view.window).__name__}")
    if len(view.entity_fields) > 1:
        reasons.append(f"its entity has the fields {', '.join(view.entity_fields)}")
    if view.lookups:
        reasons.append(f"it looks up {', '.join(lookup.name for lookup in view.lookups)}")
    for feature in view.features:
        reason = _reason(feature.definition)
        if reason:
            reasons.append(f"{feature.name} {reason}")
    if reasons:
        raise DeclarationError(
            f"{engine} cannot run {view.name} v{view.version}: {'; '.join(reasons)}",
            where=view.where,
            mend="compute it over recorded events (features.offline.history), or declare it as a rolling "
            "view of one entity field with Count, Sum, Mean, Std, Max and CountDistinct",
        )


def _reason(definition: Aggregate | Derived) -> str | None:
    if isinstance(definition, Derived):
        return "is derived from other features"
    if not isinstance(definition, Plain):
        return f"is a {type(definition).__name__}"
    if any(part.where is not None for part in simple_parts(definition)):
        return "has a filter"
    return None
