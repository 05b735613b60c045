"""What the commands share: plans by view, times, tables on the terminal."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from core.errors import InvalidInput, UnknownName

if TYPE_CHECKING:
    from pipelines.plan import Plan

Output = Annotated[str, typer.Option("--output", "-o", help="table | json")]
From = Annotated[str | None, typer.Option("--from", help="RFC 3339 time or date, UTC; included")]
To = Annotated[str | None, typer.Option("--to", help="RFC 3339 time or date, UTC; not included")]


def plan_of(view: str) -> "Plan":
    """The plan that computes the view. Raises UnknownName with the nearest name."""
    from pipelines.load import load_plans

    by_view = {plan.view.name: plan for plan in load_plans().values()}
    if view not in by_view:
        raise UnknownName("view", view, by_view)
    return by_view[view]


def time_of(text: str) -> datetime:
    """A time in UTC; one without a zone is UTC. Raises InvalidInput."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidInput(f"no time: {text!r}", mend="write 2026-03-04 or 2026-03-04T10:00:00Z") from error
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


def show(rows: Sequence[Mapping[str, Any]], output: str) -> None:
    """A table, or JSON: one object per row, in an array."""
    from rich.console import Console
    from rich.table import Table

    if output == "json":
        typer.echo(json.dumps(list(rows), default=str))
        return
    table = Table(*(rows[0] if rows else ("nothing",)))
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    Console().print(table)


def show_one(row: Mapping[str, Any], output: str) -> None:
    """The same of one: JSON is the object itself."""
    if output == "json":
        typer.echo(json.dumps(row, default=str))
    else:
        show([{"": name, "value": value} for name, value in row.items()], output)
