"""The packed value of a windowed view, from its declaration."""

from datetime import timedelta

from core.errors import DeclarationError
from features.online.packed import PackedField, PackedLayout
from features.view import FeatureView
from features.windows import Rolling

WRITING = timedelta(seconds=1)
"""How long the way from the end of a window to the online store may take before a value counts as stale."""


def layout_of(view: FeatureView) -> PackedLayout:
    """Its fields are the view's features, its time to live the view's.

    A value is fresh until the next window's should be there: one step of the window, the disorder bound and
    a second after its own end. Raises DeclarationError for a rolling view, which has no packed value.
    """
    if isinstance(view.window, Rolling):
        raise DeclarationError(
            f"{view.name} is read from its recent rows, it has no packed value",
            where=view.where,
            mend="use features.online.rolling",
        )
    fresh = view.window.every + view.disorder + WRITING
    return PackedLayout(
        view=view.name,
        version=view.version,
        fields=tuple(PackedField(f.name, view.kind(f), f.ttl, f.empty) for f in view.features),
        ttl=view.ttl,
        digest=view.digest,
        fresh_for=min(fresh, view.ttl),
    )
