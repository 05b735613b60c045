"""The Faust agent as a process on real Kafka: DuckDB's rows, whatever happens to messages and processes."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest

from core.settings import settings
from features.feature_rows import row_id
from features.offline.history import compute, first_per_id
from stack.local import Stack
from tests.features.oracle import same
from tests.jobs.on_faust.trips import DISORDER, MINUTE, TRIPS, Trip, job
from tests.jobs.on_flink.live import Live, wait_for
from tests.stack_fixture import free_ports

pytestmark = [pytest.mark.services, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[3]
MILLI = timedelta(milliseconds=1)
BEGIN = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(days=2)
QUIET_MS = 600_000
"""No tick: each partition's time is that of its own events."""
REGIONS = ("north", "south|%", "ü", "")
COLUMNS = pa.schema(
    [
        ("tenant", pa.string()), ("id", pa.string()), ("region", pa.string()),
        ("at", pa.timestamp("ms", tz="UTC")), ("kind", pa.string()), ("fare", pa.int64()),
        ("miles", pa.float64()),
    ]
)  # fmt: skip


class Agent:
    """`kill` is SIGKILL, `stop` is SIGTERM and the exit status."""

    def __init__(self, domain: str, quiet_ms: int) -> None:
        (self.port,) = free_ports(1)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.jobs.on_faust.agent_process", domain, str(quiet_ms)],
            cwd=ROOT,
            env={**os.environ, "MILLSTREAM_PROBE_PORT": str(self.port)},
        )

    def ask(self, path: str) -> tuple[int, str]:
        try:
            answer = httpx.get(f"http://127.0.0.1:{self.port}{path}", timeout=2)
        except httpx.HTTPError:
            return 0, ""
        return answer.status_code, answer.text

    def wait_ready(self) -> None:
        self.wait_for("the agent is ready", lambda: self.ask("/ready")[0] == 200)

    def wait_for(self, what: str, done: Callable[[], bool], timeout_s: float = 120) -> None:
        """Wait, and fail at once where the process has ended."""

        def alive_and_done() -> bool:
            assert self._process.poll() is None, f"the agent ended before {what}"
            return done()

        wait_for(what, alive_and_done, timeout_s)

    def stop(self) -> int:
        self._process.terminate()
        return self._process.wait(timeout=30)

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(timeout=10)


class Trial(Live):
    """Topics of one test's own, and agents on them."""

    def close(self) -> None:
        self.rest.close()
        self.registry.close()

    @contextmanager
    def agent(self, *, quiet_ms: int = QUIET_MS) -> Iterator[Agent]:
        """A process; killed at the end if it still runs."""
        process = Agent(self.stream.pipeline, quiet_ms)
        try:
            yield process
        finally:
            process.kill()

    def rows(self) -> dict[tuple[str, str], dict[str, Any]]:
        """The rows that came out, by (tenant, id); one that is there again has to be equal."""
        out: dict[tuple[str, str], dict[str, Any]] = {}
        for row, _ in self.read(self.stream.rows):
            assert (row.entity, row.sequence) == (row.region, 0)
            assert row.id == row_id(row.region, row.window_end, 0)
            assert row.window_end - row.window_start == MINUTE
            values = {name: getattr(row, name) for name in ("region", "window_end", *TRIPS.feature_names)}
            assert out.setdefault((row.tenant, row.id), values) == values
        return out


@pytest.fixture
def trial(stack: Stack) -> Iterator[Trial]:
    del stack
    made = Trial(settings(), job(f"t{uuid.uuid4().hex[:8]}"))
    try:
        yield made
    finally:
        made.close()


