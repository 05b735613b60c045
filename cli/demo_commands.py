"""`millstream demo`: the main job, from nothing to a checked summary."""

import asyncio
import json as json_
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from core.settings import settings

if TYPE_CHECKING:
    from cli.demo.run import Demo


def register(app: typer.Typer) -> None:
    @app.command()
    def demo(
        events: Annotated[int, typer.Option(min=1, max=250_000, help="events per phase")] = 20_000,
        rate: Annotated[float, typer.Option(min=1, max=5000, help="events per second, wall clock")] = 200.0,
        json: Annotated[bool, typer.Option("--json", help="last line of stdout: one JSON object")] = False,
        keep: Annotated[bool, typer.Option("--keep", help="leave everything running")] = False,
        generated: Annotated[
            bool, typer.Option("--generated", help="no download: the built-in generator")
        ] = False,
    ) -> None:
        """Score real card payments on the real local stack, and check every promise of the run."""
        from cli.demo.figures import failures
        from cli.demo.run import Demo, Options
        from pipelines.load import load_scoring

        run = Demo(
            load_scoring("fraud"), settings(), Options(events, rate, keep=keep, generated=generated), say
        )
        report = conduct(run)
        broken = failures(report)
        summary(report, broken)
        if keep:
            addresses(run)
        if json:
            typer.echo(json_.dumps(report))
        raise typer.Exit(1 if broken else 0)


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def conduct(run: "Demo") -> dict[str, Any]:
    """Set up, stream, judge; whatever happens, what was started is stopped unless it is to be kept."""
    from cli.demo.material import gather
    from cli.deploy_commands import apply_all
    from cli.stack_commands import shown_progress

    was_running = run.stack.running()
    started = time.monotonic()
    finished = False
    try:
        with interruptible():
            with shown_progress() as progress:
                run.stack.up(progress=progress)
            say("applying the plan")
            apply_all([run.plan], run.settings, jobs=False)
            material = gather(events=run.options.events, generated=run.options.generated, progress=steps())
            say(f"data: {material.data} (licence: {material.licence})")
            say(f"model: {material.model.name} {material.model.version}")
            setup_s = time.monotonic() - started
            recording = asyncio.run(run.stream(material))
            say("checking every result and every feature")
            report = run.report(material, recording, setup_s)
            finished = True
            return report
    finally:
        if not (run.options.keep and finished):
            say("stopping what was started")
            with uninterrupted():
                run.stop(was_running=was_running)


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM ends the run as Ctrl-C does, so that everything is stopped."""

    def stop(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """A second Ctrl-C does not cut the stopping short."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def steps() -> Any:
    """Progress of data and training as lines: each step once, then every quarter of it."""
    shown: dict[str, int] = {}

    def step(what: str, done: float | None) -> None:
        quarter = -1 if done is None else int(done * 4)
        if shown.get(what) != quarter:
            shown[what] = quarter
            say(what if done is None else f"{what}: {done:.0%}")

    return step


def summary(report: dict[str, Any], broken: list[str]) -> None:
    """The figures of a run as a table on stderr."""
    from rich.console import Console
    from rich.table import Table

    console = Console(stderr=True)
    table = Table("figure", "value", title="millstream demo")
    features = report["features"]
    rows = {
        "accepted": f"{report['accepted']:,}",
        "results (lost, duplicates)": f"{report['results']:,} ({report['lost']}, {report['duplicates']})",
        "late, dead-lettered": f"{report['late']}, {report['dead_lettered']}",
        "blocked, in review, confirmed": " / ".join(
            f"{report[status]:,}" for status in ("blocked", "in_review", "confirmed")
        ),
        "accepted to pushed": _percentiles(report["latency_ms"]),
        "the same while warming up": _percentiles(report["warm_up"]["latency_ms"]),
        "AUC streamed, offline": f"{report['auc_stream']}, {report['auc_offline']} on {report['auc_rows']}",
        "AUC in training with, without the view": f"{report['auc_with_view']}, {report['auc_without_view']}",
        "average precision streamed, offline": f"{report['ap_stream']}, {report['ap_offline']}",
        "features checked, mismatched, missing, extra": ", ".join(
            f"{features[name]:,}" for name in ("checked", "mismatched", "missing", "extra")
        ),
        "rows that left a window": f"{features['rows_evicted']:,}",
        "set-up": f"{report['setup_s']} s",
        "memory": f"{sum(report['rss_mb'].values()):,} MB",
    }
    for name, value in rows.items():
        table.add_row(name, str(value))
    for stage, figures in report["stage_ms"].items():
        table.add_row(f"stage {stage}", _percentiles(figures))
    console.print(table)
    for line in broken:
        console.print(f"[bold red]broken promise:[/] {line}")
    if not broken:
        console.print("[green]every accepted transaction has exactly one visible result[/]")


def addresses(run: "Demo") -> None:
    """Where everything is, for a stack that was left running."""
    given = run.settings
    say(f"gateway    {given.gateway.address}")
    say(f"kafka      {given.kafka.address}")
    say(f"registry   {given.registry.address}")
    say(f"flink      {given.flink.address}")
    say(f"redis      {given.redis.address}")
    say(f"postgres   {given.postgres.address}")
    say("`millstream keys create --tenant NAME` makes a key, `millstream down` stops everything")


def _percentiles(millis: dict[str, float]) -> str:
    return f"p50 {millis.get('p50', '-')} ms, p99 {millis.get('p99', '-')} ms"
