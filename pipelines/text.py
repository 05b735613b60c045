"""The stable text form of a plan: what `millstream plan` prints and the golden file holds."""

from datetime import timedelta

from operators.decide import Band
from pipelines.plan import Plan
from schemas.topic import Topic


def plan_text(plan: Plan, *, replication: int = 1, min_insync: int = 1) -> str:
    """One plan, line by line, in the order of a record's path. Equal plans have equal texts."""
    lines = [f"pipeline {plan.pipeline} v{plan.version} (lane {plan.lane})", "", "topics"]
    for topic in plan.topics:
        lines += _topic(topic, replication, min_insync)
    view = plan.view
    entity = ", ".join(view.entity_fields)
    lines += [
        "",
        f"view {view.name} v{view.version} by {entity}, disorder {_span(view.disorder)}",
    ]
    lines += [f"  {feature.name} [{feature.unit}] empty={feature.empty}" for feature in view.features]
    for pattern in plan.patterns:
        steps = ", then ".join(
            f"{step.at_least}{'+' if step.or_more else ''} {step.name}"
            f" ({step.where.column} {step.where.is_} {step.where.value})"
            for step in pattern.steps
        )
        lines += ["", f"pattern {pattern.name} v{pattern.version} by {pattern.entity}"]
        lines += [f"  {steps}, within {_span(pattern.within)}: alert {pattern.severity}"]
    infer = plan.infer
    lines += [
        "",
        f"infer {infer.model} (champion), batches of {infer.batch}, wait {_span(infer.wait)}",
        "decide",
        *(f"  {_band(band)}" for band in plan.bands.bands),
        f"  otherwise: {plan.bands.otherwise.decision} -> {plan.bands.otherwise.status}",
        "",
        "jobs",
        f"  flink   {plan.source.name} -> {plan.enriched.name}",
        f"  worker  {plan.enriched.name} -> {plan.results.name}",
        f"  writer  online  {plan.enriched.name} -> Redis",
        f"          offline {plan.enriched.name} -> Delta",
        f"          status  {plan.results.name}, {plan.labels.name} -> PostgreSQL -> {plan.status.name}",
        "",
        "routes",
        f"  POST /api/v1/pipelines/{plan.pipeline}/events",
        "  GET  /api/v1/transactions/{id}",
        f"  GET  /api/v1/features/{view.name}/{{entity}}",
        "  GET  /api/v1/reviews",
        "  POST /api/v1/reviews/{id}/decision",
        "  WS   /api/v1/stream",
    ]
    return "\n".join(lines) + "\n"


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


def _span(span: timedelta) -> str:
    millis = span // timedelta(milliseconds=1)
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1000)):
        if millis and millis % size == 0:
            return f"{millis // size} {unit}"
    return f"{millis} ms"
