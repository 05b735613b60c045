"""`millstream check` and `millstream test`: what CI runs, and what to run before a commit."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

ROOT = Path(__file__).resolve().parents[1]
CODE = (
    "core", "schemas", "operators", "features", "models", "pipelines", "jobs", "gateway", "stack", "cli",
    "bench",
)  # fmt: skip
STEPS = (
    ("format", ("ruff", "format", "--check", ".")),
    ("lint", ("ruff", "check", ".")),
    ("imports", ("lint-imports",)),
    ("types", ("mypy", *(part for name in CODE for part in ("-p", name)))),
)

LEVELS = "tests/integration/levels"
SIDE_BY_SIDE = ("-n", "2", "--dist", "loadgroup")  # lanes: tests/lanes.py


def register(app: typer.Typer) -> None:
    @app.command()
    def check() -> None:
        """Format, lint, import contracts and types."""
        raise typer.Exit(0 if static_checks() else 1)

    @app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
    def test(
        context: typer.Context,
        full: Annotated[bool, typer.Option("--full", help="the long tests too")] = False,
        unit: Annotated[bool, typer.Option("--unit", help="only what needs no services")] = False,
        sla: Annotated[bool, typer.Option("--sla", help="only the twelve suites, and their table")] = False,
        strict: Annotated[bool, typer.Option("--strict", help="with --sla: a missed level fails")] = False,
        json: Annotated[Path | None, typer.Option("--json", help="with --sla: the table as a file")] = None,
    ) -> None:
        """The static checks, then the tests, two at a time; further arguments go to pytest (`-n 0`: one after
        another). Tells the slowest tests.

        With --sla the twelve suites of the service levels run one after another, without the checks, and what
        they measured is held against the levels: 1 where a suite fails, with --strict also where a level is
        missed or was not measured."""
        if sla:
            if full or unit:
                raise typer.BadParameter("--sla runs its own suites", param_hint="--full, --unit")
            raise typer.Exit(service_levels(context.args, strict=strict, json=json))
        if strict or json is not None:
            raise typer.BadParameter("they are of --sla", param_hint="--strict, --json")
        if not static_checks():
            raise typer.Exit(1)
        chosen = [] if full else ["not full"]
        if unit:
            chosen.append("not services")
        arguments = [*SIDE_BY_SIDE, "--durations=40", "--durations-min=3"]
        arguments += ["-m", " and ".join(chosen)] if chosen else []
        os.chdir(ROOT)
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, "-P", "-m", "pytest", *arguments, *context.args])


def service_levels(arguments: Sequence[str], *, strict: bool, json: Path | None) -> int:
    """Run the suites, print the table, write it to `json`; the exit code."""
    import msgspec
    from rich.console import Console

    from cli import service_levels as levels

    with tempfile.TemporaryDirectory() as folder:
        measured = Path(folder, "measured.json")
        command = [sys.executable, "-P", "-m", "pytest", LEVELS, "-n", "0", "--measured-to", str(measured)]
        sys.stdout.flush()
        failed = subprocess.run([*command, *arguments], cwd=ROOT, check=False).returncode != 0
        run = levels.read(measured)
    found = levels.rows(run)
    console = Console()
    console.print(levels.table(found))
    console.print(f"{run.requests} requests, {run.failures} failed. {levels.FAILURE}")
    for line in run.failed:
        console.print(f"  {line}", highlight=False, markup=False)
    missed = levels.missed(found)
    if missed:
        console.print(f"missed: {', '.join(missed)}")
    if json is not None:
        json.write_bytes(
            msgspec.json.format(msgspec.json.encode(levels.document(found, run, passed=not failed)))
        )
    return 1 if failed or not run.requests or (strict and missed) else 0


def static_checks() -> bool:
    """Run every step, also after a failure; says which failed."""
    binaries = Path(sys.executable).parent
    failed = []
    for name, (tool, *arguments) in STEPS:
        typer.echo(f"check {name}: {tool}", err=True)
        done = subprocess.run([binaries / tool, *arguments], cwd=ROOT, check=False)
        if done.returncode != 0:
            failed.append(name)
    if failed:
        typer.echo(f"failed: {', '.join(failed)}", err=True)
    return not failed
