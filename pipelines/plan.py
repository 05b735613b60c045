"""The plan: everything a pipeline needs, as data. Compiled once, printed, compared, deployed."""

from dataclasses import dataclass
from datetime import timedelta

from features.patterns import Pattern
from features.view import FeatureView
from operators.decide import Bands
from schemas.topic import Topic


@dataclass(frozen=True)
class Infer:
    """One model call: which model, how records are batched, what answers when it cannot."""

    model: str
    batch: int = 512
    wait: timedelta = timedelta(milliseconds=5)


@dataclass(frozen=True)
class Plan:
    """One pipeline, ready to deploy. Topics of one pipeline share partition count and key."""

    pipeline: str
    version: int
    source: Topic
    view: FeatureView
    patterns: tuple[Pattern, ...]
    enriched: Topic
    infer: Infer
    bands: Bands
    results: Topic
    status: Topic
    labels: Topic
    alerts: Topic
    lane: str = "shared"

    @property
    def topics(self) -> tuple[Topic, ...]:
        """Every topic, dead-letter topics included, in the order of the path."""
        path = (self.source, self.enriched, self.results, self.status, self.labels, self.alerts)
        return path + tuple(topic.dlq for topic in path if topic.dead_letters)
