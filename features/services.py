"""Feature services: a named list of features of several views, which a model or a client reads as one."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from core.errors import DeclarationError, UnknownName
from features.view import FeatureView

_NAME = re.compile(r"^[a-z][a-z0-9_]*$")


@dataclass(frozen=True)
class FeatureService:
    """features: (view, names of its features) in the order in which they are read; a view as a whole is
    written `service("demand", REGIONAL_DEMAND)`.

    Raises DeclarationError for a wrong or doubled name, a service without features, or two versions of one
    view; UnknownName with the nearest name for a feature that its view does not have.
    """

    name: str
    features: tuple[tuple[FeatureView, tuple[str, ...]], ...]

    def __post_init__(self) -> None:
        if not _NAME.match(self.name):
            self._refuse(f"service name {self.name!r}", "use lower case letters, digits and _")
        if not self.features:
            self._refuse("a service without features", "name at least one view")
        seen: dict[str, FeatureView] = {}
        for view, names in self.features:
            if view.name in seen:
                there = seen[view.name].version
                again = "twice" if there == view.version else f"as v{there} and as v{view.version}"
                self._refuse(f"{view.name} is there {again}", "name a view once, with all its features")
            seen[view.name] = view
            self._check(view, names)

    def _check(self, view: FeatureView, names: tuple[str, ...]) -> None:
        if not names:
            self._refuse(f"no features of {view.name}", "name at least one, or leave the view out")
        for name in names:
            if name not in view.feature_names:
                raise UnknownName("feature", name, view.feature_names, where=f"{self.where}, {view.where}")
            if names.count(name) > 1:
                self._refuse(f"{view.name}: feature {name!r} is there twice", "name it once")

    def _refuse(self, what: str, mend: str) -> None:
        raise DeclarationError(what, where=self.where, mend=mend)

    @property
    def where(self) -> str:
        return f"feature service {self.name}"

    @property
    def views(self) -> tuple[FeatureView, ...]:
        """The views, in order."""
        return tuple(view for view, _ in self.features)


def service(name: str, *parts: FeatureView | tuple[FeatureView, Iterable[str]]) -> FeatureService:
    """A service of whole views and of (view, names of features):
    `service("ride", REGIONAL_DEMAND, (CARD_ACTIVITY, ["count_1h"]))`."""
    features = [(part, part.feature_names) if isinstance(part, FeatureView) else part for part in parts]
    return FeatureService(name, tuple((view, tuple(names)) for view, names in features))
