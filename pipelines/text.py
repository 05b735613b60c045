"""The stable text form of a plan: what `millstream plan` prints and the golden file holds."""

from features.windows import Rolling
from features.words import span, window_words
from operators.decide import Band
from pipelines.plan import FeaturesPlan, ForecastPlan, Plan, Reuse, ScoringPlan
from schemas.topic import Topic


def plan_text(plan: Plan, *, replication: int = 1, min_insync: int = 1) -> str:
    """One plan, line by line, in the order of a record's path. Equal plans have equal texts."""
    lines = [f"pipeline {plan.pipeline} v{plan.version} (lane {plan.lane})", "", "topics"]
    for topic in plan.topics:
        lines += _topic(topic, replication, min_insync)
    lines += _view(plan)
    if isinstance(plan, ScoringPlan):
        lines += _scoring(plan)
    if isinstance(plan, FeaturesPlan):
        lines += _features(plan)
    return "\n".join(lines) + "\n"


def _view(plan: Plan) -> list[str]:
    view = plan.view
    entity = ", ".join(view.entity_fields)
    window = "" if isinstance(view.window, Rolling) else f", {window_words(view.window)}"
    return [
        "",
        f"view {view.name} v{view.version} by {entity}{window}, disorder {span(view.disorder)}",
        *(f"  {feature.name} [{feature.unit}] empty={feature.empty}" for feature in view.features),
    ]


def _scoring(plan: ScoringPlan) -> list[str]:
    lines = []
    for pattern in plan.patterns:
        steps = ", then ".join(
            f"{step.at_least}{'+' if step.or_more else ''} {step.name}"
            f" ({step.where.column} {step.where.is_} {step.where.value})"
            for step in pattern.steps
        )
        lines += ["", f"pattern {pattern.name} v{pattern.version} by {pattern.entity}"]
        lines += [f"  {steps}, within {span(pattern.within)}: alert {pattern.severity}"]
    infer = plan.infer
    return [
        *lines,
        "",
        f"infer {infer.model} (champion), batches of {infer.batch}, wait {span(infer.wait)}",
        "decide",
        *(f"  {_band(band)}" for band in plan.bands.bands),
        f"  otherwise: {plan.bands.otherwise.decision} -> {plan.bands.otherwise.status}",
        "",
        "jobs",
        f"  flink   {plan.source.name} -> {plan.enriched.name}",
        f"  worker  {plan.enriched.name} -> {plan.results.name}",
        f"  answering {plan.requests.name} -> {plan.replies.name}",
        f"          {_levels(plan)}",
        *([] if plan.reuse is None else [f"          {_reuse(plan.reuse)}"]),
        f"  writer  online  {plan.enriched.name} -> Redis",
        f"          offline {plan.enriched.name} -> Delta",
        f"          status  {plan.results.name}, {plan.labels.name} -> PostgreSQL -> {plan.status.name}",
        *_routes(plan),
        f"  POST /api/v1/pipelines/{plan.pipeline}/infer",
        "  GET  /api/v1/requests/{id}",
        "  GET  /api/v1/transactions/{id}",
        "  GET  /api/v1/reviews",
        "  POST /api/v1/reviews/{id}/decision",
        "  WS   /api/v1/stream",
    ]


def _features(plan: FeaturesPlan) -> list[str]:
    return [
        *(_forecast(plan) if isinstance(plan, ForecastPlan) else []),
        "",
        "jobs",
        f"  stream  {plan.source.name} -> {plan.rows.name}, {plan.late.name}",
        *(
            f"          looking up {lookup.name} in {lookup.topic.name}"
            for lookup in plan.view.lookups
            if lookup.topic
        ),
        *([f"  worker  {plan.rows.name} -> {plan.results.name}"] if isinstance(plan, ForecastPlan) else []),
        f"  writer  online  {plan.rows.name} -> Redis",
        f"          offline {plan.rows.name} -> Delta",
        *([f"          events  {plan.source.name} -> Delta"] if plan.takes_events else []),
        *(
            [f"          forecasts {plan.results.name} -> PostgreSQL -> {plan.status.name}"]
            if isinstance(plan, ForecastPlan)
            else []
        ),
        *_routes(plan),
        *(["  WS   /api/v1/stream"] if isinstance(plan, ForecastPlan) else []),
    ]


def _forecast(plan: ForecastPlan) -> list[str]:
    infer = plan.infer
    return [
        "",
        f"forecast {plan.counted} [{plan.unit}] by {infer.model} (champion), in units of {plan.scale}, "
        f"batches of {infer.batch}, wait {span(infer.wait)}",
        *(f"  {horizon}" for horizon in plan.horizons),
    ]


def _levels(plan: ScoringPlan) -> str:
    levels = plan.levels
    last = "503" if levels.decision is None else levels.decision
    return f"live {span(levels.live)}, then previous version {span(levels.previous_version)}, then {last}"


def _reuse(reuse: Reuse) -> str:
    said = f"an answer is given again for {span(reuse.lasts)}, to the same question as of the same "
    said += f"{span(reuse.as_of)}" if reuse.as_of else "time"
    return f"{said}, whatever its {', '.join(reuse.ignored)}" if reuse.ignored else said


def _routes(plan: Plan) -> list[str]:
    lines = ["", "routes"]
    if plan.takes_events:
        lines.append(f"  POST /api/v1/pipelines/{plan.pipeline}/events")
    if plan.route is not None:
        lines.append(f"  POST {plan.route}")
    return [*lines, f"  GET  /api/v1/features/{plan.view.name}/{{entity}}", "  POST /api/v1/features/read"]


def _topic(topic: Topic, replication: int, min_insync: int) -> list[str]:
    holds = topic.record.__name__ if topic.record else "the bytes as they came"
    settings = ", ".join(f"{name}={value}" for name, value in topic.config(min_insync=min_insync).items())
    return [
        f"  {topic.name}: {holds}",
        f"    {topic.partitions} partitions, {replication} replicas, {settings}",
    ]


def _band(band: Band) -> str:
    limits = []
    if band.above is not None:
        limits.append(f"above {band.above:g}")
    if band.below is not None:
        limits.append(f"below {band.below:g}")
    return f"{' and '.join(limits)}: {band.decision} -> {band.status}"
