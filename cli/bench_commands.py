"""`millstream bench`: named benchmarks, each against its named peer in one run."""

from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    @app.command()
    def bench(
        name: Annotated[str, typer.Argument(help="which benchmark; `list` names them")],
        json: Annotated[
            bool, typer.Option("--json", help="the last line of stdout is one JSON object")
        ] = False,
    ) -> None:
        """Run a benchmark: equality of results first, then A B B A for at least five rounds."""
        from bench.registry import BENCHES, run

        if name == "list":
            for known in BENCHES:
                typer.echo(known)
            return
        run(name, json=json)
