"""`features list`, `describe`, `tables`: what there is, and where it comes from."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.features.views import Output, plan_of, show
from core.settings import settings

if TYPE_CHECKING:
    from rich.tree import Tree

    from features.view import Feature
    from pipelines.plan import Plan


def register(group: typer.Typer) -> None:
    @group.command("list")
    def list_views(output: Output = "table") -> None:
        """Every view of the installed pipelines."""
        from features.words import span, window_words
        from pipelines.load import load_plans

        rows = [
            {
                "view": plan.view.name,
                "version": plan.view.version,
                "pipeline": name,
                "entity": ", ".join(plan.view.entity_fields),
                "window": window_words(plan.view.window),
                "features": len(plan.view.features),
                "ttl": span(plan.view.ttl),
                "digest": plan.view.digest[:12],
            }
            for name, plan in load_plans().items()
        ]
        show(rows, output)

    @group.command()
    def describe(
        view: str,
        feature: Annotated[str | None, typer.Argument(help="one feature; all without")] = None,
        output: Output = "table",
    ) -> None:
        """Where the features of a view come from, and where they go."""
        plan = plan_of(view)
        chosen = plan.view.features if feature is None else (plan.view.feature(feature),)
        if output == "json":
            show([_row(plan, one) for one in chosen], output)
            return
        from rich.console import Console

        console = Console()
        console.print(_tree(plan, chosen))

    @group.command()
    def tables(
        table: Annotated[str | None, typer.Argument(help="one table, with its columns")] = None,
        output: Output = "table",
    ) -> None:
        """The tables of the offline store, with statistics of each column."""
        from pipelines.offline_catalog import column_rows, table_rows

        root = settings().root
        show(table_rows(root) if table is None else column_rows(root, table), output)


def _row(plan: "Plan", feature: "Feature") -> dict[str, Any]:
    from features.aggregates import reads
    from features.derived import Derived
    from features.words import definition_words, features_read

    view, definition = plan.view, feature.definition
    derived = isinstance(definition, Derived)
    return {
        "feature": feature.name,
        "type": view.kind(feature),
        "unit": feature.unit,
        "empty": feature.empty,
        "ttl_s": view.ttl_of(feature).total_seconds(),
        "definition": definition_words(definition),
        "reads_features": list(features_read(definition)) if isinstance(definition, Derived) else [],
        "reads_columns": [] if derived else [_origin(plan, name) for name in reads(definition)],  # type: ignore[arg-type]
        "view": f"{view.name} v{view.version}",
        "source": plan.source.name,
        "goes_to": _goes_to(plan),
    }


def _tree(plan: "Plan", features: "tuple[Feature, ...]") -> "Tree":
    from rich.tree import Tree

    from features.words import span, window_words

    view = plan.view
    root = Tree(f"[bold]{view.name} v{view.version}[/] by {', '.join(view.entity_fields)}")
    where = root.add("from")
    where.add(f"{plan.source.name} ({view.source.__name__}), {', '.join(_routes(plan))}")
    for lookup in view.lookups:
        on = ", ".join(f"{ours} = {theirs}" for ours, theirs in lookup.on.items())
        topic = "" if lookup.topic is None else f" in {lookup.topic.name}"
        where.add(f"{lookup.name} looked up{topic} ({lookup.record.__name__}), {on}")
    root.add(f"{window_words(view.window)}, disorder {span(view.disorder)}, time to live {span(view.ttl)}")
    branch = root.add("features")
    for feature in features:
        _draw(branch, plan, feature, ())
    to = root.add("to")
    for place in _goes_to(plan):
        to.add(place)
    return root


def _draw(branch: "Tree", plan: "Plan", feature: "Feature", above: tuple[str, ...]) -> None:
    from features.aggregates import reads
    from features.derived import Derived
    from features.words import definition_words, features_read

    view, definition = plan.view, feature.definition
    empty = "" if feature.empty is None else f", {feature.empty} when empty"
    kind = f"{view.kind(feature)}, {feature.unit}{empty}"
    twig = branch.add(f"[bold]{feature.name}[/] ({kind}) = {definition_words(definition)}")
    if isinstance(definition, Derived):
        for name in features_read(definition):
            if name not in above:
                _draw(twig, plan, view.feature(name), (*above, feature.name))
        return
    for name in reads(definition):
        twig.add(_origin(plan, name))


def _origin(plan: "Plan", column: str) -> str:
    name, dot, rest = column.partition(".")
    for lookup in plan.view.lookups:
        if dot and lookup.name == name:
            return f"{lookup.topic.name if lookup.topic else lookup.name}.{rest}"
    return f"{plan.source.name}.{column}"


def _routes(plan: "Plan") -> list[str]:
    if not plan.takes_events:
        return ["published through another pipeline"]
    own = [] if plan.route is None else [f"POST {plan.route}"]
    return [*own, f"POST /api/v1/pipelines/{plan.pipeline}/events"]


def _goes_to(plan: "Plan") -> list[str]:
    from pipelines.plan import FeaturesPlan, ScoringPlan

    if isinstance(plan, ScoringPlan):
        return [
            plan.enriched.name,
            f"Redis ms:{plan.view.name}:{plan.view.version}:… (recent rows and tiles)",
            f"Delta {plan.enriched.name}",
            f"model {plan.infer.model}",
        ]
    if isinstance(plan, FeaturesPlan):
        return [
            plan.rows.name,
            f"Redis ms:{plan.view.name}:{plan.view.version}:… (packed)",
            f"Delta {plan.rows.name}",
            f"late events: {plan.late.name}",
        ]
    return []
