"""`millstream train`: train a shipped model and make it the champion."""

import json as json_
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    train = typer.Typer(help="Train a model.", no_args_is_help=True)
    app.add_typer(train, name="train")

    @train.callback()
    def models() -> None:
        """Train a model."""

    @train.command()
    def fraud(
        json: Annotated[bool, typer.Option("--json", help="last line of stdout: one JSON object")] = False,
        generated: Annotated[
            bool, typer.Option("--generated", help="no download: the built-in generator")
        ] = False,
        events: Annotated[int, typer.Option(min=1, help="rows per demo phase to keep unseen")] = 20_000,
    ) -> None:
        """XGBoost on card payments: by time, with the features of the view; ONNX, digest, golden outputs."""
        from cli.demo_commands import say, steps
        from jobs.training.fraud import FraudTraining
        from jobs.training.fraud import train as run

        report = run(from_generator=generated, settings=FraudTraining(events=events), progress=steps())
        say(f"data: {report.data} (licence: {report.licence})")
        say(f"{report.model} {report.version}: {report.trained_rows:,} rows until {report.trained_until:%F}")
        say(
            f"AUC {report.auc:.4f}, average precision {report.average_precision:.4f} on {report.tested_rows}"
            f" later rows; without the view {report.auc_without_view:.4f} and "
            f"{report.average_precision_without_view:.4f}"
        )
        if json:
            typer.echo(json_.dumps(report.to_dict()))
