"""Which processes a set of plans needs, and how the supervisor starts them."""

import sys
from collections.abc import Iterable
from dataclasses import dataclass

from msgspec.structs import replace

from core.ids import digest
from core.settings import LOOPBACK, Settings
from jobs.engines import ENGINES, Engine, job_of
from pipelines.load import load_plans, load_services
from pipelines.plan import ForecastPlan, Plan, ScoringPlan, ServedPlan
from pipelines.text import plan_text
from stack.local import Stack
from stack.unit import JobSpec

GATEWAY = "gateway"
TRAINING = "training"
AUDIT = "audit"
ROLLOUT = "rollout"
GENERATING = "generating"
SERVING = "serving"
EMBEDDINGS = "embeddings"
PLANNED = "MILLSTREAM_PLANNED"
"""Digest of what a job was planned from; another one is another specification, so that it starts anew."""


def job_specs(
    plans: Iterable[Plan],
    settings: Settings,
    engine: Engine = "flink",
    *,
    beside: Iterable[str] = (),
    llm: bool = False,
    direct: bool = False,
    embeddings: bool = False,
) -> list[JobSpec]:
    """The stream (Flink's keeper, or a Faust agent) and writer of each pipeline, both hosts of the worker of
    one that scores, the worker of one that forecasts, the corrections of one whose view has windows, the one
    controller of model routing where any has a model, with `llm` what answers prompts, with `direct` what
    serves the models over HTTP, with `embeddings` what makes vectors of texts (both here unless the settings
    have their addresses), and one gateway, or several behind the balancer; gateways and direct serving are
    for the pipelines `beside` too, which are deployed already. Raises DeclarationError for a view that
    the engine cannot run."""
    plans = list(plans)
    served = {plan.pipeline for plan in plans} | set(beside)
    all_served = [plan for name, plan in load_plans().items() if name in served]
    installed = [_meaning(plan) for plan in all_served]
    read = [f"{one.name} {[(view.digest, names) for view, names in one.features]}" for one in load_services()]
    gateway = JobSpec(
        name=GATEWAY,
        argv=_run(
            "gateway",
            *(part for name in sorted(served) for part in ("--pipeline", name)),
            *(flag for flag, given in _flags(llm, direct, embeddings) if given),
        ),
        env={PLANNED: _short("\n".join(installed + read))},
        probe_port=settings.gateway.port,
        stage=30,
        tls=settings.gateway.certificate is not None,
    )
    specs = _balanced(gateway, settings) if settings.balancer.ports else [gateway]
    if any(isinstance(plan, ServedPlan) for plan in plans):
        specs.append(JobSpec(name=ROLLOUT, argv=_run(ROLLOUT), env={PLANNED: "1"}, stage=20))
    models = sorted({plan.infer.model for plan in all_served if isinstance(plan, ServedPlan)})
    if direct and models and settings.serving.url is None:
        specs.append(
            JobSpec(
                name=SERVING,
                argv=_run(SERVING, *(part for name in models for part in ("--model", name))),
                probe_port=settings.serving.port,
                stage=20,
            )
        )
    if embeddings and settings.embeddings.url is None:
        planned = _short(settings.embeddings.model_dump_json())
        specs.append(
            JobSpec(
                name=EMBEDDINGS,
                argv=_run(EMBEDDINGS),
                env={PLANNED: planned},
                probe_port=settings.embeddings.port,
                after=(),
                stage=20,
            )
        )
    if llm:
        planned = _short(settings.llm.model_dump_json())
        specs.append(JobSpec(name=GENERATING, argv=_run(GENERATING), env={PLANNED: planned}, stage=20))
    for plan in plans:
        job_of(plan, engine)
        for job in (engine, "writer", *_own_jobs(plan)):
            specs.append(
                JobSpec(
                    name=f"{plan.pipeline}-{job}",
                    argv=_run(job, "--pipeline", plan.pipeline),
                    env={PLANNED: _short(_meaning(plan))},
                    stage=20,
                )
            )
    return specs


def _flags(llm: bool, direct: bool, embeddings: bool) -> tuple[tuple[str, bool], ...]:
    return ("--llm", llm), ("--direct", direct), ("--embeddings", embeddings)


def _balanced(gateway: JobSpec, settings: Settings) -> list[JobSpec]:
    """It as often as the settings say, each on a port of its own that only the balancer needs to reach."""
    return [
        replace(
            gateway,
            name=GATEWAY if number == 1 else f"{GATEWAY}-{number}",
            env={**gateway.env, "MILLSTREAM_GATEWAY__HOST": LOOPBACK, "MILLSTREAM_GATEWAY__PORT": str(port)},
            probe_port=port,
            tls=False,
        )
        for number, port in enumerate(settings.balancer.ports, start=1)
    ]


def surplus_gateways(there: Iterable[str], specs: Iterable[JobSpec]) -> list[str]:
    """Names of gateways that run, of a time when more were wanted."""
    wanted = {spec.name for spec in specs}
    return [name for name in there if name.startswith(f"{GATEWAY}-") and name not in wanted]


def _own_jobs(plan: Plan) -> tuple[str, ...]:
    if isinstance(plan, ScoringPlan):
        return ("worker", "answering")
    return ("corrections", "worker") if isinstance(plan, ForecastPlan) else ("corrections",)


def training_spec() -> JobSpec:
    """The scheduler of trainings: one for all pipelines."""
    return JobSpec(name=TRAINING, argv=_run("training"), stage=30)


def audit_spec() -> JobSpec:
    """What copies the audit trail to PostgreSQL."""
    return JobSpec(name=AUDIT, argv=_run(AUDIT), stage=20)


@dataclass(frozen=True)
class Deployed:
    """Pipelines that have their jobs on the stack, and whether prompts are answered, models are served
    directly and vectors are made there."""

    pipelines: frozenset[str] = frozenset()
    llm: bool = False
    direct: bool = False
    embeddings: bool = False


def deployed(stack: Stack) -> Deployed:
    """What `job_specs` leaves as it is, unless told otherwise."""
    if not stack.running():
        return Deployed()
    there = {row.name for row in stack.status()}
    pipelines = frozenset(name for name in load_plans() if f"{name}-writer" in there)
    return Deployed(pipelines, GENERATING in there, SERVING in there, EMBEDDINGS in there)


def other_streams(plans: Iterable[Plan], engine: Engine) -> list[str]:
    """Names of the jobs that would compute the same on another engine: only one may."""
    return [f"{plan.pipeline}-{other}" for plan in plans for other in ENGINES if other != engine]


def _meaning(plan: Plan) -> str:
    return f"{plan_text(plan)}\n{plan.view.digest}"


def _short(text: str) -> str:
    return digest(text.encode())[:12]


def _run(job: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-P", "-m", "cli", "run", job, *arguments)
