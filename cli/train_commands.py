"""`millstream train`: train a model, see how trainings stand, acknowledge how they ended."""

import json as json_
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from jobs.sources.progress import Progress
    from pipelines.training.configuration import Configuration

Trials = Annotated[int | None, typer.Option(min=0, help="settings to try; 0: the shipped ones, fitted once")]
Config = Annotated[Path | None, typer.Option(help="a TOML file instead of the shipped one")]
Resume = Annotated[str | None, typer.Option(help="a run that was cut short")]
Promote = Annotated[
    bool, typer.Option("--promote", help="champion at once if it passes the gate, not staging")
]
Generated = Annotated[bool, typer.Option("--generated", help="no download: the built-in generator")]
Json = Annotated[bool, typer.Option("--json", help="last line of stdout: one JSON object")]


def register(app: typer.Typer) -> None:
    train = typer.Typer(help="Train a model.", no_args_is_help=True)
    app.add_typer(train, name="train")

    @train.command()
    def fraud(
        trials: Trials = None,
        config: Config = None,
        resume: Resume = None,
        promote: Promote = False,
        generated: Generated = False,
        events: Annotated[int | None, typer.Option(min=1, help="rows per demo phase to keep unseen")] = None,
        json: Json = False,
    ) -> None:
        """Card payments: which are fraud. By time, with the view's features; ONNX, digest, golden outputs.

        Without --trials and --config nothing is searched. The first model becomes the
        champion, a later one goes to staging if it is not worse than the champion.
        """
        _train("fraud", config, trials, resume, promote, generated, events, json)

    @train.command()
    def demand(
        hourly: Annotated[
            bool, typer.Option("--hourly", help="a city's rides by the hour, not regions by the day")
        ] = False,
        trials: Trials = None,
        config: Config = None,
        resume: Resume = None,
        promote: Promote = False,
        generated: Generated = False,
        json: Json = False,
    ) -> None:
        """Bookings to come: XGBoost and LightGBM beside Prophet and a seasonal naive forecast.

        Judged over rolling origins, series by series; without --trials and --config nothing is searched.
        """
        name = "demand_hourly" if hourly else "demand"
        _train(name, config, trials, resume, promote, generated, None, json)

    @train.command()
    def runs(json: Json = False) -> None:
        """Every run, newest last."""
        from jobs.training.fraud import training_root
        from jobs.training.report import report_of
        from jobs.training.run_folder import runs as there

        found = [report_of(folder.load()) for folder in there(training_root())]
        if json:
            typer.echo(json_.dumps(found))
            return
        for one in found:
            version = f", version {one['version']}" if one["version"] else ""
            seen = ", acknowledged" if "acknowledged" in one else ""
            typer.echo(f"{one['run']}  {one['state']}{version}{seen}")

    @train.command()
    def show(run: str, json: Json = False) -> None:
        """How a run stands, or ended."""
        from jobs.training.fraud import training_root
        from jobs.training.report import lines_of, report_of
        from jobs.training.run_folder import RunFolder

        state = RunFolder(training_root(), run).load()
        typer.echo(json_.dumps(report_of(state)) if json else "\n".join(lines_of(state)))

    @train.command()
    def ack(run: str, by: Annotated[str, typer.Option(help="who has seen it")] = "command line") -> None:
        """Acknowledge how a run ended."""
        from core.clock import SystemClock
        from jobs.training.fraud import training_root
        from jobs.training.run_folder import RunFolder, acknowledge

        acknowledge(RunFolder(training_root(), run), by=by, at=SystemClock().now())


def _train(
    name: str,
    config: Path | None,
    trials: int | None,
    resume: str | None,
    promote: bool,
    generated: bool,
    events: int | None,
    json: bool,
) -> None:
    from cli.demo_commands import interruptible, say
    from core.clock import SystemClock
    from core.errors import InvalidInput
    from core.settings import settings
    from jobs.training.beginning import Asked, begin, run_id
    from jobs.training.fraud import training_root
    from jobs.training.main import prune_runs
    from jobs.training.report import lines_of, report_of
    from jobs.training.run_folder import RunFolder
    from jobs.training.runner import carry_out
    from jobs.training.surroundings import surroundings
    from models.registry import open_registry

    clock = SystemClock()
    folder = RunFolder(training_root(), resume or run_id(name))
    if resume is not None:
        if config is not None or trials is not None or generated or events is not None:
            raise InvalidInput("a run keeps its configuration", mend="give --resume alone")
        configuration = folder.load().configuration
    else:
        configuration = _configured(name, config, trials, generated, events)
        begin(configuration, folder, Asked(promote=promote), clock)
    say(f"run {folder.id}")
    with (
        shown_progress() as progress,
        interruptible(),
        surroundings(
            configuration, settings(), store=open_registry(settings()), progress=progress, clock=clock
        ) as around,
    ):
        state = carry_out(folder, around, clock=clock)
        prune_runs(settings(), around.store, clock)
    for line in lines_of(state):
        say(line)
    if json:
        typer.echo(json_.dumps(report_of(state)))
    if state.state != "succeeded":
        raise typer.Exit(1)


def _configured(
    name: str, config: Path | None, trials: int | None, generated: bool, events: int | None
) -> "Configuration":
    from pipelines.training.reading import changed, parse, read, shipped_values, values_of

    values = shipped_values(name) if config is None else values_of(read(config))
    changes: dict[str, Any] = {}
    if generated:
        changes["source"] = {"kind": "generated", "rows": 150_000 + max(2 * (events or 0) - 40_000, 0)}
    if events is not None:
        changes["split"] = {"test_rows": 2 * events}
    if trials is not None:
        changes["search"] = {"trials": trials}
    configuration = parse(changed(values, changes), where=str(config or f"training {name}"))
    quick = trials == 0 or (trials is None and config is None)
    return configuration.quick() if quick else configuration


@contextmanager
def shown_progress() -> "Iterator[Progress]":
    """Bars on a terminal, lines elsewhere; on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

    from cli.demo_commands import steps

    console = Console(stderr=True)
    if not console.is_terminal:
        yield steps()
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    with Progress(*columns, TimeElapsedColumn(), console=console) as bars:
        tasks: dict[str, TaskID] = {}

        def step(what: str, done: float | None) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=None if done is None else 1.0)
            bars.update(tasks[what], total=None if done is None else 1.0, completed=done or 0.0)

        yield step
        for task in tasks.values():
            bars.update(task, total=1.0, completed=1.0)
