"""The demo from start to summary: stack, plan, model, jobs, history, two phases, check."""

import asyncio
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from cli.demo.figures import Tally, percentiles
from cli.demo.judge import Recording, judge, quality
from cli.demo.listen import Listener
from cli.demo.live import Board, Screen
from cli.demo.material import Material
from cli.demo.replay import Events, Sender, replay
from cli.demo.schedule import Recorded, wall_clock
from cli.jobs import GATEWAY, deployed, job_specs
from cli.stack_commands import local_stack
from core.clock import from_millis, to_millis
from core.errors import MillstreamError
from core.ids import new_id
from core.settings import Settings
from gateway.client import GatewayClient
from gateway.keys import create_key
from jobs.on_flink.restore_points import StateFolders
from jobs.on_flink.stream import Replay, format_offsets, name_of, stream_of
from jobs.sources.card_fraud import LABEL
from pipelines.plan import ScoringPlan
from stack.local import Stack
from stack.unit import JobSpec

HISTORY_RATE = 4000.0
RECORDED_RATE = 1000.0
# The jobs were just started again: until their code is compiled and their connections are open, latency says
# nothing of a stream that runs. These events count in everything but the latency, which is reported apart.
WARM_UP_S = 5.0
SETTLE_S = 120.0
READY_S = 180.0
_MS = timedelta(milliseconds=1)
REPLAY_QUIET_MS = 5_000
REPLAY_MAX_AGE_S = 40 * 86400.0

Say = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """events: per phase. rate: events per second by wall clock."""

    events: int = 20_000
    rate: float = 200.0
    keep: bool = False
    generated: bool = False


