"""`millstream run`: one long-running process in the foreground; what the supervisor starts."""

from typing import Annotated

import typer

Name = Annotated[str, typer.Option("--pipeline", "-p", help="which pipeline")]


def register(app: typer.Typer) -> None:
    run = typer.Typer(help="Run one job in the foreground.", no_args_is_help=True)
    app.add_typer(run, name="run")

    @run.command()
    def gateway() -> None:
        """HTTP and WebSocket: publish events, read features and statuses, be pushed results."""
        from core.settings import settings
        from gateway.main import run as serve
        from pipelines.load import load_plans

        serve(settings(), load_plans())

    @run.command()
    def worker(pipeline: Name) -> None:
        """Score a pipeline's enriched events."""
        from core.settings import settings
        from jobs.worker.main import run as score
        from pipelines.load import load_plan

        score(load_plan(pipeline), settings())

    @run.command()
    def writer(pipeline: Name) -> None:
        """Write a pipeline's events to Redis, Delta and PostgreSQL."""
        from core.settings import settings
        from jobs.writer.main import run as write
        from pipelines.load import load_plan

        write(load_plan(pipeline), settings())

    @run.command()
    def flink(
        pipeline: Name,
        disorder_ms: Annotated[
            int | None, typer.Option(help="disorder bound instead of the view's, for replays")
        ] = None,
    ) -> None:
        """Keep a pipeline's Flink job running."""
        from core.settings import settings
        from jobs.on_flink.java_parts import JavaParts
        from jobs.on_flink.keeper import run as keep
        from pipelines.load import load_plan
        from stack.flink import Flink
        from stack.service import Silent, java

        cluster = Flink(settings())
        cluster.fetch(Silent())  # an external Flink is not fetched by `up`, its connectors are wanted here
        parts = JavaParts(java(), cluster.compiler(), cluster.connectors())
        keep(load_plan(pipeline), settings(), parts, disorder_ms=disorder_ms)
