"""Training on Kafka: what is asked for, how it goes, how it ended."""

from datetime import datetime, timedelta
from typing import Annotated

from msgspec import Meta

from schemas.record import Int32, Record, record
from schemas.topic import Topic

NAMESPACE = "millstream.training"
SYSTEM_TENANT = "system"
ENDED = ("succeeded", "needs_attention", "failed")


@record(entity="model", time="asked_at", namespace=NAMESPACE)
class TrainingCommand(Record, frozen=True, kw_only=True):
    """A wish about a training. `id` is the job's; a second `train` with the same id does nothing."""

    kind: Annotated[str, Meta(description="train or acknowledge")]
    model: str
    configuration: Annotated[
        str, Meta(description="JSON of the checked configuration, where kind is train")
    ] = ""
    asked_by: Annotated[str, Meta(description="who asked: a credential, or the schedule")]
    asked_at: datetime


@record(entity="model", time="changed_at", namespace=NAMESPACE)
class TrainingStatus(Record, frozen=True, kw_only=True):
    """How a training stands. One writer per job; the last one counts."""

    model: str
    state: Annotated[str, Meta(description="queued, running, succeeded, needs_attention or failed")]
    stage: Annotated[str, Meta(description="the stage under way, or the last one")] = ""
    stages_done: Int32 = 0
    stages: Int32 = 0
    trials_done: Int32 = 0
    trials: Int32 = 0
    metrics: dict[str, float] = {}
    version: Annotated[str | None, Meta(description="the version that was registered")] = None
    problem: Annotated[str | None, Meta(description="why it failed or needs attention")] = None
    asked_by: str = ""
    created_at: datetime
    changed_at: datetime
    acknowledged_by: str | None = None
    acknowledged_at: datetime | None = None


@record(entity="model", time="ended_at", namespace=NAMESPACE)
class TrainingNotice(Record, frozen=True, kw_only=True):
    """That a training ended, and how; once per job, though it may be there twice after a crash."""

    model: str
    state: Annotated[str, Meta(description="succeeded, needs_attention or failed")]
    text: str
    version: str | None = None
    metrics: dict[str, float] = {}
    ended_at: datetime


COMMANDS = Topic(
    "models.training.requests.v1",
    TrainingCommand,
    partitions=1,
    retention=timedelta(days=30),
    max_bytes=131_072,
)
STATUS = Topic(
    "models.training.status.v1", TrainingStatus, partitions=1, cleanup="compact", dead_letters=False
)
NOTICES = Topic(
    "models.training.events.v1",
    TrainingNotice,
    partitions=1,
    retention=timedelta(days=365),
    dead_letters=False,
)
TOPICS = (COMMANDS, COMMANDS.dlq, STATUS, NOTICES)
"""What has to be there before a training is asked for over Kafka."""
