"""`millstream config`: every setting, its value and where it comes from."""

import json
from typing import Annotated

import typer

SECRET = ("url", "security", "secret", "password")


def register(app: typer.Typer) -> None:
    config = typer.Typer(help="Settings of this machine.", no_args_is_help=True)
    app.add_typer(config, name="config")

    @config.command("show")
    def show(
        origin: Annotated[bool, typer.Option("--origin", help="say where each value comes from")] = False,
        output: Annotated[str, typer.Option("--output", "-o", help="table | json")] = "table",
    ) -> None:
        """Every setting; each can be given as MILLSTREAM_<SECTION>__<NAME> or in millstream.toml."""
        from rich.console import Console
        from rich.table import Table

        from core.settings import settings, with_origins

        rows = [(name, _shown(name, value), where) for name, value, where in with_origins(settings())]
        if output == "json":
            typer.echo(json.dumps({name: {"value": value, "origin": where} for name, value, where in rows}))
            return
        table = Table("setting", "value", *(["origin"] if origin else []))
        for name, value, where in rows:
            table.add_row(name, value, *([where] if origin else []))
        Console().print(table)


def _shown(name: str, value: object) -> str:
    """The value as text; credentials inside addresses are not shown."""
    text = str(value)
    if name.rpartition(".")[2] in SECRET and "@" in text:
        scheme, _, rest = text.partition("://")
        return f"{scheme}://***@{rest.rpartition('@')[2]}"
    if name.endswith("security") and value:
        return "***"
    return text
