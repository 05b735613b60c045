"""`millstream run`: one long-running process in the foreground; what the supervisor starts."""

from typing import Annotated

import typer

Name = Annotated[str, typer.Option("--pipeline", "-p", help="which pipeline")]


def register(app: typer.Typer) -> None:
    run = typer.Typer(help="Run one job in the foreground.", no_args_is_help=True)
    app.add_typer(run, name="run")

    @run.command()
    def gateway(
        pipeline: Annotated[
            list[str] | None, typer.Option("--pipeline", "-p", help="what is served; all that are installed")
        ] = None,
        llm: Annotated[bool, typer.Option("--llm", help="take prompts too")] = False,
        direct: Annotated[
            bool,
            typer.Option("--direct", help="hand on what is asked by the Open Inference Protocol"),
        ] = False,
        embeddings: Annotated[
            bool, typer.Option("--embeddings", help="hand on texts whose vectors are wanted")
        ] = False,
    ) -> None:
        """HTTP and WebSocket: publish events, read features and statuses, be pushed results."""
        from core.settings import settings
        from gateway.forwarding.wiring import Forward
        from gateway.main import run as serve
        from pipelines.load import load_plan, load_plans, load_services

        plans = load_plans() if not pipeline else {name: load_plan(name) for name in pipeline}
        views = {plan.view.name for plan in plans.values()}
        services = [one for one in load_services() if {view.name for view in one.views} <= views]
        serve(settings(), plans, services, llm=llm, forward=Forward(direct, embeddings))

    @run.command()
    def worker(pipeline: Name) -> None:
        """Score a pipeline's enriched events, or forecast from its feature rows."""
        from core.settings import settings
        from jobs.worker.main import run as score
        from pipelines.load import load_served

        score(load_served(pipeline), settings())

    @run.command(hidden=True)
    def generating() -> None:
        """Answer questions to LLMs."""
        from core.settings import settings
        from jobs.worker.generating_main import run as generate

        generate(settings())

    @run.command(hidden=True)
    def answering(pipeline: Name) -> None:
        """Answer those who ask a pipeline."""
        from core.settings import settings
        from jobs.worker.answering.main import run as answer
        from pipelines.load import load_scoring

        answer(load_scoring(pipeline), settings())

    @run.command()
    def serving(
        model: Annotated[
            list[str] | None, typer.Option("--model", "-m", help="what is served; every champion")
        ] = None,
    ) -> None:
        """Score over HTTP, straight to a process that has the models."""
        from core.settings import settings
        from jobs.serving.main import run as serve

        serve(settings(), model)

    @run.command()
    def embeddings() -> None:
        """Make vectors of texts, for the gateways."""
        from core.settings import settings
        from jobs.embedding.main import run as serve

        serve(settings())

    @run.command()
    def rollout() -> None:
        """Turn champions and commands into the routing of models; one of several such processes works."""
        from core.settings import settings
        from jobs.rollout.main import run as control

        control(settings())

    @run.command()
    def writer(pipeline: Name) -> None:
        """Write what a pipeline computes to Redis, Delta and PostgreSQL."""
        from core.settings import settings
        from jobs.writer.main import run as write
        from pipelines.load import load_plan

        write(load_plan(pipeline), settings())

    @run.command()
    def audit() -> None:
        """Copy the audit trail from Kafka to PostgreSQL, and witness how long each of its chains is."""
        from core.settings import settings
        from jobs.audit.main import run as copy

        copy(settings())

    @run.command()
    def corrections(pipeline: Name) -> None:
        """Correct a windowed view for late events, again and again."""
        import sys

        from core.settings import settings
        from jobs.batch.corrections import run as correct
        from pipelines.load import load_features

        view = load_features(pipeline).view.name
        command = (sys.executable, "-P", "-m", "cli", "features", "correct", view, "-o", "json")
        correct(pipeline, command, settings().corrections)

    @run.command()
    def flink(
        pipeline: Name,
        disorder_ms: Annotated[
            int | None, typer.Option(help="disorder bound instead of the view's, for replays")
        ] = None,
        quiet_ms: Annotated[
            int | None, typer.Option(help="silence after which the last events are let out, for replays")
        ] = None,
        replay: Annotated[
            str | None, typer.Option(help="name of a replay: recorded events, a state of their own")
        ] = None,
        since: Annotated[
            str | None, typer.Option(help="where the replay begins: partition:offset, separated by commas")
        ] = None,
    ) -> None:
        """Keep a pipeline's Flink job running."""
        from cli.java import java_parts
        from core.errors import InvalidInput
        from core.settings import settings
        from jobs.on_flink.keeper import run as keep
        from jobs.on_flink.stream import Replay, parse_offsets
        from pipelines.load import load_plan

        if (replay is None) != (since is None):
            raise InvalidInput("a replay has a name and a beginning", mend="give both --replay and --since")
        replayed = None if replay is None else Replay(replay, parse_offsets(since or ""))
        keep(
            load_plan(pipeline),
            settings(),
            java_parts(),
            disorder_ms=disorder_ms,
            quiet_ms=quiet_ms,
            replay=replayed,
        )

    @run.command()
    def faust(
        pipeline: Name,
        disorder_ms: Annotated[
            int | None, typer.Option(help="disorder bound instead of the view's, for replays")
        ] = None,
        quiet_ms: Annotated[
            int | None, typer.Option(help="silence after which the last windows are let out, for replays")
        ] = None,
        shadow: Annotated[
            str | None, typer.Option(help="the topics of a verification run instead", hidden=True)
        ] = None,
    ) -> None:
        """Compute a pipeline's view with Faust, without a JVM."""
        from core.settings import settings
        from jobs.engines import faust_job
        from jobs.on_faust.main import run as compute
        from jobs.verification.shadow import shadow_of
        from pipelines.load import load_plan

        plan = load_plan(pipeline)
        job = faust_job(plan if shadow is None else shadow_of(plan, shadow))
        compute(job, settings(), disorder_ms=disorder_ms, quiet_ms=quiet_ms)

    @run.command(hidden=True)
    def training(
        only: Annotated[str | None, typer.Option(help="finish this run, then end", hidden=True)] = None,
    ) -> None:
        """Train what is asked for over Kafka, and what comes due."""
        from core.settings import settings
        from jobs.training.main import resume
        from jobs.training.main import run as serve

        if only is None:
            serve(settings())
        else:
            resume(only, settings())
