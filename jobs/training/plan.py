"""A stage in the plan of a task."""

from dataclasses import dataclass

from jobs.training.workspace import Stage


@dataclass(frozen=True)
class PlannedStage:
    """`if_passed`: left out when an earlier stage gave a reason under `below` for which the model does not go
    on. The run then needs attention."""

    name: str
    work: Stage
    if_passed: bool = False
