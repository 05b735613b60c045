"""How the commands show what they found."""

import json as json_
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer

from cli.features.views import show


class Output(StrEnum):
    TABLE = "table"
    JSON = "json"


Shown = Annotated[Output, typer.Option("-o", "--output", help="How to show it.")]
Json = Annotated[bool, typer.Option("--json", help="The same as -o json.")]


def show_rows(rows: Sequence[Mapping[str, Any]], output: Output, json: bool) -> None:
    """A table, or an array of objects."""
    show(rows, "json" if json else output.value)


def show_object(value: Mapping[str, Any], output: Output, json: bool) -> None:
    """Name and value on a line each, values that have parts as JSON; or one object."""
    if json or output is Output.JSON:
        typer.echo(json_.dumps(value, default=str))
        return
    width = max(map(len, value))
    for name, held in value.items():
        text = json_.dumps(held, default=str) if isinstance(held, dict | list) else str(held)
        typer.echo(f"{name:<{width}}  {text}")
