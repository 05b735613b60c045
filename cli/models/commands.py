"""The group `millstream models`."""

import typer

from cli.models import catalog, changes, serving_commands, verify


def register(app: typer.Typer) -> None:
    group = typer.Typer(
        help="The model registry: versions, aliases, and the proof that a version may serve.",
        no_args_is_help=True,
    )
    for part in (catalog, changes, verify, serving_commands):
        part.register(group)
    app.add_typer(group, name="models")
