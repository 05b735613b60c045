"""`millstream dlq list|show|requeue`: what could not be handled, why, and another try."""

import json
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from cli.audited import audited
from core.settings import settings
from pipelines.dead_letters import DeadLetters, Entry

SHOWN_BYTES = 4096
COLUMNS = ("reference", "at", "stage", "code", "from", "reason")


class Output(StrEnum):
    TABLE = "table"
    JSON = "json"


Shown = Annotated[Output, typer.Option("-o", "--output", help="How to show it.")]


def register(app: typer.Typer) -> None:
    """Add the command group to `app`."""
    group = typer.Typer(help="Dead letters: messages that could not be handled.", no_args_is_help=True)
    group.command("list")(list_letters)
    group.command("show")(show_letter)
    group.command("requeue")(requeue_letters)
    app.add_typer(group, name="dlq")


def list_letters(
    topic: Annotated[
        list[str] | None, typer.Option("--topic", help="only this topic; may be repeated")
    ] = None,
    code: Annotated[str | None, typer.Option(help="only letters with this code")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="at most so many, newest first")] = 50,
    output: Shown = Output.TABLE,
) -> None:
    """List the newest dead letters with reason, stage and where each came from."""
    entries = DeadLetters(settings()).newest(topic or None, limit=limit, code=code)
    if output is Output.JSON:
        print(json.dumps([as_row(entry) for entry in entries], indent=2))
        return
    table = Table(*(Column(name, overflow="fold") for name in COLUMNS), box=None)
    for entry in entries:
        letter = entry.letter
        origin = f"{letter.topic}[{letter.partition}]@{letter.offset}"
        cells = (entry.reference, letter.at, letter.stage, letter.code, origin, letter.reason)
        table.add_row(*(escape(cell) for cell in cells))
    Console().print(table if entries else "no dead letters")


def show_letter(
    reference: Annotated[str, typer.Argument(help="<topic>:<partition>:<offset>, from `dlq list`")],
    output: Shown = Output.TABLE,
) -> None:
    """Show one dead letter: why, its headers, its key and its value (hex; text where it is text)."""
    entry = DeadLetters(settings()).show(reference)
    row = as_row(entry) | as_content(entry)
    if output is Output.JSON:
        print(json.dumps(row, indent=2))
        return
    table = Table(show_header=False)
    for name, value in row.items():
        lines = "\n".join(f"{k}: {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
        table.add_row(name, escape(lines))
    Console().print(table)


def requeue_letters(
    references: Annotated[list[str], typer.Argument(help="<topic>:<partition>:<offset>, from `dlq list`")],
    output: Shown = Output.TABLE,
) -> None:
    """Send the originals back to their source topics, marked with the header dlq_requeued."""
    with audited("dlq.requeue", target=" ".join(references)):
        entries = DeadLetters(settings()).requeue(references)
    if output is Output.JSON:
        print(json.dumps([{"reference": e.reference, "to": e.letter.topic} for e in entries], indent=2))
        return
    for entry in entries:
        Console().print(escape(f"{entry.reference} -> {entry.letter.topic}"))


def as_row(entry: Entry) -> dict[str, Any]:
    letter = entry.letter
    return {
        "reference": entry.reference,
        "at": letter.at,
        "stage": letter.stage,
        "code": letter.code,
        "reason": letter.reason,
        "source_topic": letter.topic,
        "source_partition": letter.partition,
        "source_offset": letter.offset,
        "job": letter.job,
    }


def as_content(entry: Entry) -> dict[str, Any]:
    """Headers, key and value; a value above 4 KiB is cut, its size is told."""
    letter = entry.letter
    value = letter.value or b""
    shown: dict[str, Any] = {
        "headers": {name: content.decode("utf-8", "replace") for name, content in letter.headers},
        "key": None if letter.key is None else letter.key.decode("utf-8", "replace"),
        "value_bytes": None if letter.value is None else len(value),
        "value_hex": value[:SHOWN_BYTES].hex(" "),
    }
    try:
        shown["value_text"] = value[:SHOWN_BYTES].decode("utf-8")
    except UnicodeDecodeError:
        shown["value_text"] = None
    return shown
