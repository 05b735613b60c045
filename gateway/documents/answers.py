"""The shapes of answers that handlers put together from rows and from what others say, as types.

Where a handler encodes a type of its own, the documents take that; these are the rest, and the tests hold
the answers of a running gateway against them.
"""

from datetime import datetime
from typing import Any, Literal

import msgspec

from operators.answer_statistics import Timings
from schemas.catalog.decisions import Reason


class TransactionState(msgspec.Struct, frozen=True, kw_only=True):
    """The status of an event. Of one that is not decided yet the score and what follows from it are null;
    `result` is the whole decision."""

    id: str
    pipeline: str
    entity: str
    occurred_at: datetime
    status: str
    score: float | None
    decision: str | None
    model: str | None
    model_version: str | None
    result: dict[str, Any] | None
    verdict: str | None
    reviewer: str | None
    note: str | None
    changed_at: datetime


class ScoredRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The decision that a record would get if it were published now. `degraded` where not everything was
    there: `level` and `degraded_reason` say what answered and why, `warning` in a sentence."""

    id: str
    pipeline: str
    record_id: str
    entity: str
    occurred_at: datetime
    score: float | None
    decision: str
    reasons: list[Reason]
    feature_time: datetime | None
    model: str
    model_version: str | None
    arm: str | None
    degraded: bool
    level: str
    degraded_reason: str | None
    decided_at: datetime
    model_ms: float
    decide_ms: float
    warning: str | None


class RequestPending(msgspec.Struct, frozen=True, kw_only=True):
    """A request whose answer is fetched later."""

    id: str
    state: Literal["pending"]


class StageCount(msgspec.Struct, frozen=True):
    done: int
    all: int


class Acknowledged(msgspec.Struct, frozen=True):
    by: str | None
    at: datetime


class TrainingJob(msgspec.Struct, frozen=True, kw_only=True):
    """A training. Before a scheduler has taken it there is no more than the first five fields."""

    id: str
    model: str
    state: Literal["scheduled", "queued", "running", "succeeded", "needs_attention", "failed"]
    asked_by: str
    created_at: datetime
    stage: str = ""
    stages: StageCount | None = None
    trials: StageCount | None = None
    metrics: dict[str, float | None] = {}
    version: str | None = None
    problem: str | None = None
    changed_at: datetime | None = None
    acknowledged: Acknowledged | None = None


class TrainingJobs(msgspec.Struct, frozen=True):
    """The tenant's own trainings and those of the schedule, newest first."""

    jobs: list[TrainingJob]


class LoadBegun(msgspec.Struct, frozen=True, kw_only=True):
    """A version that is being loaded."""

    id: str
    state: str
    progress: int
    stage: str
    revision: int


class Changed(msgspec.Struct, frozen=True, kw_only=True):
    """What a swap or rollback changed."""

    previous: str | None
    target: str | None
    duration_ms: float
    revision: int


class Alive(msgspec.Struct, frozen=True):
    status: Literal["ok"]


class Started(msgspec.Struct, frozen=True, kw_only=True):
    """`waits_for` has the parts of ours that have not worked yet."""

    status: Literal["started", "starting"]
    waits_for: list[str] = []


class HealthState(msgspec.Struct, frozen=True):
    """`checks` has `ok` or what is wrong, by name."""

    status: Literal["ok", "degraded", "failing"]
    checks: dict[str, str]


class Readiness(msgspec.Struct, frozen=True, kw_only=True):
    """`checks` is there where `verbose` is asked for."""

    status: Literal["ready", "not ready"]
    reason: str = ""
    checks: dict[str, str] = {}


class OpenAIErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    message: str
    type: str
    param: str | None
    code: str


class OpenAIError(msgspec.Struct, frozen=True):
    """An error in OpenAI's shape; `code` is ours."""

    error: OpenAIErrorBody


class ChatMessage(msgspec.Struct, frozen=True):
    role: Literal["assistant"]
    content: str


class ChatChoice(msgspec.Struct, frozen=True, kw_only=True):
    index: int
    message: ChatMessage
    finish_reason: str
    logprobs: None


class CachedTokens(msgspec.Struct, frozen=True):
    cached_tokens: int


class ChatUsage(msgspec.Struct, frozen=True, kw_only=True):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens


class ChatCompletion(msgspec.Struct, frozen=True, kw_only=True):
    """A completion as OpenAI's clients know it; `statistics` and `degraded` are ours."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: ChatUsage
    statistics: Timings
    degraded: bool


class OpenAIModel(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class OpenAIModels(msgspec.Struct, frozen=True, kw_only=True):
    object: Literal["list"]
    data: list[OpenAIModel]
