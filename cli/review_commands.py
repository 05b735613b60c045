"""`millstream reviews list|decide`: the analyst's queue on the command line."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Annotated, Any

import msgspec
import psycopg
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cli.audited import audited
from core.clock import SystemClock
from core.errors import Unavailable
from core.settings import settings
from pipelines.load import load_scoring
from pipelines.reviews import KafkaVerdicts, decide, find_review, list_reviews
from schemas.headers import rfc3339


class Output(StrEnum):
    TABLE = "table"
    JSON = "json"


class ReviewState(StrEnum):
    OPEN = "open"
    DECIDED = "decided"


class Word(StrEnum):
    FRAUD = "fraud"
    LEGITIMATE = "legitimate"


Shown = Annotated[Output, typer.Option("-o", "--output", help="How to show it.")]
Tenant = Annotated[str, typer.Option("--tenant", help="Whose queue.", envvar="MILLSTREAM_TENANT")]


def register(app: typer.Typer) -> None:
    """Add the command group to `app`."""
    group = typer.Typer(help="Decisions that wait for an analyst.", no_args_is_help=True)
    group.command("list")(list_queue)
    group.command("decide")(decide_one)
    app.add_typer(group, name="reviews")


def list_queue(
    tenant: Tenant,
    state: Annotated[ReviewState, typer.Option(help="Which ones.")] = ReviewState.OPEN,
    limit: Annotated[int, typer.Option(min=1, max=500, help="At most so many.")] = 50,
    after: Annotated[str | None, typer.Option(help="Go on after a page: the cursor it ended with.")] = None,
    output: Shown = Output.TABLE,
) -> None:
    """The review queue, oldest first."""
    with _database() as connection:
        page = list_reviews(
            connection,
            tenant=tenant,
            state="open" if state is ReviewState.OPEN else "decided",
            limit=limit,
            after=after,
        )
    if output is Output.JSON:
        print(json.dumps(msgspec.to_builtins({"reviews": page.reviews, "after": page.after}), indent=2))
        return
    if not page.reviews:
        Console().print(f"no {state} reviews")
        return
    table = Table("id", "entity", "occurred at", "score", "reasons", "state", "verdict", "reviewer", box=None)
    for review in page.reviews:
        cells = (
            review.id,
            review.entity,
            rfc3339(review.occurred_at),
            "" if review.score is None else f"{review.score:.1f}",
            ", ".join(f"{reason['input']} {reason['contribution']:+.2f}" for reason in review.reasons[:3]),
            review.state,
            review.verdict or "",
            review.reviewer or "",
        )
        table.add_row(*(escape(cell) for cell in cells))
    Console().print(table)
    if page.after:
        Console().print(f"more: --after {page.after}")


def decide_one(
    id: Annotated[str, typer.Argument(help="The transaction's id, from `reviews list`.")],
    tenant: Tenant,
    verdict: Annotated[Word, typer.Option(help="What it was.")],
    reviewer: Annotated[str, typer.Option(help="Who says so.", envvar="USER")],
    note: Annotated[str | None, typer.Option(help="Why; up to 2,000 characters.")] = None,
    output: Shown = Output.TABLE,
) -> None:
    """Publish a verdict. The status follows a moment later."""
    with audited("reviews.decide", target=id, tenant=tenant) as act, _database() as connection:
        act.detail["verdict"] = verdict.value
        review = find_review(connection, tenant=tenant, id=id)
        given = decide(
            connection,
            KafkaVerdicts(settings(), load_scoring(review.pipeline).labels),
            SystemClock(),
            tenant=tenant,
            id=id,
            verdict=verdict.value,
            reviewer=reviewer,
            note=note,
        )
    if output is Output.JSON:
        print(json.dumps(msgspec.to_builtins(given), indent=2))
    else:
        Console().print(escape(f"{given.id}: {given.verdict}, by {given.reviewer}"))


@contextmanager
def _database() -> Iterator[psycopg.Connection[Any]]:
    try:
        with psycopg.connect(settings().postgres.address, autocommit=True, connect_timeout=3) as connection:
            yield connection
    except psycopg.OperationalError as problem:
        raise Unavailable(
            f"PostgreSQL does not answer: {str(problem).splitlines()[0]}",
            where=settings().postgres.address,
            mend="start it with `millstream up`",
        ) from problem
    except psycopg.errors.UndefinedTable as problem:
        raise Unavailable(
            "the tables are not there yet", mend="start the writer, or run `millstream apply`"
        ) from problem
