"""The plan: everything a pipeline needs, as data. Compiled once, printed, compared, deployed."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from datetime import timedelta

from core.errors import DeclarationError
from features.patterns import Pattern
from features.view import FeatureView
from features.windows import Tumbling
from operators.decide import Bands
from operators.forecast import Horizon
from schemas.catalog.asking import REPLIES, RETENTION, requests_topic
from schemas.topic import Topic


@dataclass(frozen=True)
class Infer:
    """One model call: which model, how records are batched, what answers when it cannot."""

    model: str
    batch: int = 512
    wait: timedelta = timedelta(milliseconds=5)


@dataclass(frozen=True)
class Levels:
    """What answers those who ask, the best first, each within its own time: the versions in service; the
    version before; and where `decision` is given, that one, without a score."""

    live: timedelta = timedelta(seconds=2)
    previous_version: timedelta = timedelta(seconds=1)
    decision: str | None = None


@dataclass(frozen=True)
class Reuse:
    """An answer may be given again, for `lasts`, to whoever of the same tenant asks the same of the same
    version of the model. What arrives meanwhile does not change it, so it is the pipeline's to allow.

    as_of: event times within one span of this length, counted from the epoch, are the same; 0: only equal
    ones are, to the millisecond. ignored: fields of the source that change no answer; tenant and id never do.
    """

    lasts: timedelta
    as_of: timedelta = timedelta(0)
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Plan(ABC):
    """One pipeline, ready to deploy. Topics of one pipeline share partition count and key.

    source: what it reads. view: what it computes of that. takes_events: whether the gateway publishes to the
    source through this pipeline; one that reads another's events takes none. route: a path of its own under
    which events are taken, besides `/api/v1/pipelines/{pipeline}/events`.
    """

    pipeline: str
    version: int
    source: Topic
    view: FeatureView
    takes_events: bool = True
    route: str | None = None
    lane: str = "shared"

    @property
    @abstractmethod
    def keyed(self) -> tuple[Topic, ...]:
        """The topics with the entity's key, in the order of a record's path: of equal partition counts."""

    @property
    def path(self) -> tuple[Topic, ...]:
        """The topics in the order of a record's path."""
        return self.keyed

    @property
    def topics(self) -> tuple[Topic, ...]:
        """Every topic, dead-letter topics included, in the order of the path."""
        return self.path + tuple(topic.dlq for topic in self.path if topic.dead_letters)


@dataclass(frozen=True, kw_only=True)
class ScoringPlan(Plan):
    """Events get a rolling view's features, a score and a decision; their status is kept and pushed.

    It can be asked, too, for the score that an event would get. requests_kept: how long Kafka keeps those;
    levels: what answers them. reuse: whether an answer may be given again; None: every request is scored.
    """

    patterns: tuple[Pattern, ...]
    enriched: Topic
    infer: Infer
    bands: Bands
    results: Topic
    status: Topic
    labels: Topic
    alerts: Topic
    requests_kept: timedelta = RETENTION
    levels: Levels = Levels()
    reuse: Reuse | None = None

    @property
    def keyed(self) -> tuple[Topic, ...]:
        return (self.source, self.enriched, self.results, self.status, self.labels)

    @property
    def given(self) -> Topic:
        """The records that the model is given."""
        return self.enriched

    @property
    def requests(self) -> Topic:
        """Where those wait who ask for a score without publishing an event."""
        return requests_topic(self.pipeline, partitions=self.source.partitions, retention=self.requests_kept)

    @property
    def replies(self) -> Topic:
        """Where they are answered; one topic for all pipelines."""
        return REPLIES

    @property
    def path(self) -> tuple[Topic, ...]:
        return (*self.keyed, self.alerts, self.requests, self.replies)


@dataclass(frozen=True, kw_only=True)
class FeaturesPlan(Plan):
    """A windowed view's rows are computed and kept, online and offline; nothing is scored.

    rows: the topic of the feature rows. late: the events that came too late for their windows.
    """

    rows: Topic
    late: Topic

    @property
    def keyed(self) -> tuple[Topic, ...]:
        return (self.source, self.rows, self.late)

    @property
    def references(self) -> tuple[Topic, ...]:
        """The compacted topics of the reference tables that the view looks up."""
        return tuple(dict.fromkeys(lookup.topic for lookup in self.view.lookups if lookup.topic is not None))

    @property
    def path(self) -> tuple[Topic, ...]:
        return (*self.keyed, *self.references)


@dataclass(frozen=True, kw_only=True)
class ForecastPlan(FeaturesPlan):
    """A windowed view's rows are computed and kept, and of each row a model makes a forecast.

    counted: the feature of the view that is forecast. scale: the feature that the model counts in units of; a
    row where it is 0 has no forecast. results: the topic of the forecasts. status: those that are stored.
    """

    infer: Infer
    counted: str
    scale: str
    horizons: tuple[Horizon, ...]
    results: Topic
    status: Topic

    @property
    def keyed(self) -> tuple[Topic, ...]:
        return (*super().keyed, self.results, self.status)

    @property
    def given(self) -> Topic:
        """The records that the model is given."""
        return self.rows

    @property
    def every(self) -> timedelta:
        """The time from one window's end to the next one's."""
        return forecast_window(self.view).size

    @property
    def unit(self) -> str:
        """Of what is forecast."""
        return self.view.feature(self.counted).unit


def forecast_window(view: FeatureView) -> Tumbling:
    """The window of a view whose rows can be forecast. Raises DeclarationError for one whose windows do not
    follow each other."""
    if not isinstance(view.window, Tumbling):
        raise DeclarationError(
            f"forecasts from {view.name}, whose windows do not follow each other",
            where=view.where,
            mend="forecast from a view of tumbling windows",
        )
    return view.window


ServedPlan = ScoringPlan | ForecastPlan
"""A plan with a model, whose versions are routed."""
