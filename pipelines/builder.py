"""Pipelines, written as small functions and compiled to plans.

    @pipeline("fraud", version=1, unrouted=DEAD_LETTERS)
    def fraud(p: Pipeline) -> None:
        payments = p.read(TRANSACTIONS)
        enriched = payments.enrich(CARD_ACTIVITY, to=ENRICHED)
        payments.alert_on(CARD_TESTING)
        scored = enriched.infer("fraud")
        decided = scored.ok.decide(BANDS)
        p.write(decided.ok, RESULTS)
        p.follow(status=STATUS, labels=LABELS)

    @pipeline("demand", version=1, unrouted=DEAD_LETTERS)
    def demand(p: Pipeline) -> None:
        p.read(USER_EVENTS, route="/events").window(REGIONAL_DEMAND, to=DEMAND, late=LATE_EVENTS)

Each step gives a value of its own type, so that a wrong order does not type-check. Outputs are named
(`ok`, `failed`); what is not written anywhere goes to the pipeline's declared default, and a pipeline
without a default does not plan.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum

from core.errors import DeclarationError, UnknownName
from features.patterns import Pattern
from features.view import FeatureView
from features.windows import Rolling
from operators.decide import Bands
from operators.forecast import Horizon
from pipelines.plan import (
    FeaturesPlan,
    ForecastPlan,
    Infer,
    Levels,
    Plan,
    Reuse,
    ScoringPlan,
    forecast_window,
)
from schemas.catalog.alerts import ALERTS
from schemas.catalog.asking import RETENTION
from schemas.catalog.decisions import Decision, StatusChange, Verdict
from schemas.catalog.forecasts import Forecast
from schemas.record import Record
from schemas.topic import Topic


class Unrouted(Enum):
    """Where an output goes that the pipeline does not write anywhere."""

    DEAD_LETTERS = "dead_letters"


DEAD_LETTERS = Unrouted.DEAD_LETTERS
LONGEST_LEVEL = timedelta(minutes=1)
LONGEST_REUSE = timedelta(days=1)


@dataclass(frozen=True)
class Failed:
    """Records that a step could not handle; they go to the pipeline's default."""

    step: str


@dataclass(frozen=True)
class Decided:
    """The decisions of a `decide` step."""

    ok: "Decisions"
    failed: Failed


@dataclass(frozen=True)
class Decisions:
    _pipeline: "Pipeline"


@dataclass(frozen=True)
class Scores:
    """Records with a score."""

    _pipeline: "Pipeline"

    def decide(self, bands: Bands, *, step: str = "decide") -> Decided:
        """A decision per record, by thresholds that are data."""
        self._pipeline._take(step, "bands", bands)
        return Decided(Decisions(self._pipeline), Failed(step))


@dataclass(frozen=True)
class Scored:
    ok: Scores
    failed: Failed


@dataclass(frozen=True)
class Enriched:
    """Events with their features, each exactly once; one too late for its windows comes out marked."""

    _pipeline: "Pipeline"

    def infer(
        self,
        model: str,
        *,
        batch: int = 512,
        wait: timedelta = timedelta(milliseconds=5),
        step: str = "infer",
    ) -> Scored:
        """A score per record, by the champion version of `model`. `wait` is at most 500 ms."""
        self._pipeline._infer(Infer(model, batch, wait), step)
        return Scored(Scores(self._pipeline), Failed(step))


@dataclass(frozen=True)
class Forecasts:
    _pipeline: "Pipeline"


@dataclass(frozen=True)
class Forecasted:
    """The forecasts of a `forecast` step."""

    ok: Forecasts
    failed: Failed


