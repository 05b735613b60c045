"""Find pipelines and feature services: the shipped ones and a user's come through the same entry points."""

from functools import lru_cache
from importlib.metadata import entry_points

from core.errors import DeclarationError, InvalidInput, UnknownName
from features.services import FeatureService
from pipelines.builder import Definition
from pipelines.plan import FeaturesPlan, Plan, ScoringPlan, ServedPlan

GROUP = "millstream.pipelines"
SERVICES = "millstream.feature_services"


@lru_cache(maxsize=1)
def definitions() -> dict[str, Definition]:
    """Every installed pipeline by name. Raises DeclarationError when two share a name."""
    found: dict[str, Definition] = {}
    for entry in entry_points(group=GROUP):
        loaded = entry.load()
        if not isinstance(loaded, Definition):
            raise DeclarationError(
                f"entry point {entry.name} is a {type(loaded).__name__}",
                where=entry.value,
                mend="decorate the building function with @pipeline(...)",
            )
        if loaded.name in found:
            raise DeclarationError(
                f"two pipelines named {loaded.name!r}", where=entry.value, mend="rename one of them"
            )
        found[loaded.name] = loaded
    return found


def load_plan(name: str) -> Plan:
    """The plan of a pipeline; raises UnknownName with the nearest name."""
    known = definitions()
    if name not in known:
        raise UnknownName("pipeline", name, known)
    return known[name].plan()


def load_scoring(name: str) -> ScoringPlan:
    """The plan of a pipeline that scores; raises InvalidInput for another one."""
    plan = load_plan(name)
    if not isinstance(plan, ScoringPlan):
        raise InvalidInput(f"pipeline {name} scores nothing", mend="name a pipeline with a model")
    return plan


def load_served(name: str) -> ServedPlan:
    """The plan of a pipeline with a model; raises InvalidInput for another one."""
    plan = load_plan(name)
    if not isinstance(plan, ServedPlan):
        raise InvalidInput(f"pipeline {name} has no model", mend="name a pipeline with one")
    return plan


def load_features(name: str) -> FeaturesPlan:
    """The plan of a pipeline that computes a windowed view; raises InvalidInput for another one."""
    plan = load_plan(name)
    if not isinstance(plan, FeaturesPlan):
        raise InvalidInput(f"pipeline {name} has no windowed view", mend="name a pipeline with one")
    return plan


def load_plans() -> dict[str, Plan]:
    return {name: definition.plan() for name, definition in sorted(definitions().items())}


@lru_cache(maxsize=1)
def load_services() -> tuple[FeatureService, ...]:
    """Every installed feature service, by name. Raises DeclarationError for an entry point that is none."""
    found = []
    for entry in sorted(entry_points(group=SERVICES), key=lambda entry: entry.name):
        loaded = entry.load()
        if not isinstance(loaded, FeatureService):
            raise DeclarationError(
                f"entry point {entry.name} is a {type(loaded).__name__}",
                where=entry.value,
                mend="name a FeatureService (features.services.service(...))",
            )
        found.append(loaded)
    return tuple(found)
