"""The engines that can run a plan's stream, and why another one cannot."""

from typing import Literal, get_args

from core.errors import DeclarationError
from features.compile.flink import FlinkStream
from jobs.on_faust.job import FaustJob
from jobs.on_flink.stream import stream_of
from pipelines.plan import FeaturesPlan, Plan

Engine = Literal["flink", "faust"]
ENGINES: tuple[Engine, ...] = get_args(Engine)


def faust_job(plan: Plan) -> FaustJob:
    """The plan's view as a Faust agent. Raises DeclarationError with every reason why it cannot be one."""
    if not isinstance(plan, FeaturesPlan):
        raise DeclarationError(
            f"Faust cannot run {plan.view.name} v{plan.view.version}: it has a row per event and not one per "
            "window",
            where=plan.view.where,
            mend="run it on Flink",
        )
    return FaustJob(plan.pipeline, plan.source, plan.view, plan.rows, plan.late)


def job_of(plan: Plan, engine: Engine) -> FlinkStream | FaustJob:
    """What the engine runs of a plan. Raises DeclarationError where it cannot."""
    return stream_of(plan) if engine == "flink" else faust_job(plan)


def refusals(plan: Plan) -> dict[Engine, str]:
    """The engines that cannot run the plan's view, with the reasons."""
    found: dict[Engine, str] = {}
    for engine in ENGINES:
        try:
            job_of(plan, engine)
        except DeclarationError as error:
            found[engine] = error.what
    return found