@dataclass(frozen=True)
class FeatureRows:
    """A windowed view's rows, each once."""

    _pipeline: "Pipeline"

    def forecast(
        self,
        counted: str,
        *,
        model: str,
        scale: str,
        horizons: Sequence[Horizon],
        batch: int = 512,
        wait: timedelta = timedelta(milliseconds=5),
        step: str = "forecast",
    ) -> Forecasted:
        """A forecast of the feature `counted` per row whose feature `scale` is above 0, for each horizon, by
        the champion version of `model`. `wait` is at most 500 ms."""
        made, where = self._pipeline, f"pipeline {self._pipeline.name}, step {step}"
        view = made._parts["view"]
        if isinstance(view, FeatureView):
            forecast_window(view)
            for name in (counted, scale):
                if name not in view.feature_names:
                    raise UnknownName("feature", name, view.feature_names, where=where)
        names = [one.name for one in horizons]
        if not names or len(set(names)) != len(names):
            raise DeclarationError(
                f"horizons {', '.join(names) or 'without any'}",
                where=where,
                mend="give one at least, each with a name of its own",
            )
        if any(one.steps < 1 or one.lead < 0 for one in horizons):
            raise DeclarationError(
                "a horizon without a window of the future", where=where, mend="give steps >= 1, lead >= 0"
            )
        made._infer(Infer(model, batch, wait), step)
        for part, value in (("counted", counted), ("scale", scale), ("horizons", tuple(horizons))):
            made._set(part, value, step)
        return Forecasted(Forecasts(made), Failed(step))


@dataclass(frozen=True)
class Events:
    """A topic as it is read: each event once per (tenant, id), the first one."""

    _pipeline: "Pipeline"

    def enrich(self, view: FeatureView, *, to: Topic, step: str = "enrich") -> Enriched:
        """The events with a rolling view's features, on the topic `to`."""
        self._pipeline._same_record(view.source, f"view {view.name}", step)
        self._pipeline._shape(view, isinstance(view.window, Rolling), step, "use window(...) for it")
        self._pipeline._take(step, "view", view)
        self._pipeline._set("enriched", to, step)
        return Enriched(self._pipeline)

    def window(self, view: FeatureView, *, to: Topic, late: Topic, step: str = "window") -> FeatureRows:
        """A windowed view's rows on the topic `to`, and the events that came too late for it on `late`; both
        as `features.feature_rows` makes them."""
        self._pipeline._same_record(view.source, f"view {view.name}", step)
        self._pipeline._shape(view, not isinstance(view.window, Rolling), step, "use enrich(...) for it")
        self._pipeline._take(step, "view", view)
        self._pipeline._set("rows", to, step)
        self._pipeline._set("late", late, step)
        return FeatureRows(self._pipeline)

    def alert_on(self, pattern: Pattern, *, step: str | None = None) -> None:
        """An alert for each match of the pattern."""
        step = step or pattern.name
        self._pipeline._same_record(pattern.source, f"pattern {pattern.name}", step)
        self._pipeline._step(step)
        self._pipeline._patterns.append(pattern)


