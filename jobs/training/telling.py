"""How a run ended, told in every configured way; what could not be delivered is noted and tried on resume."""

from core.errors import MillstreamError
from core.telemetry.log import logger
from jobs.training.run_folder import RunState
from jobs.training.workspace import Workspace
from schemas.catalog.training import TrainingNotice

DELIVERED = "delivered"
_log = logger("training")


def notice_of(state: RunState) -> TrainingNotice:
    """The notice that tells of an ended run; the same whenever it is made."""
    name = state.configuration.name
    text = {
        "succeeded": f"training of {name} succeeded: version {state.version}",
        "needs_attention": f"training of {name} needs attention: {state.problem}",
        "failed": f"training of {name} failed in stage {state.stage}: {state.problem}",
    }[state.state]
    return TrainingNotice(
        tenant=state.tenant,
        id=state.id,
        model=name,
        state=state.state,
        text=text,
        version=state.version,
        metrics=state.metrics,
        ended_at=state.changed_at,
    )


def tell_all(space: Workspace) -> RunState:
    """Tell each way once more than it was delivered: a kill between delivering and noting repeats it."""
    notice = notice_of(space.state)
    if space.configuration.notifications.log and "log" not in space.state.told:
        log = _log.info if notice.state == "succeeded" else _log.warning
        log(notice.text, run=notice.id, model=notice.model, state=notice.state)
        space.record(told=space.state.told | {"log": DELIVERED})
    for name, way in space.around.tells.items():
        if space.state.told.get(name) == DELIVERED:
            continue
        try:
            way.tell(notice)
            outcome = DELIVERED
        except MillstreamError as error:
            outcome = error.what
            _log.warning("a notice was not delivered", run=notice.id, way=name, reason=error.what)
        space.record(told=space.state.told | {name: outcome})
    return space.state
