"""What a training publishes: notices, drafts of experiments, wishes to deploy, how it stands; each
acknowledged."""

from datetime import datetime

from core.clock import Clock
from core.settings import Settings
from jobs.training.run_folder import RunState
from jobs.writer.outbox import Outbox
from schemas.broker import producer
from schemas.catalog.alerts import SYSTEM_TENANT
from schemas.catalog.experiments import EXPERIMENTS, ExperimentEvent
from schemas.catalog.models import COMMANDS, ModelCommand, Strategy
from schemas.catalog.training import NOTICES, STATUS, TrainingNotice, TrainingStatus
from schemas.codec import RecordCodec
from schemas.headers import event_headers
from schemas.keys import key_of
from schemas.record import Record
from schemas.registry import SchemaRegistry
from schemas.topic import Topic

SOURCE = "millstream.training"


class Published:
    """Publishes records, one after the other. One thread at a time."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._registry = SchemaRegistry.of(settings)
        self._outbox = Outbox(lambda: producer(settings))
        self._codecs: dict[str, RecordCodec[Record]] = {}
        self._clock = clock

    def send(self, topic: Topic, record: Record, *, entity: str, at: datetime) -> None:
        """Returns once it is acknowledged; raises Unavailable."""
        if topic.name not in self._codecs:
            self._codecs[topic.name] = RecordCodec(
                type(record), self._registry, topic.subject, max_bytes=topic.max_bytes
            )
        headers = event_headers(
            id=record.id,
            source=SOURCE,
            type=record.spec().full_name,
            time=at,
            tenant=record.tenant,
            received_at=self._clock.now(),
        )
        value = self._codecs[topic.name].encode(record)
        self._outbox.open(topic.name)
        self._outbox.send(topic.name, key=key_of(record.tenant, entity), value=value, headers=headers)
        self._outbox.settle()

    def tell(self, notice: TrainingNotice) -> None:
        """`jobs.training.ports.Tells`."""
        self.send(NOTICES, notice, entity=notice.model, at=notice.ended_at)

    def publish(self, event: ExperimentEvent) -> None:
        """`jobs.training.ports.KeepsExperiments`."""
        self.send(EXPERIMENTS, event, entity=event.model, at=event.occurred_at)

    def deploy(self, name: str, version: str, strategy: Strategy) -> None:
        """`jobs.training.ports.Deploys`: a command to the controller of routing."""
        at = self._clock.now()
        command = ModelCommand(
            tenant=SYSTEM_TENANT,
            id=f"training-{name}-{version}-{strategy}",
            model=name,
            kind="deploy",
            version=version,
            strategy=strategy,
            sender="training",
            sent_at=at,
        )
        self.send(COMMANDS, command, entity=name, at=at)

    def status(self, state: RunState) -> None:
        """How a run stands; the topic keeps the last of each run."""
        self.send(STATUS, status_of(state), entity=state.id, at=state.changed_at)

    def close(self) -> None:
        self._outbox.discard()
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
