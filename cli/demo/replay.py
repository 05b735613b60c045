"""Sending: events through the gateway on schedule, each until it is accepted or refused for good."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cli.demo.figures import Tally
from core.errors import MillstreamError, Unavailable
from gateway.client import GatewayClient

TICK_S = 0.02
MAX_REQUEST = 200
IN_FLIGHT = 64
RETRY_FIRST_S, RETRY_LONGEST_S = 0.2, 2.0
GIVE_UP_S = 180.0
ROWS_AT_ONCE = 50  # as Python objects

Event = dict[str, Any]


@dataclass(frozen=True)
class Sender:
    """Publishes to one pipeline and keeps the tally of what was accepted."""

    client: GatewayClient
    pipeline: str
    tally: Tally

    async def send(self, events: Sequence[Event]) -> None:
        """Publish in one request; what the gateway cannot take now is sent again with the same ids.

        Raises Unavailable when it still cannot after 180 s.
        """
        pending = list(events)
        deadline = time.monotonic() + GIVE_UP_S
        wait = RETRY_FIRST_S
        while pending:
            try:
                batch = await self.client.publish_batch(self.pipeline, pending)
            except Unavailable:
                again = pending
            else:
                again = []
                for event, outcome in zip(pending, batch.outcomes, strict=True):
                    if outcome.ok:
                        self.tally.accepted.add(event["id"])
                    elif outcome.again:
                        again.append(event)
                    else:
                        self.tally.refused[str((outcome.problem or {}).get("code", outcome.status))] += 1
                if len(events) == 1 and not again:
                    for stage in ("validate", "publish"):
                        if stage in batch.server_ms:
                            self.tally.stages[stage].append(batch.server_ms[stage])
            if again:
                if time.monotonic() > deadline:
                    raise Unavailable(
                        f"{len(again)} events were not accepted within {GIVE_UP_S:.0f} s",
                        mend="look at `millstream status` and `millstream logs gateway`",
                    )
                await asyncio.sleep(wait)
                wait = min(RETRY_LONGEST_S, wait * 2)
            pending = again


async def replay(
    sender: Sender,
    table: pa.Table,
    *,
    due_s: npt.NDArray[np.float64],
    event: Callable[[int], Event],
    single: bool,
    sent: Callable[[int], None],
    largest: int = MAX_REQUEST,
) -> None:
    """Send each row of `table` at its time after the start, in order of the rows.

    single: one event a request, many requests at once (as independent clients would); else all that are
    due go in one request of at most `largest` events, one request at a time, which keeps the order of the
    rows.
    """
    start = time.monotonic()
    done = 0
    gate = asyncio.Semaphore(IN_FLIGHT)
    running: set[asyncio.Task[None]] = set()
    failures: list[MillstreamError] = []

    async def one(row: int) -> None:
        try:
            await sender.send([event(row)])  # made when it is sent, so that "now" is now
        except MillstreamError as error:
            failures.append(error)
        finally:
            gate.release()

    while done < table.num_rows:
        ready = int(np.searchsorted(due_s, time.monotonic() - start, side="right"))
        if ready <= done:
            await asyncio.sleep(min(TICK_S, max(float(due_s[done]) - (time.monotonic() - start), 0.0)))
            continue
        last = min(ready, done + (IN_FLIGHT if single else largest))
        if single:
            for row in range(done, last):
                await gate.acquire()  # behind schedule, tasks must not pile up
                task = asyncio.create_task(one(row))
                running.add(task)
                task.add_done_callback(running.discard)
            await asyncio.sleep(0)
            if failures:
                break
        else:
            await sender.send([event(row) for row in range(done, last)])
        done = last
        sent(done)
    if running:
        await asyncio.gather(*running)
    if failures:
        raise failures[0]


class Events:
    """The rows of a table as events of a run: ids made unique, times set, nulls left out."""

    def __init__(self, table: pa.Table, *, run: str, label: str) -> None:
        names = [name for name in table.column_names if name not in (label, "tenant")]
        self._table = table.select(names)
        self._run = run
        self._first = 0
        self._rows: list[Event] = []

    def at(self, row: int, occurred_at: Any) -> Event:
        """Row `row` with its time. Fast when rows are asked for in order."""
        if not self._first <= row < self._first + len(self._rows):
            self._first = row - row % ROWS_AT_ONCE
            self._rows = self._table.slice(self._first, ROWS_AT_ONCE).to_pylist()
        event = {name: value for name, value in self._rows[row - self._first].items() if value is not None}
        event["id"] = f"{self._run}-{event['id']}"
        event["occurred_at"] = occurred_at
        return event
