"""`features verify`: what the stream and the online store say, against DuckDB over the raw events."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.features.views import From, To, plan_of, time_of
from core.errors import InvalidInput, UnknownName
from core.settings import settings

if TYPE_CHECKING:
    import pyarrow as pa

    from features.judge.verify import VerifyReport
    from features.judge.verify_requests import RequestReport
    from pipelines.plan import Plan

ROWS = 4_000
FIGURES = ("checked", "mismatched", "missing", "extra", "late", "rows_evicted", "still_open")
SEED = 7


@dataclass(frozen=True)
class Material:
    """What is judged. recorded: whether it was there; else a run of its own on this engine. corrections: rows
    of `features correct`, which are not the stream's and take no part."""

    engine: str
    recorded: bool
    events: "pa.Table"
    streamed: "pa.Table"
    late: "pa.Table | None"
    lookups: "Mapping[str, pa.Table]"
    watermark: datetime | None
    corrections: int = 0


def register(group: typer.Typer) -> None:
    @group.command()
    def verify(
        view: str,
        begin: From = None,
        end: To = None,
        request: Annotated[
            bool, typer.Option("--request", help="also reads at random times, as requests make them")
        ] = False,
        engine: Annotated[
            list[str] | None,
            typer.Option(help="flink | faust: a run of its own on it, even where events are recorded"),
        ] = None,
        tenant: Annotated[str | None, typer.Option(help="only this tenant's recorded events")] = None,
        limit: Annotated[int, typer.Option(help="so many wrong, missing and extra rows are let pass")] = 0,
        rows: Annotated[int, typer.Option(help="events of a run of its own")] = ROWS,
        seed: Annotated[int, typer.Option(help="of a run of its own")] = SEED,
        json: Annotated[bool, typer.Option("--json", help="one JSON object on stdout")] = False,
    ) -> None:
        """Recompute a view from the raw events with DuckDB and compare, feature by feature.

        Compares what the deployed pipeline computed, where events are recorded; else, and with --engine, it
        starts what it needs and makes a run of its own on topics of its own. Exits with 1 above the limit.
        """
        since, until = (None if text is None else time_of(text) for text in (begin, end))
        report = verified(
            plan_of(view), since=since, until=until, request=request, engines=engine, tenant=tenant,
            rows=rows, seed=seed, limit=limit,
        )  # fmt: skip
        _print(report, json)
        raise typer.Exit(0 if report["ok"] else 1)


def verified(
    plan: "Plan",
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    request: bool = False,
    engines: list[str] | None = None,
    tenant: str | None = None,
    rows: int = ROWS,
    seed: int = SEED,
    limit: int = 0,
) -> dict[str, Any]:
    """The report, as `--json` prints it. Engines that cannot run the view are listed as refused; raises
    UnknownName for an engine that there is not, InvalidInput when none of those asked for can run it."""
    from features.judge.verify_requests import verify_requests
    from features.online.client import connect
    from jobs.engines import ENGINES, refusals

    for name in engines or ():
        if name not in ENGINES:
            raise UnknownName("engine", name, ENGINES)
    refused = refusals(plan)
    if engines and all(name in refused for name in engines):
        raise InvalidInput(f"no engine can run it: {'; '.join(refused.values())}", where=plan.view.where)
    chosen = [name for name in engines or () if name not in refused]
    runs = []
    with _services(flink=not chosen or "flink" in chosen):
        for material in _materials(plan, chosen, tenant, rows, seed, len(engines or ()) > 0):
            report = _judged(plan, material, since, until)
            run = {
                "engine": material.engine,
                "recorded": material.recorded,
                **_figures(report),
                "corrections": material.corrections,
                "ok": report.mismatched + report.missing + report.extra <= limit,
            }
            if request:
                read = verify_requests(
                    plan.view,
                    material.events,
                    rows=material.streamed,
                    late=material.late,
                    lookups=material.lookups,
                    watermark=material.watermark,
                    client=connect(settings()),
                    seed=seed,
                )
                run["requests"] = _request_figures(read)
                run["ok"] = run["ok"] and read.ok
            runs.append(run)
    return {
        "view": plan.view.name,
        "version": plan.view.version,
        "ok": all(run["ok"] for run in runs),
        "refused": refused,
        "runs": runs,
    }