class Demo:
    """One run. `tenant` is of this run alone, so that runs on one stack do not meet."""

    def __init__(self, plan: ScoringPlan, settings: Settings, options: Options, say: Say) -> None:
        self.plan, self.settings, self.options, self.say = plan, settings, options, say
        self.run_id = new_id()[-8:]
        self.tenant = f"demo-{self.run_id}"
        self.stack: Stack = local_stack(settings)
        self.tally = Tally()
        self.board = Board(self.tally)

    def deploy(self, recording: Recording, *, disorder_ms: int | None) -> None:
        """The jobs of the pipeline, the stream's with a state of this run alone: its events go back in time.
        With a disorder bound, as a replay of recorded time needs them."""
        there = deployed(self.stack)
        specs = job_specs(
            [self.plan], self.settings, beside=there.pipelines, llm=there.llm, direct=there.direct
        )
        for spec in specs:
            self.stack.add_job(self._for_replay(spec, recording, disorder_ms))
        self.stack.wait_ready([spec.name for spec in specs], READY_S)

    def _for_replay(self, spec: JobSpec, recording: Recording, disorder_ms: int | None) -> JobSpec:
        if spec.name.startswith(GATEWAY) and disorder_ms is not None:
            env = {**spec.env, "MILLSTREAM_GATEWAY__MAX_AGE_S": str(REPLAY_MAX_AGE_S)}
            return msgspec.structs.replace(spec, env=env)
        if spec.name.endswith("-flink"):
            more: tuple[str, ...] = ("--replay", self.tenant, "--since", format_offsets(recording.events))
            if disorder_ms is not None:
                more += ("--disorder-ms", str(disorder_ms), "--quiet-ms", str(REPLAY_QUIET_MS))
            return msgspec.structs.replace(spec, argv=(*spec.argv, *more))
        return spec

    async def stream(self, material: Material) -> Recording:
        """History, recorded clock, warm-up, wall clock; returns where the topics were at the start."""
        slices = material.slices
        now = to_millis(datetime.now(UTC))
        table = pa.concat_tables([slices.history, slices.recorded])
        clock = Recorded.of(_millis(table), now=now, rate=RECORDED_RATE)
        self.say(f"recorded time runs {clock.speed:,.0f} times as fast")
        recording = Recording.start(self.plan, self.settings)
        self.deploy(recording, disorder_ms=clock.scaled(self.plan.view.disorder) // _MS)
        key = create_key(self.settings, self.tenant, name="demo")
        url = f"http://{self.settings.gateway.host}:{self.settings.gateway.port}"
        async with GatewayClient(url, key, connections=80) as client:
            listener = Listener(client, self.plan.pipeline, self.board)
            tasks = [
                asyncio.create_task(listener.follow_results()),
                asyncio.create_task(listener.follow_alerts()),
            ]
            sender = Sender(client, self.plan.pipeline, self.tally)
            with Screen(self.board) as screen:
                drawing = asyncio.create_task(self._draw(screen))
                try:
                    await asyncio.wait_for(listener.results.subscribed.wait(), READY_S)
                    cut = slices.history.num_rows
                    loaded = table.slice(0, cut)
                    await self._phase(sender, "loading 7 days of history", loaded, clock.at[:cut])
                    await self._phase(sender, "recorded clock", table.slice(cut), clock.at[cut:])
                    await self._settle()
                    self.board.phase = "changing to the wall clock"
                    await asyncio.to_thread(self.deploy, recording, disorder_ms=None)
                    listener.timed = True
                    cut = min(round(self.options.rate * WARM_UP_S), slices.wall.num_rows // 4)
                    await self._phase(sender, "warming up", slices.wall.slice(0, cut), None)
                    await self._settle()
                    self.tally.warmed_up()
                    await self._phase(sender, "wall clock", slices.wall.slice(cut), None)
                    await self._settle()
                    screen.refresh(force=True)
                finally:
                    listener.stopped = True
                    for task in (*tasks, drawing):
                        task.cancel()
                    for task in (*tasks, drawing):
                        with suppress(asyncio.CancelledError):
                            await task
        return recording

    async def _phase(self, sender: Sender, name: str, table: pa.Table, at: Any) -> None:
        """Send a part. `at`: recorded times in epoch ms; None: the time of sending."""
        rows = table.num_rows
        if not rows:
            return
        self.board.phase, self.board.total, self.board.sent = name, rows, 0
        events = Events(table, run=self.run_id, label=LABEL)
        if at is None:
            due = wall_clock(rows, self.options.rate)
        else:
            due = wall_clock(rows, HISTORY_RATE) if "history" in name else _paced(at)

        def event(row: int) -> dict[str, Any]:
            when = datetime.now(UTC) if at is None else from_millis(int(at[row]))
            return events.at(row, when)

        def sent(count: int) -> None:
            self.board.sent = count

        await replay(sender, table, due_s=due, event=event, single=at is None, sent=sent)

    async def _settle(self) -> None:
        """Until every accepted event has a result, or nothing more has come for a while."""
        self.board.phase += ", waiting for results"
        deadline = time.monotonic() + SETTLE_S
        before = -1
        while self.tally.lost and time.monotonic() < deadline:
            if len(self.tally.seen) != before:
                before = len(self.tally.seen)
                deadline = time.monotonic() + SETTLE_S
            await asyncio.sleep(0.1)

    async def _draw(self, screen: Screen) -> None:
        while True:
            screen.refresh()
            await asyncio.sleep(0.25)

    def report(self, material: Material, recording: Recording, setup_s: float) -> dict[str, Any]:
        """The figures of the run, as `--json` prints them."""
        labels = self._labels(material.slices.recorded)
        judged = judge(
            self.plan,
            self.settings,
            material.model,
            since=recording,
            tenant=self.tenant,
            wanted=set(labels),
        )
        live, offline = quality(labels, self.tally.scores), quality(labels, judged.offline_scores)
        decided = self.tally.decisions()
        found = judged.features
        stages = self.tally.percentiles()
        return {
            "accepted": len(self.tally.accepted),
            "refused": dict(self.tally.refused),
            "results": len(self.tally.seen),
            "lost": self.tally.lost,
            "duplicates": self.tally.repeats,
            "late": found.late,
            "dead_lettered": judged.dead_lettered,
            "degraded": self.tally.degraded,
            **{status: decided[status] for status in ("blocked", "in_review", "confirmed")},
            "auc_rows": live["rows"],
            "auc_stream": live["auc"],
            "auc_offline": offline["auc"],
            "ap_stream": live["ap"],
            "ap_offline": offline["ap"],
            # of training, on the rows it was tested on: with the view and without, the same rows
            "auc_with_view": _rounded(material.metrics.get("auc")),
            "ap_with_view": _rounded(material.metrics.get("average_precision")),
            "auc_without_view": _rounded(material.metrics.get("auc_without_view")),
            "ap_without_view": _rounded(material.metrics.get("average_precision_without_view")),
            "latency_ms": stages.get("total", {}),
            "warm_up": {"events": len(self.tally.warm_up), "latency_ms": percentiles(self.tally.warm_up)},
            "stage_ms": stages,
            "features": {
                "checked": found.checked,
                "mismatched": found.mismatched,
                "missing": found.missing,
                "extra": found.extra,
                "rows_evicted": found.rows_evicted,
            },
            "setup_s": round(setup_s, 1),
            "rss_mb": {row.name: round(row.rss_mb) for row in self.stack.status() if row.rss_mb},
            "model": f"{material.model.name} {material.model.version}",
        }

    def _labels(self, table: pa.Table) -> dict[str, int]:
        ids = table.column("id").to_pylist()
        return {
            f"{self.run_id}-{id}": int(label)
            for id, label in zip(ids, table.column(LABEL).to_pylist(), strict=True)
        }

    def stop(self, *, was_running: bool) -> None:
        """Stop what this run started: the whole stack, or only the jobs where the stack ran before. The
        stream's state goes with it."""
        specs = job_specs([self.plan], self.settings)
        for spec in specs:
            with suppress(MillstreamError):
                self.stack.remove_job(spec.name)
        if not was_running:
            self.stack.down()
        state = StateFolders.of(self.settings, name_of(stream_of(self.plan), Replay(self.tenant, {})))
        for folder in (state.checkpoints, state.savepoints):
            shutil.rmtree(folder, ignore_errors=True)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _millis(table: pa.Table) -> Any:
    return table.column("occurred_at").cast(pa.int64()).to_numpy()


def _paced(at: Any) -> Any:
    """Due times in proportion to the recorded spacing, `RECORDED_RATE` a second on average."""
    return Recorded.of(np.asarray(at), now=int(at[-1]), rate=RECORDED_RATE).send_at_s
