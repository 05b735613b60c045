"""One run of the fraud pipeline on the real stack: publish, listen, disturb, and judge what came out.

What was accepted is kept by the sender, apart from everything under test; results and features are held
against that record.
"""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from cli.demo.figures import Tally
from cli.demo.judge import Judgement, Recording, judge
from cli.demo.listen import Listener
from cli.demo.live import Board
from cli.demo.replay import Events, Sender, replay
from cli.demo.schedule import wall_clock
from core.ids import new_id
from core.settings import Settings
from gateway.client import GatewayClient
from gateway.keys import create_key
from jobs.sources.generated import LABEL, generate
from models.load import LoadedModel
from pipelines.plan import ScoringPlan
from stack.local import Stack

SETTLE_S = 120.0
READY_S = 150.0
LARGEST_REQUEST = 8


@dataclass(frozen=True)
class Deployed:
    """The pipeline, running on the session's stack."""

    stack: Stack
    plan: ScoringPlan
    settings: Settings
    model: LoadedModel

    @property
    def url(self) -> str:
        return f"http://{self.settings.gateway.host}:{self.settings.gateway.port}"

    def key(self, tenant: str) -> str:
        return create_key(self.settings, tenant, name="test")

    def kill(self, unit: str) -> None:
        """SIGKILL to the process of a unit of the supervisor."""
        pid = self.stack.unit(unit).pid
        if pid is None:
            raise AssertionError(f"{unit} does not run: {self.stack.unit(unit)}")
        os.kill(pid, signal.SIGKILL)

    def restarts(self, unit: str) -> int:
        return self.stack.unit(unit).restarts

    def wait_ready(self) -> None:
        self.stack.wait_ready(timeout=READY_S)


@dataclass
class Outcome:
    """What a run gave, and what the judge says of it."""

    tenant: str
    tally: Tally
    judged: Judgement
    alerts: dict[str, str]
    reconnects: int

    def check(self) -> None:
        """Every promise that a fault must not break."""
        tally, features = self.tally, self.judged.features
        assert not tally.refused, tally.refused
        assert tally.lost == 0, f"{tally.lost} of {len(tally.accepted)} accepted events have no result"
        assert tally.repeats == 0, f"{tally.repeats} results were pushed twice"
        assert tally.seen.keys() == tally.accepted
        assert (features.mismatched, features.missing, features.extra) == (0, 0, 0), features
        assert features.checked == len(tally.accepted) - features.late - self.judged.dead_lettered
        assert features.late <= 0.01 * len(tally.accepted), f"{features.late} late"


@dataclass
class Scenario:
    """Events of generated cards at a rate, and something that happens in the middle."""

    deployed: Deployed
    events: int = 1500
    rate: float = 150.0
    seed: int = 1
    disturb: Callable[[Deployed], None] | None = None
    rows: pa.Table = field(init=False)

    def __post_init__(self) -> None:
        self.rows = generate(self.events, seed=self.seed)

    def run(self) -> Outcome:
        return asyncio.run(self._run())

    async def _run(self) -> Outcome:
        deployed, run = self.deployed, new_id()[-10:]
        tenant = f"test-{run}"
        recording = Recording.start(deployed.plan, deployed.settings)
        tally = Tally()
        async with GatewayClient(deployed.url, deployed.key(tenant), timeout_s=15) as client:
            listener = Listener(client, deployed.plan.pipeline, Board(tally))
            tasks = [
                asyncio.create_task(listener.follow_results()),
                asyncio.create_task(listener.follow_alerts()),
            ]
            try:
                await asyncio.wait_for(listener.results.subscribed.wait(), READY_S)
                await self._publish(Sender(client, deployed.plan.pipeline, tally), run)
                await settled(lambda: not tally.lost)
            finally:
                listener.stopped = True
                for task in tasks:
                    task.cancel()
                for task in tasks:
                    with suppress(asyncio.CancelledError):
                        await task
        judged = judge(
            deployed.plan, deployed.settings, deployed.model, since=recording, tenant=tenant, wanted=set()
        )
        return Outcome(tenant, tally, judged, listener.alerts_seen, listener.results.reconnects)

    async def _publish(self, sender: Sender, run: str) -> None:
        events = Events(self.rows, run=run, label=LABEL)
        due = wall_clock(self.events, self.rate)
        disturbance: Awaitable[None] | None = None

        def event(row: int) -> dict[str, Any]:
            return events.at(row, datetime.now(UTC))

        def sent(count: int) -> None:
            nonlocal disturbance
            if self.disturb is not None and disturbance is None and count >= self.events // 3:
                disturbance = asyncio.ensure_future(asyncio.to_thread(self.disturb, self.deployed))

        # One request at a time: the order of the times is then that of the partitions, on any machine. Small
        # ones: where a fault cuts a request in two, its second half is late once the stream was flushed.
        await replay(
            sender, self.rows, due_s=due, event=event, single=False, sent=sent, largest=LARGEST_REQUEST
        )
        if disturbance is not None:
            await disturbance


async def settled(done: Callable[[], bool], within_s: float = SETTLE_S) -> None:
    """Until `done`, or the time is over; the caller's assertions say what was missing."""
    deadline = time.monotonic() + within_s
    while not done() and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