@contextmanager
def _services(*, flink: bool) -> Iterator[None]:
    """What a check needs, running; stopped afterwards where nothing ran before."""
    from cli.stack_commands import local_stack
    from stack.service import Silent

    stack = local_stack(settings())
    ran = stack.running()
    stack.up(
        only={"kafka", "registry", "redis", *({"flink"} if flink else ())},
        progress=Silent(),
        resume_jobs=False,
    )
    try:
        yield
    finally:
        if not ran:
            stack.down()


def _materials(
    plan: "Plan", engines: "list[str]", tenant: str | None, rows: int, seed: int, asked: bool
) -> list[Material]:
    if not asked:
        recorded = _recorded(plan, tenant)
        if recorded is not None:
            return [recorded]
    return [_own(plan, engine, rows, seed) for engine in engines or ["flink"]]


def _recorded(plan: "Plan", tenant: str | None) -> Material | None:
    """What the deployed pipeline computed; None where nothing is recorded, or the pipeline was never applied.
    Raises Unavailable while Kafka or the registry is away."""
    from cli.features.offline import output_of
    from core.errors import Unavailable
    from features.judge.verify_windows import without_corrections
    from pipelines import recorded, references
    from pipelines.plan import FeaturesPlan

    try:
        events = recorded.read(plan.source, settings(), tenant=tenant)
    except Unavailable as problem:
        if problem.code == recorded.ABSENT:  # not applied yet
            return None
        raise
    if not events.num_rows:
        return None
    streamed, late, corrections = recorded.read(output_of(plan), settings(), tenant=tenant), None, 0
    if isinstance(plan, FeaturesPlan):
        streamed, corrections = without_corrections(streamed)
        late = recorded.read(plan.late, settings(), tenant=tenant)
    return Material(
        engine="deployed",
        recorded=True,
        events=events,
        streamed=streamed,
        late=late,
        lookups=references.tables(plan.view, settings()),
        watermark=None,
        corrections=corrections,
    )


def _own(plan: "Plan", engine: str, rows: int, seed: int) -> Material:
    from cli.java import java_parts
    from jobs.verification.own_run import faust, flink, record

    given = settings()
    running = faust(given) if engine == "faust" else flink(given, java_parts())
    run = record(plan, given, running, rows=rows, seed=seed)
    return Material(engine, False, run.events, run.streamed, run.late, run.references, run.until)


def _judged(
    plan: "Plan", material: Material, since: datetime | None, until: datetime | None
) -> "VerifyReport":
    from features.judge.verify import verify
    from features.judge.verify_windows import verify_windows
    from features.windows import Rolling

    if isinstance(plan.view.window, Rolling):
        return verify(plan.view, material.events, material.streamed, since=since, until=until)
    return verify_windows(
        plan.view,
        material.events,
        material.streamed,
        late=material.late,
        lookups=dict(material.lookups),
        watermark=material.watermark,
        since=since,
        until=until,
    )


def _figures(report: "VerifyReport") -> dict[str, Any]:
    return {name: getattr(report, name) for name in FIGURES} | {
        "features": {name: asdict(found) for name, found in report.by_feature.items()}
    }


def _request_figures(report: "RequestReport") -> dict[str, Any]:
    return {
        "reads": report.reads,
        "unknown": report.unknown,
        "truncated": report.truncated,
        "features": {name: asdict(found) for name, found in report.by_feature.items()},
    }


def _print(report: dict[str, Any], as_json: bool) -> None:
    import json

    from rich.console import Console
    from rich.table import Table

    if as_json:
        typer.echo(json.dumps(report, default=str))
        return
    console = Console(highlight=False)
    for run in report["runs"]:
        table = Table("feature", "checked", "mismatched", "missing", "extra", "largest difference")
        parts = [("", run["features"])] + (
            [("request: ", run["requests"]["features"])] if "requests" in run else []
        )
        for prefix, features in parts:
            for name, found in features.items():
                counts = [str(found[key]) for key in ("checked", "mismatched", "missing", "extra")]
                table.add_row(prefix + name, *counts, f"{found['largest_difference']:.1e}")
        where = "recorded events" if run["recorded"] else f"a run of its own on {run['engine']}"
        console.print(f"{report['view']} v{report['version']}, {where}")
        console.print(table)
        totals = (*FIGURES, "corrections")
        console.print(", ".join(f"{name} {run[name]}" for name in totals))
    for engine, reason in report["refused"].items():
        console.print(f"{engine}: refused. {reason}")
    console.print("equal" if report["ok"] else "[bold red]not equal[/]")
