"""The `millstream` command: the composition root. Commands import what they need when they run."""

import importlib
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from core.errors import MillstreamError

COMMANDS = (
    "cli.demo_commands",
    "cli.stack_commands",
    "cli.deploy_commands",
    "cli.features.commands",
    "cli.produce_commands",
    "cli.tail_commands",
    "cli.train_commands",
    "cli.models.commands",
    "cli.key_commands",
    "cli.user_commands",
    "cli.access_commands",
    "cli.review_commands",
    "cli.dlq_commands",
    "cli.audit_commands",
    "cli.kafka_commands",
    "cli.config_commands",
    "cli.run_commands",
    "cli.bench_commands",
    "cli.check_commands",
)

app = typer.Typer(
    name="millstream",
    help="Real-time machine learning on event streams: declare, apply, stream, score, push.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def options(
    log_level: Annotated[str | None, typer.Option(help="debug | info | warning | error")] = None,
) -> None:
    if log_level is not None:
        from core.telemetry.log import configure

        configure(level=log_level)


def register() -> typer.Typer:
    """The app with every command."""
    for module in COMMANDS:
        importlib.import_module(module).register(app)
    return app


def run() -> None:
    """The console script. Exit codes: 0 done, 1 refused or failed with a clear error, 2 usage, 130 Ctrl-C."""
    project = str(Path.cwd())
    if project not in sys.path:
        sys.path.append(project)  # a user's own packages; never before ours
    try:
        code = register()(standalone_mode=False)  # an Exit inside comes back as its code
    except typer.Exit as exit_:
        sys.exit(exit_.exit_code)
    except typer.Abort:
        sys.exit(130)
    except KeyboardInterrupt:
        sys.exit(130)
    except MillstreamError as error:
        _show(error)
        sys.exit(1)
    except Exception as error:
        if type(error).__module__.startswith(("click", "typer")) and hasattr(error, "show"):
            error.show()
            sys.exit(getattr(error, "exit_code", 2))
        raise
    if isinstance(code, int):
        sys.exit(code)


def _show(error: MillstreamError) -> None:
    text = Text()
    text.append("error: ", style="bold red")
    text.append(error.what)
    if error.where:
        text.append(f"\n  where: {error.where}")
    if error.mend:
        text.append("\n  mend:  ", style="green")
        text.append(error.mend)
    Console(stderr=True).print(text, highlight=False)


if __name__ == "__main__":
    run()
