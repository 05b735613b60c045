"""Clients that follow one channel whatever happens to their connections, and what each of them got.

Each ends when it has as many events as it was told, so that what comes twice leaves something out.
"""

import asyncio
import itertools
import json
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from core.errors import InvalidInput, Unavailable
from gateway.client import GatewayClient, Listening, Stream
from tests.gateway.survival.site import ROOT

SCRIPT = Path(__file__).with_name("following.js")
_FEW, _TIMES = 7, 10


@dataclass
class Got:
    """What a client was given, in its order, by partition. broken: connections that ended; trouble: what
    should not have come at all."""

    count: int
    by_partition: dict[int, list[str]] = field(default_factory=dict)
    broken: int = 0
    trouble: list[Any] = field(default_factory=list)
    subscribed: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self, partition: int, id: str) -> None:
        self.by_partition.setdefault(partition, []).append(id)

    @property
    def whole(self) -> bool:
        return sum(map(len, self.by_partition.values())) >= self.count


async def socket(url: str, key: str, pipeline: str, got: Got) -> None:
    """The Python client."""
    state = Listening(subscribed=got.subscribed)
    async with GatewayClient(url, key) as client:
        events = client.listen(pipeline, state=state, backoff_s=0.01, longest_backoff_s=0.2)
        async for event in events:
            got.take(event.partition, event.id)
            if got.whole:
                break
        await events.aclose()  # type: ignore[attr-defined]
    got.broken, got.trouble = state.reconnects, [*state.gaps]
    got.subscribed.set()


async def events(url: str, key: str, pipeline: str, got: Got) -> None:
    """Server-sent events, resumed as a browser would."""
    headers = {"authorization": f"Bearer {key}", "accept": "text/event-stream"}
    params = {"channel": "results", "pipeline": pipeline}
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        while not got.whole:
            try:
                async with http.stream("GET", "/api/v1/stream", params=params, headers=headers) as response:
                    if response.status_code != 200:
                        await asyncio.sleep(0.02)
                        continue
                    async for name, id, data in _parsed(response):
                        headers["last-event-id"] = id
                        if name == "subscribed" and data["recovered"]:
                            got.subscribed.set()
                        elif name == "message":
                            got.take(int(next(iter(data["positions"]))), data["id"])
                        else:
                            got.trouble.append(data)
                        if got.whole:
                            return
            except httpx.TransportError:
                await asyncio.sleep(0.02)
            got.broken += 1


async def _parsed(response: httpx.Response) -> AsyncIterator[tuple[str, str, Any]]:
    """(name, id, data) of each event that came whole."""
    event: dict[str, str] = {}
    async for line in response.aiter_lines():
        if line:
            name, _, value = line.partition(": ")
            event[name] = value
            continue
        if "data" in event:
            yield event.get("event", "message"), event["id"], json.loads(event["data"])
        event = {}


async def javascript(command: Sequence[str], url: str, key: str, pipeline: str, got: Got) -> None:
    """The JavaScript client, in Node."""
    environment = {"GATEWAY": url, "KEY": key, "PIPELINE": pipeline, "COUNT": str(got.count)}
    async for line in _lines([*command, str(SCRIPT)], environment, got):
        if "subscribed" in line:
            got.subscribed.set()
        elif "id" in line:
            got.take(line["partition"], line["id"])
        elif "reconnects" in line:
            got.broken = line["reconnects"]
        else:
            got.trouble.append(line)


async def tail(pipeline: str, got: Got) -> None:
    """`millstream tail` as it is started by hand, beside the stack: address and key are its own."""
    arguments = ["tail", "results", pipeline, "--tenant", "acme", "--count", str(got.count), "-o", "json"]
    async for line in _lines([sys.executable, "-m", "cli", *arguments], {}, got):
        got.take(int(next(iter(line["positions"]))), line["id"])


async def _lines(command: Sequence[str], more: dict[str, str], got: Got) -> AsyncIterator[Any]:
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=ROOT,
        env=os.environ | more,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        async for line in process.stdout:
            yield json.loads(line)
        if await process.wait() != 0:
            got.trouble.append((await process.stderr.read()).decode())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@dataclass
class Desk:
    """A named subscription that changes gateways: (connection, partition, id) as they came, and on which
    connection they were acknowledged for certain."""

    count: int
    came: list[tuple[int, int, str]] = field(default_factory=list)
    kept: dict[str, int] = field(default_factory=dict)
    subscribed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def left(self) -> int:
        return self.count - len({id for _, _, id in self.came})


async def desk(urls: Sequence[str], key: str, pipeline: str, name: str, taken: Desk) -> None:
    """Keeps nothing but its name: each connection is to the other gateway, and ends after some events."""
    for connection in itertools.count():
        try:
            async with (
                GatewayClient(urls[connection % len(urls)], key) as client,
                client.stream() as stream,
            ):
                await stream.subscribe("results", pipeline=pipeline, name=name)
                taken.subscribed.set()
                pushed = aiter(stream)
                for _ in range(_TIMES):
                    few = []
                    for _ in range(min(_FEW, taken.left)):
                        event = await anext(pushed)
                        taken.came.append((connection, event.partition, event.id))
                        few.append(event)
                    for event in few:
                        await stream.acknowledge(name, event.positions[str(event.partition)])
                    await _handled(stream)
                    for event in few:
                        taken.kept.setdefault(event.id, connection)
                    if not taken.left:
                        return
        except Unavailable:
            await asyncio.sleep(0.02)


async def _handled(stream: Stream) -> None:
    """Frames are handled in their order: when this one was refused those before it are done."""
    with suppress(InvalidInput):
        await stream.subscribe("results", pipeline="nothing")
