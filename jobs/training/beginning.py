"""Putting a run on disk: what whoever asks for one needs, without what whoever does it needs."""

from dataclasses import dataclass

from core.clock import Clock
from core.ids import new_id
from jobs.training.run_folder import ENDED, RunFolder, RunState
from pipelines.training.configuration import Configuration
from schemas.catalog.training import SYSTEM_TENANT


@dataclass(frozen=True)
class Asked:
    """Who wants a run. `promote`: a model that passes becomes the champion at once."""

    tenant: str = SYSTEM_TENANT
    by: str = "command line"
    promote: bool = False


def begin(configuration: Configuration, folder: RunFolder, asked: Asked, clock: Clock) -> RunState:
    """Put a new run on disk; one with this id that is there stays as it is."""
    now = clock.now()
    return folder.create(
        RunState(
            id=folder.id,
            tenant=asked.tenant,
            asked_by=asked.by,
            configuration=configuration,
            promote=asked.promote,
            created_at=now,
            changed_at=now,
        )
    )


def run_id(name: str) -> str:
    """A fresh id that sorts by time within a model."""
    return f"{name}-{new_id()}"


def ended(state: RunState) -> bool:
    """Whether nothing more will happen by itself."""
    return state.state in ENDED
