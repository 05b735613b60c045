"""`millstream tail`: follow a channel of the gateway on the command line, across reconnects."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from core.errors import InvalidInput
from core.settings import settings

if TYPE_CHECKING:
    from gateway.client import GatewayClient, PushedEvent

_LIFETIME = timedelta(days=1)


class Channel(StrEnum):
    RESULTS = "results"
    ENTITY = "entity"
    ALERTS = "alerts"
    JOBS = "jobs"
    CHAT = "chat"


class Policy(StrEnum):
    DISCONNECT = "disconnect"
    DROP_OLDEST = "drop_oldest"
    COALESCE_BY_KEY = "coalesce_by_key"


class Output(StrEnum):
    LINE = "line"
    JSON = "json"


def register(app: typer.Typer) -> None:
    app.command()(tail)


def tail(
    channel: Annotated[Channel, typer.Argument(help="What to follow.")],
    pipeline: Annotated[str | None, typer.Argument(help="Of results and entity; a source of alerts.")] = None,
    entity: Annotated[str | None, typer.Option(help="Only what is about it.")] = None,
    where: Annotated[
        list[str] | None, typer.Option(help="field=value; one of several values where a field is repeated.")
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(help="Go on from where the subscription of this name came to, and keep it there."),
    ] = None,
    policy: Annotated[Policy, typer.Option(help="When this does not keep up.")] = Policy.DISCONNECT,
    count: Annotated[int | None, typer.Option(min=1, help="End after so many.")] = None,
    url: Annotated[str | None, typer.Option(help="Of the gateway; default: the local one.")] = None,
    key: Annotated[
        str | None, typer.Option(envvar="MILLSTREAM_KEY", help="Default: one that is made for a day.")
    ] = None,
    tenant: Annotated[str, typer.Option(help="Whose, where a key is made.")] = "demo",
    output: Annotated[Output, typer.Option("-o", "--output", help="How to show it.")] = Output.LINE,
) -> None:
    """Print what is pushed, one event a line, until Ctrl-C.

    Nothing is missed while a gateway is away; what is too old to be had any more is told on stderr.
    """
    from gateway.client import GatewayClient
    from gateway.keys import create_key
    from gateway.principals import ASK, STREAM_READ, TRAINING_READ

    given = settings()
    token = key or create_key(
        given, tenant, name="tail", scopes=[STREAM_READ, TRAINING_READ, ASK], expires_in=_LIFETIME
    )
    address = url or given.gateway.address

    async def follow() -> None:
        async with GatewayClient(address, token) as client:
            await _follow(
                client, channel, pipeline, entity, _filter(where or ()), name, policy, count, output
            )

    asyncio.run(follow())


async def _follow(
    client: "GatewayClient",
    channel: Channel,
    pipeline: str | None,
    entity: str | None,
    filter: dict[str, Any],
    name: str | None,
    policy: Policy,
    count: int | None,
    output: Output,
) -> None:
    from gateway.client import Listening

    state, seen, told = Listening(), 0, 0
    events = client.listen(
        pipeline,
        channel=channel.value,
        entity=entity,
        filter=filter,
        name=name,
        policy=policy.value,
        state=state,
        stop=lambda: count is not None and seen >= count,
    )
    async for event in events:
        for gap in state.gaps[told:]:
            typer.echo(f"missed: {gap.reason}", err=True)
        told = len(state.gaps)
        typer.echo(_line(event) if output is Output.LINE else _json(event))
        seen += 1


def _filter(where: Sequence[str]) -> dict[str, Any]:
    """`field=value`, each value as JSON where it is JSON, else as text. Raises InvalidInput."""
    import msgspec

    found: dict[str, list[Any]] = {}
    for text in where:
        field, separator, value = text.partition("=")
        if not separator or not field:
            raise InvalidInput(f"{text!r} is no field=value")
        try:
            found.setdefault(field, []).append(msgspec.json.decode(value))
        except msgspec.DecodeError:
            found.setdefault(field, []).append(value)
    return dict(found)


def _line(event: "PushedEvent") -> str:
    """Time, channel, id, and the scalars of the data that say most."""
    shown = ("status", "severity", "state", "role", "score", "decision", "entity", "model", "stage", "text")
    result = event.data.get("result") or {}
    data = {**(result if isinstance(result, dict) else {}), **event.data}
    parts = [f"{name}={data[name]}" for name in shown if data.get(name) not in (None, "")]
    return "  ".join([event.pushed_at.isoformat(timespec="milliseconds"), event.channel, event.id, *parts])


def _json(event: "PushedEvent") -> str:
    import msgspec

    return msgspec.json.encode(event).decode()
