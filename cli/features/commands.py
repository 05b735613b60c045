"""The group `millstream features`."""

import typer

from cli.features import catalog, offline, read, verify


def register(app: typer.Typer) -> None:
    group = typer.Typer(
        help="Feature views: values, history, and the proof that stream, history and request agree.",
        no_args_is_help=True,
    )
    for part in (catalog, read, verify, offline):
        part.register(group)
    app.add_typer(group, name="features")
