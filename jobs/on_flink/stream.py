"""What Flink computes of a plan, and the name its job and state go by."""

from core.errors import Unavailable
from core.settings import Settings
from features.compile.flink import Stream
from jobs.on_flink.rest import FlinkRest
from pipelines.plan import Plan


def stream_of(plan: Plan) -> Stream:
    """The part of a plan that is one Flink job."""
    return Stream(
        pipeline=plan.pipeline,
        source=plan.source,
        view=plan.view,
        patterns=plan.patterns,
        enriched=plan.enriched,
        alerts=plan.alerts,
    )


def name_of(stream: Stream) -> str:
    """`<pipeline>-<first 12 of the lineage's digest>`."""
    return f"{stream.pipeline}-{stream.lineage[:12]}"


def job_name(plan: Plan) -> str:
    """The name of the plan's Flink job; another name means another state."""
    return name_of(stream_of(plan))


def running_job_names(settings: Settings) -> set[str]:
    """Names of the jobs that Flink runs; empty while Flink is away."""
    rest = FlinkRest(settings.flink.address, timeout_s=2.0)
    try:
        return {job.name for job in rest.jobs() if not job.ended}
    except Unavailable:
        return set()
    finally:
        rest.close()