def trips(dice: random.Random, number: int) -> list[Trip]:
    """Four a second, up to 1.9 s behind (the bound is 2 s), with minutes of nothing in some regions."""
    out = []
    for n in range(number):
        regions = REGIONS if (n * 250 // 60_000) % 2 else REGIONS[:2]
        out.append(
            Trip(
                tenant=dice.choice(["t", "t|"]),
                id=f"{dice.choice(['', 'ü|', 'x,'])}{n}",
                region=dice.choice(regions),
                at=BEGIN + (n * 250 - dice.choice([0, 0, 300, 1_900])) * MILLI,
                kind=dice.choice([None, "booking", "search", "search", "cancel"]),
                fare=dice.choice([None, -40_000, -3, 0, 7, 12, 40_000, 2**53 + 1]),
                miles=dice.choice([None, 0.1, 0.7, 2.5, -1e-3]),
            )
        )
    return out


def closing(at: datetime) -> list[Trip]:
    """An event of each key at that time, which closes the windows of all partitions before it."""
    return [
        Trip(tenant=tenant, id=f"last-{tenant}-{region}-{at.timestamp()}", region=region, at=at)
        for tenant in ("t", "t|")
        for region in REGIONS
    ]


def wanted(events: list[Trip], until: datetime) -> dict[tuple[str, str], dict[str, Any]]:
    """DuckDB's rows of the windows that the watermark `until` has closed."""
    rows = [{name: getattr(event, name) for name in COLUMNS.names} for event in events]
    found = compute(TRIPS, first_per_id(pa.Table.from_pylist(rows, schema=COLUMNS)))
    return {
        (row["tenant"], row_id(row["region"], row["window_end"], 0)): {
            name: row[name] for name in ("region", "window_end", *TRIPS.feature_names)
        }
        for row in found.to_pylist()
        if row["window_end"] - MILLI <= until
    }


def check(found: dict[Any, dict[str, Any]], right: dict[Any, dict[str, Any]]) -> None:
    assert right.keys() - found.keys() == set(), "missing"
    assert found.keys() - right.keys() == set(), "too many"
    for key, row in right.items():
        same(found[key], row)


def with_repeats(dice: random.Random, events: list[Trip]) -> list[Trip]:
    """Some again, at once, within the disorder or minutes later."""
    out: list[Trip] = []
    for event in events:
        out.append(event)
        if dice.random() < 0.15:
            out.append(dice.choice(out[-dice.choice([1, 10, 500]) :]))
    return out


def test_rows_are_duckdb_s_and_late_events_are_told_apart(trial: Trial) -> None:
    dice = random.Random(1)
    in_time = trips(dice, 1_500)
    end = BEGIN + 1_500 * 250 * MILLI + MINUTE
    stream, late = [], []
    for event in with_repeats(dice, in_time):
        stream.append(event)
        if dice.random() < 0.02:
            late.append(of(event, id=f"late-{len(late)}", at=event.at - 30 * 1000 * MILLI))
            stream.append(late[-1])
    last = closing(end)
    right = wanted([*in_time, *last], end - DISORDER)
    with trial.agent() as agent:
        trial.send([*stream, *last])
        agent.wait_for("all rows", lambda: trial.count(trial.stream.rows) >= len(right))
        assert agent.ask("/health")[0] == 200
        assert 'outcome="repeat"' in agent.ask("/metrics")[1]
        assert agent.stop() == 0
    assert len(right) > 30
    check(trial.rows(), right)
    assert trial.count(trial.stream.rows) == len(right), "each row once"
    came_late = [record for record, _ in trial.read(trial.stream.late)]
    assert sorted(came_late, key=lambda one: one.id) == sorted(late, key=lambda one: one.id)


def of(event: Trip, **changes: Any) -> Trip:
    return Trip(**{name: getattr(event, name) for name in Trip.spec().names} | changes)


def steadily(trial: Trial, events: list[Trip], rate: float, stop: threading.Event) -> threading.Thread:
    """Sends in a thread, `rate` a second, until `stop`."""

    def send() -> None:
        for event in events:
            if stop.wait(1 / rate):
                return
            trial.send([event])

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    return thread


def test_a_killed_agent_loses_and_changes_nothing(trial: Trial) -> None:
    dice = random.Random(2)
    in_time = trips(dice, 6_000)
    last = closing(BEGIN + 6_000 * 250 * MILLI + MINUTE)
    late = [of(event, id=f"late-{n}", at=event.at - MINUTE) for n, event in enumerate(in_time[100::100])]
    stream = with_repeats(dice, in_time)
    for event, late_one in zip(in_time[100::100], late, strict=True):
        stream.insert(stream.index(event) + 1, late_one)
    right = wanted([*in_time, *last], last[0].at - DISORDER)
    stop = threading.Event()
    sender = steadily(trial, [*stream, *last], 300, stop)
    try:
        for _ in range(3):
            with trial.agent() as agent:
                agent.wait_ready()
                before = trial.count(trial.stream.rows)
                agent.wait_for("more rows", lambda before=before: trial.count(trial.stream.rows) > before)
                time.sleep(dice.uniform(0, 1))
                assert sender.is_alive(), "all was sent before the last kill"
                agent.kill()
        with trial.agent() as agent:
            agent.wait_for("all is sent", lambda: not sender.is_alive())
            agent.wait_for("all rows", lambda: len(trial.rows()) >= len(right))
            assert agent.stop() == 0
    finally:
        stop.set()
        sender.join()
    check(trial.rows(), right)
    came_late = {record.id: record for record, _ in trial.read(trial.stream.late)}
    assert sorted(came_late) == sorted(one.id for one in late)
    assert all(came_late[one.id] == one for one in late)


def test_ids_and_open_windows_outlive_a_restart(trial: Trial) -> None:
    dice = random.Random(3)
    events = trips(dice, 600)
    last = closing(BEGIN + 600 * 250 * MILLI + MINUTE)
    right = wanted([*events, *last], last[0].at - DISORDER)
    with trial.agent() as agent:
        agent.wait_ready()
        trial.send(events[:333])
        agent.wait_for("some rows", lambda: trial.count(trial.stream.rows) > 0)
        assert agent.stop() == 0
    trial.send(events[300:400])  # nobody runs
    with trial.agent() as agent:
        agent.wait_ready()
        trial.send(events[:400:7])
        trial.send([*events[350:], *events[::5], *last, *events[::9]])
        agent.wait_for("all rows", lambda: len(trial.rows()) >= len(right))
        assert agent.stop() == 0
    check(trial.rows(), right)
    assert trial.count(trial.stream.late) == 0, "a repeat is no late event"


def test_partitions_move_between_agents(trial: Trial) -> None:
    dice = random.Random(4)
    in_time = trips(dice, 4_000)
    last = closing(BEGIN + 4_000 * 250 * MILLI + MINUTE)
    right = wanted([*in_time, *last], last[0].at - DISORDER)
    stop = threading.Event()
    with trial.agent() as first:
        first.wait_ready()
        sender = steadily(trial, [*with_repeats(dice, in_time), *last], 250, stop)
        try:
            with trial.agent() as second:
                second.wait_ready()
                second.wait_for(
                    "rows of the second", lambda: "faust_rows_total{" in second.ask("/metrics")[1]
                )
                assert sender.is_alive()
                assert first.stop() == 0
                second.wait_for("all rows", lambda: len(trial.rows()) >= len(right))
                assert second.stop() == 0
        finally:
            stop.set()
            sender.join()
    check(trial.rows(), right)
    assert trial.count(trial.stream.late) == 0


def test_what_is_no_event_is_passed_over_and_a_quiet_stream_is_let_out(trial: Trial) -> None:
    events = [
        Trip(tenant="t", id=str(n), region=region, at=BEGIN + n * MILLI)
        for n, region in enumerate(REGIONS * 5)
    ]
    ending = Trip(tenant="t", id="ending", region="north", at=BEGIN + MINUTE)
    right = wanted([*events, ending], BEGIN + MINUTE)
    good = trial.codec.encode(events[0])
    with trial.agent(quiet_ms=1_500) as agent:
        agent.wait_ready()
        for value in (b"hello", b"", good[:-4], b"\x00\x7f\xff\xff\xff" + good[5:], good + b"\x01"):
            for partition in range(3):
                trial.raw(value, at=BEGIN, partition=partition)
        trial.send([*events, ending])
        agent.wait_for("all rows", lambda: trial.count(trial.stream.rows) >= len(right))
        assert 'outcome="undecodable",pipeline' in agent.ask("/metrics")[1]
        assert agent.stop() == 0
    check(trial.rows(), right)


@pytest.mark.full
def test_a_restart_of_kafka_is_waited_out(trial: Trial, stack: Stack) -> None:
    dice = random.Random(5)
    in_time = trips(dice, 3_000)
    last = closing(BEGIN + 3_000 * 250 * MILLI + MINUTE)
    right = wanted([*in_time, *last], last[0].at - DISORDER)
    stop = threading.Event()
    with trial.agent() as agent:
        agent.wait_ready()
        sender = steadily(trial, [*with_repeats(dice, in_time), *last], 200, stop)
        try:
            agent.wait_for("some rows", lambda: trial.count(trial.stream.rows) > 0)
            stack.restart("kafka")
            agent.wait_for("all rows", lambda: not sender.is_alive() and len(trial.rows()) >= len(right))
            assert agent.stop() == 0
        finally:
            stop.set()
            sender.join()
    check(trial.rows(), right)
