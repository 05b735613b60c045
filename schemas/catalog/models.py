"""Which version of a model serves: what is wanted, what was asked for, and what the workers observe.

One controller writes `Routing`; everyone else sends `ModelCommand`s and reads `ModelReply`s. Workers follow
the routing and publish a `ModelState` per version they hold. The highest revision of a routing is the one.
"""

from datetime import datetime, timedelta
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from schemas.record import Float32, Int32, Int64, Record, record
from schemas.topic import Topic

NAMESPACE = "millstream.models"
BUCKETS = 20
"""Buckets of a score sketch: scores 0 to 100 in steps of 5, the last one closed."""

Mode = Literal["live", "shadow"]
CommandKind = Literal["deploy", "swap", "rollback", "load", "remove", "look"]
Strategy = Literal["shadow", "canary", "all"]
State = Literal["loading", "health_check", "ready", "active", "deprecated", "failed"]
Outcome = Literal["accepted", "done", "refused", "conflict", "unknown", "failed"]
Stage = Literal["health_check", "hold", "activating"]


class Route(msgspec.Struct, frozen=True):
    """A version and its share of the assignment units; one in shadow scores everything, unseen."""

    version: str
    share: Annotated[float, Meta(description="0 to 1; the live ones add up to 1")] = 1.0
    mode: Annotated[Mode, Meta(description="live or shadow")] = "live"
    arm: str = "champion"


class Step(msgspec.Struct, frozen=True):
    """One step of a canary: this share, for at least so long."""

    share: Annotated[float, Meta(description="above 0, below 1")]
    hold_s: Annotated[float, Meta(description="seconds")]


class Operation(msgspec.Struct, frozen=True):
    """A change that is under way. A model has at most one."""

    command: Annotated[str, Meta(description="id of the command that began it")]
    kind: Annotated[str, Meta(description="deploy or swap")]
    target: str
    strategy: Annotated[Strategy, Meta(description="shadow, canary or all")]
    stage: Annotated[Stage, Meta(description="health_check, hold (of a canary) or activating")]
    started_at: datetime
    stage_at: Annotated[datetime, Meta(description="when its stage, or the canary's step, began")]
    experiment: str | None = None
    steps: list[Step] = []
    step: Int32 = 0


@record(entity="model", time="decided_at", namespace=NAMESPACE)
class Routing(Record, frozen=True, kw_only=True):
    """What should serve a model. Of several records the one with the highest revision counts."""

    model: str
    revision: Int64
    routes: list[Route]
    salt: Annotated[str, Meta(description="makes the assignment of this rollout its own")]
    assignment_unit: Annotated[str, Meta(description="the result's field that is hashed")] = "entity"
    experiment: str | None = None
    previous: Annotated[str | None, Meta(description="where a rollback or a failover goes")] = None
    standby: Annotated[list[str], Meta(description="held loaded, not serving")] = []
    deprecated: Annotated[list[str], Meta(description="served before, newest first; held loaded")] = []
    failed: Annotated[list[str], Meta(description="refused; not tried again until loaded again")] = []
    champion: Annotated[str | None, Meta(description="the registry's champion that was acted on last")] = None
    promoted: Annotated[list[str], Meta(description="what its alias is being moved to, newest last")] = []
    noted: Annotated[Int32, Meta(description="last revisions that only took note of the registry")] = 0
    operation: Operation | None = None
    command: Annotated[str | None, Meta(description="id of the command that led here")] = None
    reason: str = ""
    controller: Annotated[str, Meta(description="the process that wrote it")] = ""
    decided_at: datetime


@record(entity="model", time="sent_at", namespace=NAMESPACE)
class ModelCommand(Record, frozen=True, kw_only=True):
    """Something to be done with a model's versions; `id` is answered once by a ModelReply. A `look` changes
    nothing by itself: the registry may have news, and is asked at once."""

    model: str
    kind: Annotated[CommandKind, Meta(description="deploy, swap, rollback, load, remove or look")]
    version: Annotated[str | None, Meta(description="the target; none for a rollback or a look")] = None
    expected_revision: Annotated[Int64 | None, Meta(description="refused when it is another one")] = None
    strategy: Annotated[Strategy | None, Meta(description="of a deploy: shadow, canary or all")] = None
    steps: Annotated[list[Step], Meta(description="of a canary, in rising shares")] = []
    experiment: str | None = None
    sender: str = ""
    sent_at: datetime


class Check(msgspec.Struct, frozen=True):
    """One check of a swap's safety."""

    name: str
    passed: bool
    reason: str


@record(entity="model", time="answered_at", namespace=NAMESPACE)
class ModelReply(Record, frozen=True, kw_only=True):
    """The answer to the command of the same id. After `accepted` one more follows; all others are final."""

    model: str
    kind: str
    outcome: Annotated[
        Outcome,
        Meta(description="accepted, done, refused (checks say why), conflict, unknown or failed"),
    ]
    revision: Int64
    previous: str | None = None
    target: str | None = None
    duration_ms: Annotated[Float32 | None, Meta(description="begun to observed by every worker")] = None
    reason: str = ""
    checks: list[Check] = []
    answered_at: datetime


@record(entity="model", time="at", namespace=NAMESPACE)
class ModelState(Record, frozen=True, kw_only=True):
    """What one process sees of one version it holds; told on every change and every few seconds.

    Counts and latency are of the last minute. An instance that says nothing for some seconds is gone.
    """

    model: str
    version: str
    instance: str
    pipeline: str
    state: Annotated[State, Meta(description="loading, health_check, ready, active, deprecated or failed")]
    stage: Annotated[str, Meta(description="what it is doing, in a word")] = ""
    progress: Annotated[Int32, Meta(description="percent")] = 0
    revision: Annotated[Int64, Meta(description="of the routing that it follows; 0 without one")] = 0
    checked: Annotated[str | None, Meta(description="command for which its health was checked")] = None
    health: Annotated[Float32, Meta(description="0 to 1")] = 0.0
    records: Int64 = 0
    errors: Annotated[Int64, Meta(description="records that it could not score")] = 0
    latency_ms: Annotated[Float32, Meta(description="of a call, on average")] = 0.0
    skipped: Annotated[Int64, Meta(description="records that a shadow was too slow for")] = 0
    tokens_per_s: Annotated[Float32 | None, Meta(description="of an LLM, at its last probe")] = None
    scores: Annotated[list[Int64], Meta(description="records per step of 5 in the score, 0 to 100")] = []
    reason: str = ""
    gone: Annotated[bool, Meta(description="it is not held any more")] = False
    at: datetime


ROUTING = Topic("models.routing.control.v1", Routing, partitions=1, cleanup="compact", dead_letters=False)
COMMANDS = Topic("models.serving.requests.v1", ModelCommand, partitions=1)
REPLIES = Topic(
    "models.serving.replies.v1",
    ModelReply,
    partitions=1,
    retention=timedelta(days=1),
    dead_letters=False,
)
STATES = Topic(
    "models.serving.status.v1",
    ModelState,
    partitions=1,
    retention=timedelta(hours=1),
    dead_letters=False,
)
SERVING_TOPICS = (ROUTING, COMMANDS, REPLIES, STATES, COMMANDS.dlq)
