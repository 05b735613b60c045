"""`models verify`: digests, signature, golden outputs, and every pipeline that asks for the model."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.models.output import Json, Output, Shown, show_rows
from core.errors import MillstreamError, ModelRefused
from core.settings import settings

if TYPE_CHECKING:
    from models.store import StoredModel


def register(group: typer.Typer) -> None:
    @group.command()
    def verify(
        name: str,
        reference: Annotated[str, typer.Argument(help="A version or an alias.")] = "champion",
        output: Shown = Output.TABLE,
        json: Json = False,
    ) -> None:
        """Prove that a version may serve; exit code 1 where it may not."""
        from models.registry import open_registry

        rows = findings(open_registry(settings()).resolve(name, reference))
        show_rows(rows, output, json)
        if not all(row["passed"] for row in rows):
            raise typer.Exit(1)


def findings(stored: "StoredModel") -> list[dict[str, Any]]:
    """One row per check: what, whether it passed, and the reasons where not."""
    rows = [_row("digests", *_digests(stored))]
    if stored.manifest.description.kind == "llm":
        return rows
    rows += [_row("signature", *_signature(stored)), _row("golden outputs", *_loads(stored))]
    return [*rows, *_pipelines(stored)]


def _digests(stored: "StoredModel") -> tuple[str, list[str]]:
    bad = []
    for file in stored.manifest.files:
        try:
            stored.read(file)
        except ModelRefused as error:
            bad.append(error.what)
    return f"{len(stored.manifest.files)} files", bad


def _signature(stored: "StoredModel") -> tuple[str, list[str]]:
    from models import signature
    from models.store import SIGNATURE

    try:
        signed = signature.parse(stored.read(SIGNATURE), where=stored.where)
    except ModelRefused as error:
        return "", [error.what]
    return f"{len(signed.inputs)} inputs", []


def _loads(stored: "StoredModel") -> tuple[str, list[str]]:
    from models.load import load

    try:
        load(stored)
    except ModelRefused as error:
        return "", [error.what]
    return "equal", []


def _pipelines(stored: "StoredModel") -> list[dict[str, Any]]:
    from pipelines.load import load_plans
    from pipelines.model_compatibility import compatibility
    from pipelines.plan import ServedPlan

    rows = []
    for name, plan in load_plans().items():
        if not isinstance(plan, ServedPlan) or plan.infer.model != stored.name:
            continue
        try:
            bad = [f"{finding.what} (mend: {finding.mend})" for finding in compatibility(stored, plan)]
        except MillstreamError as error:
            bad = [error.what]
        rows.append(_row(f"pipeline {name}", plan.given.name, bad))
    return rows


def _row(check: str, good: str, bad: list[str]) -> dict[str, Any]:
    return {"check": check, "passed": not bad, "detail": "; ".join(bad) if bad else good}
