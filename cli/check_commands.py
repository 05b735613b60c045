"""`millstream check` and `millstream test`: what CI runs, and what to run before a commit."""

import os
import subprocess
import sys
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
    ) -> None:
        """The static checks, then the tests, two at a time; further arguments go to pytest (`-n 0`: one after
        another). Tells the slowest tests."""
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
