"""`millstream plan` and `millstream apply`: what a pipeline would create or change, and doing it."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from cli.audited import audited
from core.errors import UnknownName
from core.settings import Settings, settings

if TYPE_CHECKING:
    from jobs.engines import Engine
    from pipelines.changes import Change
    from pipelines.plan import Plan
    from stack.unit import JobSpec

COLOURS = {"create": "green", "change": "yellow", "keep": "dim", "refuse": "bold red"}
SIGNS = {"create": "+", "change": "~", "keep": "=", "refuse": "!"}
Names = Annotated[list[str] | None, typer.Argument(help="pipelines; all of them without a name")]
Output = Annotated[str, typer.Option("--output", "-o", help="table | json")]


def register(app: typer.Typer) -> None:
    @app.command()
    def plan(
        pipelines: Names = None,
        text: Annotated[bool, typer.Option("--text", help="the plan itself, in its stable form")] = False,
        sql: Annotated[bool, typer.Option("--sql", help="the compiled Flink SQL")] = False,
        output: Output = "table",
    ) -> None:
        """What applying would create or change: topics, schemas, SQL jobs, workers. Changes nothing."""
        chosen = plans_named(pipelines)
        if text or sql:
            for one in chosen:
                typer.echo(stable_text(one) if text else compiled_sql(one), nl=False)
            return
        show(compare_all(chosen, settings()), output)

    @app.command()
    def apply(
        pipelines: Names = None,
        jobs: Annotated[bool, typer.Option(help="start the jobs too, where the local stack runs")] = True,
        engine: Annotated[
            str, typer.Option(help="flink | faust: what computes the views; faust needs no JVM")
        ] = "flink",
        llm: Annotated[
            bool,
            typer.Option("--llm", help="answer prompts too, by the servers of `up --only llm` or LLM__URL"),
        ] = False,
        direct: Annotated[
            bool, typer.Option("--direct", help="serve the models over HTTP too, without Kafka on the way")
        ] = False,
        embeddings: Annotated[
            bool, typer.Option("--embeddings", help="make vectors of texts too, by all-MiniLM-L6-v2")
        ] = False,
        output: Output = "table",
    ) -> None:
        """Create and change what the plan says. Applying twice changes nothing."""
        chosen = plans_named(pipelines)
        named = engine_named(engine)
        with audited("apply", target=" ".join(plan.pipeline for plan in chosen)) as act:
            changes = apply_all(
                chosen, settings(), jobs=jobs, engine=named, llm=llm, direct=direct, embeddings=embeddings
            )
            act.detail["changes"] = str(sum(change.action != "keep" for change in changes))
        show(changes, output)


def plans_named(names: Sequence[str] | None) -> "list[Plan]":
    from pipelines.load import load_plan, load_plans

    return [load_plan(name) for name in names] if names else list(load_plans().values())


def stable_text(plan: "Plan") -> str:
    from pipelines.text import plan_text

    kafka = settings().kafka
    return plan_text(plan, replication=kafka.replication, min_insync=kafka.min_insync)


def compiled_sql(plan: "Plan") -> str:
    from features.compile.flink import PLACEHOLDER
    from jobs.on_flink.stream import stream_of

    return stream_of(plan).compile(PLACEHOLDER).text


def compare_all(plans: "Sequence[Plan]", given: Settings) -> "list[Change]":
    """Topics, schemas, Flink jobs and processes, against what is there."""
    from cli.jobs import job_specs
    from pipelines.changes import compare

    return compare(plans, given) + _compare_jobs(plans, given, "flink", job_specs(plans, given))


def engine_named(name: str) -> "Engine":
    """Raises UnknownName with the nearest name."""
    from jobs.engines import ENGINES

    for engine in ENGINES:
        if engine == name:
            return engine
    raise UnknownName("engine", name, ENGINES)


def apply_all(
    plans: "Sequence[Plan]",
    given: Settings,
    *,
    jobs: bool,
    engine: "Engine" = "flink",
    llm: bool = False,
    direct: bool = False,
    embeddings: bool = False,
) -> "list[Change]":
    """Apply topics, schemas and tables, then start the jobs, and stop those that computed the same on another
    engine; with `llm`, `direct` and `embeddings`, or where they are deployed already, those that answer
    prompts, serve models directly and make vectors too. Returns what was changed. Raises DeclarationError
    for a view that the engine cannot run, before any change."""
    from cli.jobs import audit_spec, deployed, job_specs, other_streams, surplus_gateways, training_spec
    from cli.stack_commands import local_stack
    from pipelines.changes import apply, apply_topics
    from pipelines.generating import TOPICS as GENERATING_TOPICS
    from schemas.catalog.experiments import EXPERIMENTS
    from schemas.catalog.training import TOPICS as TRAINING_TOPICS

    stack = local_stack(given)
    before = deployed(stack)
    specs = job_specs(
        plans,
        given,
        engine,
        beside=before.pipelines,
        llm=llm or before.llm,
        direct=direct or before.direct or given.serving.url is not None,
        embeddings=embeddings or before.embeddings or given.embeddings.url is not None,
    )
    pending = _compare_jobs(plans, given, engine, specs) if jobs else []
    changes = apply(plans, given)
    apply_topics([*TRAINING_TOPICS, EXPERIMENTS, *GENERATING_TOPICS], given)
    if jobs and stack.running():
        there = {row.name for row in stack.status()}
        for name in (*other_streams(plans, engine), *surplus_gateways(there, specs)):
            if name in there:
                stack.remove_job(name)
        for spec in (*specs, training_spec(), audit_spec()):
            stack.add_job(spec)
    return changes + pending


def _compare_jobs(
    plans: "Sequence[Plan]", given: Settings, engine: "Engine", specs: "Sequence[JobSpec]"
) -> "list[Change]":
    from cli.stack_commands import local_stack
    from jobs.on_flink.stream import job_name, running_job_names
    from pipelines.changes import Action, Change

    running = running_job_names(given)
    changes = []
    for plan in plans if engine == "flink" else ():
        name = job_name(plan)
        if name in running:
            changes.append(Change("sql", name, Action.KEEP))
            continue
        before = [other for other in running if other.startswith(f"{plan.pipeline}-")]
        action = Action.CHANGE if before else Action.CREATE
        detail = tuple(f"{other} -> {name}" for other in before)
        changes.append(Change("sql", name, action, detail or (f"{len(plan.view.features)} features",)))
    there = {row.name for row in local_stack(given).status()} if local_stack(given).running() else set()
    for spec in specs:
        action = Action.KEEP if spec.name in there else Action.CREATE
        changes.append(Change("worker", spec.name, action))
    return changes


def show(changes: "Sequence[Change]", output: str) -> None:
    """The changes as a coloured diff, or as one JSON array."""
    from rich.console import Console

    if output == "json":
        rows = [
            {"kind": c.kind, "name": c.name, "action": str(c.action), "detail": list(c.detail)}
            for c in changes
        ]
        typer.echo(json.dumps(rows))
        return
    console = Console(highlight=False)
    for change in changes:
        colour = COLOURS[change.action]
        console.print(f"[{colour}]{SIGNS[change.action]} {change.kind} {change.name}: {change.action}[/]")
        if change.action != "keep":
            for line in change.detail:
                console.print(f"    {line}", style=colour, markup=False)
    counts = {action: sum(change.action == action for change in changes) for action in SIGNS}
    console.print(", ".join(f"{number} to {action}" for action, number in counts.items() if number))
