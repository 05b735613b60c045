"""`millstream features`: read a feature, and prove that the stream computed it right."""

import json as json_
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from core.errors import InvalidInput, UnknownName
from core.settings import settings

if TYPE_CHECKING:
    from pipelines.plan import Plan

Output = Annotated[str, typer.Option("--output", "-o", help="table | json")]


def register(app: typer.Typer) -> None:
    features = typer.Typer(help="Feature views: read and verify.", no_args_is_help=True)
    app.add_typer(features, name="features")

    @features.command("list")
    def list_views(output: Output = "table") -> None:
        """Every view of the installed pipelines."""
        rows = [
            {
                "view": plan.view.name,
                "version": plan.view.version,
                "pipeline": name,
                "entity": ", ".join(plan.view.entity_fields),
                "features": len(plan.view.features),
                "digest": plan.view.digest[:12],
            }
            for name, plan in _plans().items()
        ]
        _show(rows, output)

    @features.command()
    def get(
        view: str,
        entity: str,
        tenant: Annotated[str, typer.Option(help="whose")],
        output: Output = "table",
    ) -> None:
        """The features of an entity as of now, from the online store."""
        from features.online.client import connect
        from features.online.rolling import RollingStore

        plan = _plan_of(view)
        store = RollingStore(connect(settings()), plan.view)
        read = store.read(tenant, entity, datetime.now(UTC), None)
        rows = [
            {"feature": name, "value": value, "status": str(read.statuses[name])}
            for name, value in read.values.items()
        ]
        _show(rows, output)

    @features.command()
    def verify(
        view: str,
        tenant: Annotated[str | None, typer.Option(help="only this tenant's events")] = None,
        json: Annotated[bool, typer.Option("--json", help="one JSON object on stdout")] = False,
    ) -> None:
        """Recompute a view from the recorded events and compare it with what the stream computed."""
        from features.verify import verify as compare
        from pipelines import recorded
        from pipelines.plan import ScoringPlan

        plan = _plan_of(view)
        if not isinstance(plan, ScoringPlan):
            raise InvalidInput(f"{view} is a windowed view", mend="verify a rolling one")
        events = recorded.read(plan.source, settings(), tenant=tenant)
        streamed = recorded.read(plan.enriched, settings(), tenant=tenant)
        report = compare(plan.view, events, streamed)
        figures = {
            name: getattr(report, name)
            for name in ("checked", "mismatched", "missing", "extra", "late", "rows_evicted")
        }
        _show([figures], "json" if json else "table")
        raise typer.Exit(1 if report.mismatched or report.missing or report.extra else 0)


def _plans() -> "dict[str, Plan]":
    from pipelines.load import load_plans

    return load_plans()


def _plan_of(view: str) -> "Plan":
    by_view = {plan.view.name: plan for plan in _plans().values()}
    if view not in by_view:
        raise UnknownName("view", view, by_view)
    return by_view[view]


def _show(rows: list[dict[str, Any]], output: str) -> None:
    from rich.console import Console
    from rich.table import Table

    if output == "json":
        typer.echo(json_.dumps(rows[0] if len(rows) == 1 else rows, default=str))
        return
    table = Table(*(rows[0] if rows else ("nothing",)))
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    Console().print(table)
