"""What a training needs of the outside: who deploys, who keeps experiments, who is told."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from jobs.sources.progress import Progress, silent
from models.store import Registry
from schemas.catalog.experiments import ExperimentEvent
from schemas.catalog.models import Strategy
from schemas.catalog.training import TrainingNotice


class Deploys(Protocol):
    """Asks the one controller of routing for a deployment."""

    def deploy(self, name: str, version: str, strategy: Strategy) -> None:
        """Returns once the wish is acknowledged; asking twice for the same is asking once. Raises
        Unavailable."""
        ...


class KeepsExperiments(Protocol):
    """Publishes what happens to experiments."""

    def publish(self, event: ExperimentEvent) -> None:
        """Returns once it is acknowledged. Raises Unavailable."""
        ...


class Tells(Protocol):
    """One way to tell how a run ended."""

    def tell(self, notice: TrainingNotice) -> None:
        """At least once. Raises Unavailable when it cannot be delivered."""
        ...


@dataclass(frozen=True)
class Surroundings:
    """What a run works with. Without `deploys` or `experiments` there is no broker: a staged model then has
    its alias and nothing more, and the run says so. `tells` are the ways by their name."""

    store: Registry
    progress: Progress = silent
    deploys: Deploys | None = None
    experiments: KeepsExperiments | None = None
    tells: Mapping[str, Tells] = field(default_factory=dict)
    processes: int = 2
