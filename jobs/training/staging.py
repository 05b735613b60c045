"""The stages after registration, of every task: staging or champion, and the draft of an experiment."""

from typing import Any

from core.errors import MillstreamError
from jobs.training.workspace import Workspace
from models.store import CHAMPION
from schemas.catalog.experiments import ExperimentEvent

STAGING, PREVIOUS = "staging", "previous"


def deploy(space: Workspace) -> dict[str, Any]:
    """The alias `staging` and the wish to score the live stream in shadow. The first model of its name, and
    one that is to be promoted, becomes the champion instead; the champion before it becomes `previous`."""
    store, name, version = space.around.store, space.configuration.name, _version(space)
    champion = store.aliases(name).get(CHAMPION)
    if champion is None or champion == version or space.state.promote:
        if champion is not None and champion != version:
            store.set_alias(name, PREVIOUS, champion)
        store.set_alias(name, CHAMPION, version)
        return {"alias": CHAMPION, "before": champion}
    store.set_alias(name, STAGING, version)
    if space.around.deploys is None:
        return {"alias": STAGING, "shadow": "not asked for: there is no broker"}
    try:
        space.around.deploys.deploy(name, version, "shadow")
    except MillstreamError as error:
        return {"alias": STAGING, "shadow": f"not asked for: {error.what}"}
    return {"alias": STAGING, "shadow": "asked for"}


def experiment(space: Workspace) -> dict[str, Any]:
    """Publishes the draft of champion against candidate, where the candidate is in staging."""
    champion = space.state.details("gate").get("champion")
    if space.state.details("deploy")["alias"] != STAGING or champion is None:
        return {"draft": "none: there is nothing to compare with"}
    name, version = space.configuration.name, _version(space)
    compared = space.state.details("gate").get("compared", {})
    event = ExperimentEvent(
        tenant=space.state.tenant,
        id=space.state.id,
        experiment=f"{name}-{champion}-{version}",
        kind="draft",
        model=name,
        champion=champion,
        candidate=version,
        metrics={
            f"{part}.{measure}": float(one[part])
            for measure, one in compared.items()
            for part in ("champion", "candidate", "difference")
        },
        occurred_at=space.now(),
    )
    if space.around.experiments is None:
        return {"draft": "not published: there is no broker", "experiment": event.experiment}
    try:
        space.around.experiments.publish(event)
    except MillstreamError as error:
        return {"draft": f"not published: {error.what}", "experiment": event.experiment}
    return {"draft": "published", "experiment": event.experiment}


def _version(space: Workspace) -> str:
    return str(space.state.details("register")["version"])
