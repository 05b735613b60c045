"""Which processes a set of plans needs, and how the supervisor starts them."""

import sys
from collections.abc import Iterable

from core.settings import Settings
from jobs.engines import ENGINES, Engine, job_of
from pipelines.plan import Plan, ScoringPlan
from stack.unit import JobSpec

GATEWAY = "gateway"


def job_specs(plans: Iterable[Plan], settings: Settings, engine: Engine = "flink") -> list[JobSpec]:
    """The stream (Flink's keeper, or a Faust agent) and writer of each pipeline, the worker of one that
    scores, one gateway for all. Raises DeclarationError for a view that the engine cannot run."""
    specs = [JobSpec(name=GATEWAY, argv=_run("gateway"), probe_port=settings.gateway.port, stage=30)]
    for plan in plans:
        job_of(plan, engine)
        for job in (engine, "writer", *(("worker",) if isinstance(plan, ScoringPlan) else ())):
            specs.append(
                JobSpec(name=f"{plan.pipeline}-{job}", argv=_run(job, "--pipeline", plan.pipeline), stage=20)
            )
    return specs


def other_streams(plans: Iterable[Plan], engine: Engine) -> list[str]:
    """Names of the jobs that would compute the same on another engine: only one may."""
    return [f"{plan.pipeline}-{other}" for plan in plans for other in ENGINES if other != engine]


def _run(job: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-P", "-m", "cli", "run", job, *arguments)
