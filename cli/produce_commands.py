"""`millstream produce`: real shopping as a stream of events, through the gateway, at a steady rate."""

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer

from core.errors import UnknownName
from core.settings import settings

if TYPE_CHECKING:
    import pyarrow as pa

PIPELINES = ("demand", "merchants")


def register(app: typer.Typer) -> None:
    @app.command()
    def produce(
        pipeline: Annotated[str, typer.Argument(help=f"whose events: {' | '.join(PIPELINES)}")],
        rate: Annotated[float, typer.Option(help="events a second", min=0.1, max=5_000)] = 50.0,
        seconds: Annotated[float, typer.Option(help="how long", min=1, max=86_400)] = 60.0,
        tenant: Annotated[str, typer.Option(help="whose; a key is made for the run")] = "demo",
        generated: Annotated[bool, typer.Option(help="made up here, nothing is downloaded")] = False,
        seed: Annotated[int, typer.Option(help="the same seed gives the same events")] = 0,
        past_days: Annotated[
            int, typer.Option(help="instead: so many days that end now, at once, straight to Kafka", min=0)
        ] = 0,
    ) -> None:
        """Publish events derived from recorded baskets, with the time of sending, until the time is over.

        The baskets (CC0) come from a wheel and are cached. Apply the pipeline first. With --past-days the
        events keep their spacing, weekday and hour: what forecasts of the next days look back at.
        """
        if pipeline not in PIPELINES:
            raise UnknownName("pipeline with recorded events", pipeline, PIPELINES)
        if past_days:
            published = _publish_past(pipeline, past_days, tenant, generated=generated, seed=seed)
            typer.echo(f"{published} events of {past_days} days, of tenant {tenant}")
            return
        table = events_of(pipeline, int(rate * seconds), tenant, generated=generated, seed=seed)
        accepted, refused = asyncio.run(_publish(pipeline, table, tenant, rate))
        typer.echo(f"{accepted} events accepted, {refused} refused, of tenant {tenant}")
        raise typer.Exit(1 if refused else 0)


def events_of(
    pipeline: str, count: int, tenant: str, *, generated: bool, seed: int, copies: int | None = None
) -> "pa.Table":
    """The first `count` events, or all there are. Of merchants the reference rows are published too."""
    from jobs.sources.baskets import baskets
    from jobs.sources.commerce import merchants, purchases
    from jobs.sources.demand import user_events
    from pipelines import references
    from pipelines.load import load_features

    recorded, _ = baskets(from_generator=generated)
    if pipeline == "demand":
        copies = copies or min(1 + count // max(4 * recorded.num_rows, 1), 50)
        return user_events(recorded, copies=copies, seed=seed, tenant=tenant).slice(0, count)
    (lookup,) = load_features("merchants").view.lookups
    references.write(lookup, merchants(recorded, tenant=tenant), settings())
    return purchases(recorded, tenant=tenant).slice(0, count)


def _publish_past(pipeline: str, days: int, tenant: str, *, generated: bool, seed: int) -> int:
    from datetime import UTC, datetime

    from jobs.sources.publishing import publish
    from jobs.sources.slices import past
    from pipelines.load import load_plan

    everything = events_of(pipeline, 2**31, tenant, generated=generated, seed=seed, copies=1)
    events = past(everything, datetime.now(UTC), days=days)
    publish(load_plan(pipeline).source, events, settings())
    return int(events.num_rows)


async def _publish(pipeline: str, table: "pa.Table", tenant: str, rate: float) -> tuple[int, int]:
    """How many were accepted and refused. Raises Unavailable when the gateway is away for three minutes."""
    from datetime import UTC, datetime

    from cli.demo.figures import Tally
    from cli.demo.replay import Events, Sender, replay
    from cli.demo.schedule import wall_clock
    from core.ids import new_id
    from gateway.client import GatewayClient
    from gateway.keys import create_key

    given = settings()
    tally, events = Tally(), Events(table, run=new_id()[-10:], label="")
    url = given.gateway.address

    def event(row: int) -> dict[str, Any]:
        return events.at(row, datetime.now(UTC))

    async with GatewayClient(url, create_key(given, tenant, name="produce"), timeout_s=15) as client:
        await replay(
            Sender(client, pipeline, tally),
            table,
            due_s=wall_clock(table.num_rows, rate),
            event=event,
            single=False,
            sent=lambda _: None,
        )
    return len(tally.accepted), sum(tally.refused.values())
