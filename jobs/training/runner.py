"""A run, stage by stage: what is done stays done, what was cut short is done again, the end is told.

state            the next stages run
running          yes
needs_attention  no: the gate said no; everything but registration was done
failed           no: a stage raised; resuming begins at that stage
"""

import time
from collections.abc import Sequence

from core.clock import Clock, SystemClock
from core.errors import MillstreamError
from core.telemetry.log import logger
from jobs.training.classification.stages import CLASSIFICATION
from jobs.training.forecasting.stages import FORECASTING
from jobs.training.plan import PlannedStage
from jobs.training.ports import Surroundings
from jobs.training.run_folder import RunFolder, RunState, StageState
from jobs.training.telling import tell_all
from jobs.training.workspace import Given, Workspace

TASKS: dict[str, Sequence[PlannedStage]] = {
    "classification": CLASSIFICATION,
    "forecasting": FORECASTING,
}
"""The stages of each kind of task, in order."""
_log = logger("training")


def carry_out(
    folder: RunFolder, around: Surroundings, *, clock: Clock | None = None, given: Given | None = None
) -> RunState:
    """Do what is left of a run; returns how it ended. A run that ended well, or needs attention, stays so.

    Raises what a stage raised, after the run was marked as failed and that was told; Conflict while another
    process works on the run.
    """
    with folder.held():
        space = Workspace(folder, around, clock or SystemClock(), given=given)
        if space.state.state in ("succeeded", "needs_attention"):
            return tell_all(space)
        space.record(
            state="running",
            stages=len(TASKS[space.configuration.task]),
            problem=None,
            attempts=space.state.attempts + 1,
            told={},
            acknowledged=None,
        )
        try:
            _stages(space)
        except MillstreamError as error:
            space.record(state="failed", problem=str(error))
            tell_all(space)
            raise
        except Exception as error:
            space.record(state="failed", problem=f"{type(error).__name__}: {error}")
            tell_all(space)
            raise
        space.folder.clear()
        return tell_all(space)


def _stages(space: Workspace) -> None:
    done = {stage.name for stage in space.state.done}
    below: str | None = None
    for stage in space.state.done:
        below = stage.details.get("below") or below
    for planned in TASKS[space.configuration.task]:
        if planned.name in done:
            continue
        space.record(stage=planned.name)
        if below is not None and planned.if_passed:
            space.record(done=(*space.state.done, StageState(planned.name, 0.0, skipped=True)))
            continue
        started = time.perf_counter()
        _log.info("stage begins", run=space.state.id, stage=planned.name)
        details = planned.work(space)
        seconds = round(time.perf_counter() - started, 3)
        below = details.get("below") or below
        space.record(done=(*space.state.done, StageState(planned.name, seconds, details=details)))
    state = "succeeded" if below is None else "needs_attention"
    space.record(state=state, problem=below)
