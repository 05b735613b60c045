"""Which processes a set of plans needs, and how the supervisor starts them."""

import sys
from collections.abc import Iterable

from core.settings import Settings
from pipelines.plan import Plan, ScoringPlan
from stack.unit import JobSpec

GATEWAY = "gateway"


def job_specs(plans: Iterable[Plan], settings: Settings) -> list[JobSpec]:
    """The Flink keeper and writer of each pipeline, the worker of one that scores, one gateway for all."""
    specs = [JobSpec(name=GATEWAY, argv=_run("gateway"), probe_port=settings.gateway.port, stage=30)]
    for plan in plans:
        for job in ("flink", "writer", *(("worker",) if isinstance(plan, ScoringPlan) else ())):
            specs.append(
                JobSpec(name=f"{plan.pipeline}-{job}", argv=_run(job, "--pipeline", plan.pipeline), stage=20)
            )
    return specs


def _run(job: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-P", "-m", "cli", "run", job, *arguments)