@dataclass
class Pipeline:
    """What the building function is handed."""

    name: str
    version: int
    unrouted: Unrouted | None
    _parts: dict[str, object] = field(default_factory=dict)
    _steps: list[str] = field(default_factory=list)
    _patterns: list[Pattern] = field(default_factory=list)

    def read(
        self, topic: Topic, *, takes_events: bool = True, route: str | None = None, step: str = "read"
    ) -> Events:
        """Read events. See `Plan` for what they may be published by."""
        if route is not None and not (takes_events and route.startswith("/")):
            raise DeclarationError(
                f"route {route!r}",
                where=f"pipeline {self.name}, step {step}",
                mend="give a path that begins with /, in a pipeline that takes events",
            )
        self._take(step, "source", topic)
        self._set("takes_events", takes_events, step)
        self._set("route", route, step)
        return Events(self)

    def write(self, results: Decisions | Forecasts, topic: Topic, *, step: str = "results") -> None:
        """Publish the results; the first per (tenant, id) is the visible outcome."""
        self._holds(topic, Decision if isinstance(results, Decisions) else Forecast, step)
        self._take(step, "results", topic)

    def store(self, *, status: Topic, step: str = "store") -> None:
        """Store each forecast; push on `status` what is stored."""
        self._holds(status, Forecast, step)
        self._take(step, "status", status)

    def follow(self, *, status: Topic, labels: Topic, alerts: Topic = ALERTS, step: str = "follow") -> None:
        """Keep each event's status and push its changes; take verdicts; alert on what is blocked."""
        self._holds(status, StatusChange, step)
        self._holds(labels, Verdict, step)
        self._take(step, "status", status)
        self._set("labels", labels, step)
        self._set("alerts", alerts, step)

    def ask(
        self,
        *,
        kept: timedelta = RETENTION,
        levels: Levels | None = None,
        reuse: Reuse | None = None,
        step: str = "ask",
    ) -> None:
        """How those are answered who ask a pipeline that scores, how long Kafka keeps their requests, and
        whether an answer may be given again."""
        if kept < timedelta(minutes=1):
            raise DeclarationError(
                f"requests are kept for {kept}",
                where=f"pipeline {self.name}, step {step}",
                mend="give a minute at least: a worker that starts again must still find them",
            )
        levels = levels or Levels()
        for name, within in (("live", levels.live), ("previous_version", levels.previous_version)):
            if not timedelta(0) < within <= LONGEST_LEVEL:
                raise DeclarationError(
                    f"level {name} has {within}",
                    where=f"pipeline {self.name}, step {step}",
                    mend=f"give more than nothing, at most {LONGEST_LEVEL}",
                )
        self._take(step, "requests_kept", kept)
        self._set("levels", levels, step)
        if reuse is not None:
            if not (
                timedelta(0) < reuse.lasts <= LONGEST_REUSE and timedelta(0) <= reuse.as_of <= LONGEST_REUSE
            ):
                raise DeclarationError(
                    f"answers are given again for {reuse.lasts}, as of the same {reuse.as_of}",
                    where=f"pipeline {self.name}, step {step}",
                    mend=f"give a time above 0, and both at most {LONGEST_REUSE}",
                )
            self._set("reuse", reuse, step)

    def plan(self) -> Plan:
        """The plan. Raises DeclarationError when a part is missing or parts do not fit together."""
        where = f"pipeline {self.name}"
        if self.unrouted is None:
            raise DeclarationError(
                "a pipeline without a default output", where=where, mend="give unrouted=DEAD_LETTERS"
            )
        if "rows" not in self._parts:
            plan: Plan = self._scoring()
        else:
            plan = self._forecast() if "infer" in self._parts else self._features()
        for topic in plan.keyed:
            if topic.partitions != plan.source.partitions:
                raise DeclarationError(
                    f"{topic.name}: {topic.partitions} partitions, its source {plan.source.partitions}",
                    where=where,
                    mend="give the topics of a path equal partition counts: one worker sees an entity whole",
                )
        return plan

    def _scoring(self) -> ScoringPlan:
        self._complete(
            {
                "source": "read", "view": "enrich or window", "infer": "infer", "bands": "decide",
                "results": "write", "status": "follow",
            }
        )  # fmt: skip
        plan = ScoringPlan(
            pipeline=self.name,
            version=self.version,
            patterns=tuple(self._patterns),
            **self._parts,  # type: ignore[arg-type]
        )
        known = [band.decision for band in plan.bands.all]
        if plan.levels.decision is not None and plan.levels.decision not in known:
            raise DeclarationError(
                f"those who ask fall back to {plan.levels.decision!r}, which no band decides",
                where=f"pipeline {self.name}",
                mend=f"known: {', '.join(known)}",
            )
        if plan.reuse is not None and plan.source.record is not None:
            self._ignorable(plan.reuse, plan.source.record)
        return plan

    def _ignorable(self, reuse: Reuse, record: type[Record]) -> None:
        where, spec = f"pipeline {self.name}", record.spec()
        for name in reuse.ignored:
            if name not in record.__struct_fields__:
                raise UnknownName("field", name, record.__struct_fields__, where=where)
            if name in ("tenant", "id", spec.entity, spec.time):
                raise DeclarationError(
                    f"answers are given again whatever the {name}",
                    where=where,
                    mend="the entity always counts, tenant and id never do; say as_of for the event time",
                )

    def _forecast(self) -> ForecastPlan:
        self._complete({"results": "write", "status": "store"})
        self._windowed()
        return ForecastPlan(pipeline=self.name, version=self.version, **self._parts)  # type: ignore[arg-type]

    def _features(self) -> FeaturesPlan:
        self._windowed()
        return FeaturesPlan(pipeline=self.name, version=self.version, **self._parts)  # type: ignore[arg-type]

    def _windowed(self) -> None:
        """Raises DeclarationError for what only a pipeline with decisions can have."""
        if self._patterns:
            raise DeclarationError(
                f"pattern {self._patterns[0].name} beside a windowed view",
                where=f"pipeline {self.name}",
                mend="watch for it in a pipeline of its own",
            )
        if "requests_kept" in self._parts:
            raise DeclarationError(
                "a pipeline that decides nothing cannot be asked",
                where=f"pipeline {self.name}",
                mend="leave ask(...) out",
            )

    def _complete(self, wanted: Mapping[str, str]) -> None:
        for part, call in wanted.items():
            if part not in self._parts:
                raise DeclarationError(
                    f"no {part}", where=f"pipeline {self.name}", mend=f"call {call}(...) in its function"
                )

    def _shape(self, view: FeatureView, right: bool, step: str, mend: str) -> None:
        if not right:
            raise DeclarationError(
                f"view {view.name} is {'rolling' if isinstance(view.window, Rolling) else 'windowed'}",
                where=f"pipeline {self.name}, step {step}",
                mend=mend,
            )

    def _infer(self, infer: Infer, step: str) -> None:
        where = f"pipeline {self.name}, step {step}"
        if not 1 <= infer.batch <= 10_000:
            raise DeclarationError(f"a batch of {infer.batch} records", where=where, mend="give 1 to 10000")
        if not timedelta(0) <= infer.wait <= timedelta(milliseconds=500):
            raise DeclarationError(f"a wait of {infer.wait}", where=where, mend="give 0 to 500 ms")
        self._take(step, "infer", infer)

    def _take(self, step: str, part: str, value: object) -> None:
        self._step(step)
        self._set(part, value, step)

    def _step(self, step: str) -> None:
        if step in self._steps:
            raise DeclarationError(
                f"two steps named {step!r}",
                where=f"pipeline {self.name}",
                mend="give one another name: a step's name is the identity of its state",
            )
        self._steps.append(step)

    def _set(self, part: str, value: object, step: str) -> None:
        if part in self._parts:
            raise DeclarationError(
                f"a second {part}",
                where=f"pipeline {self.name}, step {step}",
                mend="make it a pipeline of its own",
            )
        self._parts[part] = value

    def _same_record(self, record: type[Record], what: str, step: str) -> None:
        source = self._parts["source"]
        if isinstance(source, Topic) and source.record is not record:
            held = source.record.__name__ if source.record else "nothing"
            raise DeclarationError(
                f"{what} is over {record.__name__}, {source.name} holds {held}",
                where=f"pipeline {self.name}, step {step}",
                mend="read the topic of that record, or declare the view over this one",
            )

    def _holds(self, topic: Topic, record: type[Record], step: str) -> None:
        if topic.record is not record:
            held = topic.record.__name__ if topic.record else "nothing"
            raise DeclarationError(
                f"topic {topic.name} holds {held}",
                where=f"pipeline {self.name}, step {step}",
                mend=f"give a topic of {record.__name__}",
            )


@dataclass(frozen=True)
class Definition:
    """A pipeline that can be planned; what the entry point `millstream.pipelines` names."""

    name: str
    version: int
    unrouted: Unrouted | None
    build: Callable[[Pipeline], None]

    def plan(self) -> Plan:
        made = Pipeline(self.name, self.version, self.unrouted)
        self.build(made)
        return made.plan()


def pipeline(
    name: str, *, version: int, unrouted: Unrouted | None = None
) -> Callable[[Callable[[Pipeline], None]], Definition]:
    """Declare a pipeline."""
    return lambda build: Definition(name, version, unrouted, build)
