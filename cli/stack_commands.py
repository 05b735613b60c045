"""`millstream up | down | status | logs | doctor`: the local stack on the command line."""

import json
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn
from rich.table import Table

from core.settings import Settings, settings
from stack import doctor as stack_doctor
from stack.catalog import ALL_NAMES, ON_REQUEST
from stack.local import EXTERNAL, Stack
from stack.logs import follow
from stack.service import Progress as StackProgress
from stack.state import UnitStatus
from stack.unit import Kind
from stack.watch import State

SUPERVISOR = (sys.executable, "-P", "-m", "cli.supervise")
COLOURS = {
    State.READY: "green",
    State.STOPPED: "dim",
    EXTERNAL: "cyan",
    State.OUT: "red",
    State.BACKOFF: "red",
}
LEVELS = {
    stack_doctor.Level.GOOD: "[green]ok[/]",
    stack_doctor.Level.WARNING: "[yellow]warning[/]",
    stack_doctor.Level.BAD: "[red]bad[/]",
}
PIPE_WIDTH = 200
LINE_EVERY = 0.25  # on no terminal, a download says something after each quarter


class Output(StrEnum):
    TABLE = "table"
    JSON = "json"


def local_stack(given: Settings | None = None) -> Stack:
    """The stack of these settings, its supervisor publishing alerts to Kafka."""
    return Stack(given or settings(), supervisor=SUPERVISOR)


class Lines:
    """Progress as plain lines on stderr, for pipes and CI."""

    def __init__(self) -> None:
        self._said: dict[str, float] = {}
        self._mutex = threading.Lock()

    def step(self, subject: str, text: str) -> None:
        with self._mutex:
            print(f"{subject}: {text}", file=sys.stderr, flush=True)

    def transferred(self, subject: str, done: int, total: int) -> None:
        share = done / total if total else 1.0
        with self._mutex:
            last = self._said.get(subject)
            if last is not None and share < 1 and share - last < LINE_EVERY:
                return
            if last == 1.0 and share >= 1:
                return
            self._said[subject] = min(share, 1.0)
            print(f"{subject}: downloading, {done >> 20} of {total >> 20} MB", file=sys.stderr, flush=True)


class Bars:
    """Progress as Rich bars, with the news above them."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}
        self._mutex = threading.Lock()

    def step(self, subject: str, text: str) -> None:
        self._progress.console.print(f"[bold]{subject}[/] {text}", highlight=False)

    def transferred(self, subject: str, done: int, total: int) -> None:
        with self._mutex:
            if subject not in self._tasks:
                self._tasks[subject] = self._progress.add_task(f"fetching {subject}", total=total)
            task = self._tasks[subject]
        self._progress.update(task, completed=done, total=total, visible=done < total)


@contextmanager
def shown_progress() -> Iterator[StackProgress]:
    """Rich on a terminal, plain lines elsewhere; both on stderr, so that stdout stays for results."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield Lines()
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        yield Bars(progress)


def up(
    only: Annotated[
        str,
        typer.Option(
            help=f"Only these, separated by commas: {', '.join(ALL_NAMES)}. Without it all but "
            f"{', '.join(service.name for service in ON_REQUEST)}.",
            metavar="NAMES",
        ),
    ] = "",
) -> None:
    """Fetch, start and watch the local services; returns when all are ready."""
    chosen = {name.strip() for name in only.split(",") if name.strip()} or None
    stack = local_stack()
    with shown_progress() as progress:
        stack.up(chosen, progress)
    _console().print(_table(stack.status()))


def down(
    wipe: Annotated[bool, typer.Option("--wipe", help="Delete all local data as well.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before deleting.")] = False,
) -> None:
    """Stop everything that `up` started, jobs first. Data stays, unless --wipe."""
    root = settings().root
    if wipe and not yes:
        typer.confirm(f"Delete all local data in {root}?", abort=True)
    with shown_progress() as progress:
        local_stack().down(wipe=wipe, progress=progress)


def status(
    output: Annotated[Output, typer.Option("-o", "--output", help="How to show it.")] = Output.TABLE,
    targets: Annotated[
        bool, typer.Option("--targets", help="What Prometheus scrapes, as it reads it.")
    ] = False,
) -> None:
    """What runs, since when, how often it was restarted and why."""
    rows = local_stack().status()
    if targets:
        print(json.dumps(scraped(rows), indent=2))
    elif output is Output.JSON:
        print(json.dumps(msgspec.to_builtins(rows), indent=2))
    elif rows:
        _console().print(_table(rows))
    else:
        Console().print("Nothing runs. `millstream up` starts the local stack.")


def scraped(rows: Iterable[UnitStatus]) -> list[dict[str, Any]]:
    """Every process that has metrics, as a file of targets
    (https://prometheus.io/docs/prometheus/latest/configuration/configuration/#file_sd_config)."""
    found = []
    for row in rows:
        if row.kind is Kind.JOB and row.address:
            scheme, _, address = row.address.partition("://")
            found.append({"targets": [address], "labels": {"instance": row.name, "__scheme__": scheme}})
    return found


def logs(
    service: Annotated[str, typer.Argument(help="A service, a unit of `status`, or `supervisor`.")],
    following: Annotated[bool, typer.Option("-f", "--follow", help="Go on until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option("-n", "--lines", min=0, help="How many of the last lines.")] = 100,
) -> None:
    """The log of a service or job."""
    files = local_stack().logs(service)
    try:
        for line in follow(files, lines=lines, stop=lambda: not following):
            print(line, flush=following)
    except (KeyboardInterrupt, BrokenPipeError):
        raise typer.Exit(0) from None


def doctor(
    output: Annotated[Output, typer.Option("-o", "--output", help="How to show it.")] = Output.TABLE,
) -> None:
    """Versions, ports, reachability, clock, disk, memory; what is wrong and how to mend it."""
    findings = stack_doctor.examine(settings())
    bad = any(finding.level is stack_doctor.Level.BAD for finding in findings)
    if output is Output.JSON:
        rows = [
            {"subject": f.subject, "level": str(f.level), "text": f.text, "mend": f.mend} for f in findings
        ]
        print(json.dumps(rows, indent=2))
    else:
        table = Table("what", "", "found", "mend", box=None)
        for finding in findings:
            table.add_row(finding.subject, LEVELS[finding.level], finding.text, finding.mend)
        _console().print(table)
    raise typer.Exit(1 if bad else 0)


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    for command in (up, down, status, logs, doctor):
        app.command()(command)


def _console() -> Console:
    """For tables on stdout; in a pipe there is no width to keep to."""
    return Console() if sys.stdout.isatty() else Console(width=PIPE_WIDTH)


def _table(rows: list[UnitStatus]) -> Table:
    table = Table(box=None)
    for title in ("unit", "state", "pid", "up", "memory", "restarts"):
        table.add_column(title, no_wrap=True)
    for title in ("address", "last reason"):
        table.add_column(title, overflow="fold")
    for row in rows:
        colour = COLOURS.get(row.state, "yellow")
        last = row.reasons[-1] if row.reasons else None
        table.add_row(
            row.name,
            f"[{colour}]{row.state}[/]",
            "" if row.pid is None else str(row.pid),
            "" if row.since is None else _age(datetime.now(UTC) - row.since),
            f"{row.rss_mb:.0f} MB" if row.rss_mb else "",
            str(row.restarts),
            row.address or "",
            "" if last is None else f"{last.at:%H:%M:%S} {last.text}",
        )
    return table


def _age(span: timedelta) -> str:
    seconds = max(int(span.total_seconds()), 0)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
