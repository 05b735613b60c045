"""What a training publishes: notices, drafts of experiments, wishes to deploy, how it stands; each
acknowledged."""

from core.clock import Clock
from core.settings import Settings
from jobs.training.run_folder import RunState
from pipelines.outbox import RecordOutbox
from schemas.catalog.alerts import SYSTEM_TENANT
from schemas.catalog.experiments import EXPERIMENTS, ExperimentEvent
from schemas.catalog.models import COMMANDS, ModelCommand, Strategy
from schemas.catalog.training import NOTICES, STATUS, TrainingNotice, TrainingStatus
from schemas.registry import SchemaRegistry

SOURCE = "millstream.training"


class Published:
    """Publishes records, one after the other. Every method raises Unavailable."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._registry = SchemaRegistry.of(settings)
        self._outbox = RecordOutbox(settings, self._registry, source=SOURCE)
        self._clock = clock

    def tell(self, notice: TrainingNotice) -> None:
        """`jobs.training.ports.Tells`."""
        self._outbox.publish(NOTICES, [notice])

    def publish(self, event: ExperimentEvent) -> None:
        """`jobs.training.ports.KeepsExperiments`."""
        self._outbox.publish(EXPERIMENTS, [event])

    def deploy(self, name: str, version: str, strategy: Strategy) -> None:
        """`jobs.training.ports.Deploys`: a command to the controller of routing."""
        command = ModelCommand(
            tenant=SYSTEM_TENANT,
            id=f"training-{name}-{version}-{strategy}",
            model=name,
            kind="deploy",
            version=version,
            strategy=strategy,
            sender="training",
            sent_at=self._clock.now(),
        )
        self._outbox.publish(COMMANDS, [command])

    def status(self, state: RunState) -> None:
        """How a run stands; the topic keeps the last of each run."""
        self._outbox.publish(STATUS, [status_of(state)], entity=state.id)

    def close(self) -> None:
        self._outbox.close()
        self._registry.close()


def status_of(state: RunState) -> TrainingStatus:
    """The state of a run as it is published."""
    given = state.configuration
    return TrainingStatus(
        tenant=state.tenant,
        id=state.id,
        model=given.name,
        state=state.state,
        stage=state.stage,
        stages_done=len(state.done),
        stages=state.stages,
        trials_done=state.trials_done,
        trials=given.search.trials,
        metrics=state.metrics,
        version=state.version,
        problem=state.problem,
        asked_by=state.asked_by,
        created_at=state.created_at,
        changed_at=state.changed_at,
        acknowledged_by=None if state.acknowledged is None else state.acknowledged.by,
        acknowledged_at=None if state.acknowledged is None else state.acknowledged.at,
    )
