"""Experiments: champion against candidate, from the draft on."""

from datetime import datetime, timedelta
from typing import Annotated

from msgspec import Meta

from schemas.record import Record, record
from schemas.topic import Topic


@record(entity="model", time="occurred_at", namespace="millstream.experiments")
class ExperimentEvent(Record, frozen=True, kw_only=True):
    """Something that happened to an experiment. A draft proposes: nobody sees the candidate's answers yet."""

    experiment: Annotated[str, Meta(description="name of the experiment; all its events have it")]
    kind: Annotated[str, Meta(description="draft; others as experiments get further")]
    model: str
    champion: Annotated[str, Meta(description="version of the champion")]
    candidate: Annotated[str, Meta(description="version of the candidate")]
    metrics: Annotated[
        dict[str, float],
        Meta(description="champion.NAME, candidate.NAME and difference.NAME, same test rows"),
    ] = {}
    occurred_at: datetime


EXPERIMENTS = Topic("experiments", ExperimentEvent, retention=timedelta(days=365), dead_letters=False)
