"""The Flink job of a tumbling view against the Faust agent of the same view, per core second.

Both run on a real local stack, ready and waiting, each on topics of its own. A pass sends events whose time
goes on from the pass before and waits for every feature row of the minutes that they close; it costs the CPU
of the engine's processes in that time: TaskManager and JobManager, or the agent, Kafka clients included. The
broker's CPU is nobody's. Before anything is measured the rows of the same events are compared, with each
other and with DuckDB.
"""

import math
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pyarrow as pa
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import NewTopic

from bench.features_events import DEMAND, PARTITIONS, PER_MINUTE, ROWS_PER_MINUTE, events, topics
from bench.features_goals import GOALS
from bench.harness import ROUNDS, BenchResult, Ratio, require_equal, versions
from bench.registry import text
from core.errors import InternalError, StackError, Unavailable
from core.ids import new_id
from core.settings import settings
from core.telemetry.probe import Probe
from features.compile.flink_windows import WindowedStream
from features.feature_rows import row_id
from features.offline.history import compute
from jobs.on_flink.java_parts import JavaParts
from jobs.on_flink.keeper import keep
from jobs.on_flink.submit import FlinkJob
from schemas import broker
from schemas.avro import schema_text
from schemas.codec import RecordCodec
from schemas.keys import key_of
from schemas.record import Record
from schemas.registry import SchemaRegistry
from schemas.topic import Topic
from stack.flink import Flink
from stack.local import Stack
from stack.service import Silent, java

FAUST_EVENTS, FLINK_EVENTS = 20_000, 100_000
WARM_UP = 2
QUIET = timedelta(hours=1)  # no ticks: what closes a window is an event
READY_S, PASS_S = 180.0, 300.0
ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("apache-flink", "faust-streaming", "aiokafka", "confluent-kafka", "duckdb", "pyarrow")


class Engine:
    """One engine at work on its own topics. `cpu_s`: CPU seconds of its processes so far."""

    def __init__(self, domain: str, cpu_s: Callable[[], float]) -> None:
        self._given = topics(domain)
        self._cpu_s = cpu_s
        self._codec: RecordCodec[Any] = _codec(self._given["source"])
        self._producer = broker.producer(settings(), linger_ms=20)
        self._sent = 0
        self._reader = broker.consumer(settings(), None)
        self.per_event_us: list[float] = []

    def once(self, count: int) -> float:
        """Send so many events and wait for their rows; CPU microseconds an event."""
        batch = events(self._sent, count)
        values = self._codec.encode_batch(batch)
        keys = [key_of(tenant, region) for tenant, region in zip(
            batch.column("tenant").to_pylist(), batch.column("region").to_pylist(), strict=True
        )]  # fmt: skip
        times = batch.column("at").cast(pa.int64()).to_pylist()
        begun = self._cpu_s()
        source = self._given["source"].name
        for key, value, at in zip(keys, values, times, strict=True):
            while True:
                try:
                    self._producer.produce(source, key=key, value=value, timestamp=at)
                    break
                except BufferError:
                    self._producer.poll(0.1)
        if self._producer.flush(60):
            raise Unavailable("the events could not be written", where=source, mend="look at the broker")
        self._sent += count
        due = closed(self._sent)
        _until(lambda: _count(self._reader, self._given["rows"]) >= due, "all rows of a pass", PASS_S)
        cost = (self._cpu_s() - begun) / count * 1e6
        self.per_event_us.append(cost)
        return cost

    def rows(self) -> dict[tuple[str, str], list[Any]]:
        """The values of the rows so far by (tenant, id)."""
        return _rows(self._given["rows"])

    def close(self) -> None:
        """Ends what reads; the producer ends with the last reference to this."""
        self._reader.close()


def bench() -> BenchResult:
    """Ratio `flink_vs_faust`: CPU an event of the Faust agent over that of the Flink job."""
    stack = Stack(settings())
    ran = stack.running()
    stack.up(only={"kafka", "registry", "flink"}, resume_jobs=False)
    try:
        return _with_engines(stack)
    finally:
        if not ran:
            stack.down()


def _with_engines(stack: Stack) -> BenchResult:
    """A function of its own: the engines' Kafka clients end with it, before the broker does."""
    with ExitStack() as engines:
        flink = engines.enter_context(flink_engine(stack))
        faust = engines.enter_context(faust_engine())
        return _measured(flink, faust)


def _measured(flink: Engine, faust: Engine) -> BenchResult:
    for engine in (flink, faust):
        engine.once(FAUST_EVENTS)
    _require_equal_rows(flink, faust)
    for _ in range(WARM_UP):
        flink.once(FLINK_EVENTS)
    rounds = []
    for engine in (flink, faust):
        engine.per_event_us.clear()
    for _ in range(ROUNDS):
        a1, b1 = faust.once(FAUST_EVENTS), flink.once(FLINK_EVENTS)
        b2, a2 = flink.once(FLINK_EVENTS), faust.once(FAUST_EVENTS)
        rounds.append((a1 + a2) / (b1 + b2))
    flink_us, faust_us = (float(np.median(engine.per_event_us)) for engine in (flink, faust))
    control = [flink.once(FLINK_EVENTS) / flink.once(FLINK_EVENTS) for _ in range(ROUNDS)]
    return BenchResult(
        bench="features-engines",
        ratios=[
            Ratio(
                "flink_vs_faust",
                tuple(rounds),
                GOALS["flink_vs_faust"].bound,
                meaning="events per core second of the Flink job over the Faust agent's, same tumbling view",
            )
        ],
        versions=versions(PACKAGES),
        sizes={
            "events per pass, Flink": FLINK_EVENTS,
            "events per pass, Faust": FAUST_EVENTS,
            "partitions": PARTITIONS,
            "features": len(DEMAND.features),
        },
        figures={
            "Flink: CPU us/event": flink_us,
            "Faust: CPU us/event": faust_us,
            "Flink: events per core second": 1e6 / flink_us,
            "Faust: events per core second": 1e6 / faust_us,
        },
        control=Ratio("control", tuple(control), None),
    )


@contextmanager
def flink_engine(stack: Stack) -> Iterator[Engine]:
    """The view's Flink job, running."""
    domain = _prepared()
    cluster = Flink(settings())
    cluster.fetch(Silent())
    parts = JavaParts(java(), cluster.compiler(), cluster.connectors())
    job = FlinkJob(WindowedStream(**topics(domain)), settings(), parts)
    probe, stopping = Probe(), threading.Event()
    keeper = threading.Thread(
        target=keep, args=(job, stopping), kwargs={"quiet": QUIET, "probe": probe}, daemon=True
    )
    keeper.start()
    try:
        _until(lambda: probe.readiness()[0], "the Flink job runs", READY_S)
        units = [unit for unit in stack.status() if unit.service == Flink.name and unit.pid is not None]
        with closing(Engine(domain, lambda: sum(_cpu_s(unit.pid or 0) for unit in units))) as engine:
            yield engine
    finally:
        stopping.set()
        keeper.join(60)


@contextmanager
def faust_engine() -> Iterator[Engine]:
    """The view's Faust agent, running."""
    domain = _prepared()
    port = _free_port()
    command = [sys.executable, "-m", "bench.features_faust", domain]
    agent = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "MILLSTREAM_PROBE_PORT": str(port)})
    try:
        _until(lambda: _ready(agent, port), "the Faust agent is ready", READY_S)
        with closing(Engine(domain, lambda: _cpu_s(agent.pid))) as engine:
            yield engine
    finally:
        agent.terminate()
        try:
            agent.wait(timeout=30)
        except subprocess.TimeoutExpired:
            agent.kill()
            agent.wait()


def closed(count: int) -> int:
    """How many rows the first `count` events close, whole minutes of them: the last minute stays open."""
    return ROWS_PER_MINUTE * (count // PER_MINUTE - 1)


def _require_equal_rows(flink: Engine, faust: Engine) -> None:
    """The rows of both after the first pass are DuckDB's."""
    wanted = compute(DEMAND, pa.Table.from_batches([events(0, FAUST_EVENTS)])).to_pylist()
    last = max(row["window_end"] for row in wanted)
    right = {
        (row["tenant"], row_id(row["region"], row["window_end"], 0)): [row[n] for n in DEMAND.feature_names]
        for row in wanted
        if row["window_end"] < last
    }
    require_equal("rows that are due", len(right), closed(FAUST_EVENTS))
    for name, found in (("Flink", flink.rows()), ("Faust", faust.rows())):
        require_equal(f"windows by {name}", sorted(found), sorted(right))
        for key, values in right.items():
            same = all(_same(one, other) for one, other in zip(found[key], values, strict=True))
            require_equal(f"{key} by {name} ({found[key]}, {values})", same, True)


def _same(one: float | None, other: float | None) -> bool:
    if one is None or other is None or isinstance(other, int):
        return one == other
    return math.isclose(one, other, rel_tol=DEMAND.tolerance)


def _prepared() -> str:
    """A domain with its topics made and its schemas registered."""
    domain = f"bench{new_id()[-12:].replace('-', '')}".lower()
    registry = SchemaRegistry.of(settings())
    made = [topic for topic in topics(domain).values() if isinstance(topic, Topic)]
    client = broker.admin(settings())
    new = [
        NewTopic(one.name, one.partitions, settings().kafka.replication, config=one.config(min_insync=1))
        for one in made
    ]
    for future in client.create_topics(new, operation_timeout=20).values():
        future.result()
    for one in made:
        registry.register(one.subject, schema_text(_record(one).spec()))
    return domain


def _record(topic: Topic) -> type[Record]:
    if topic.record is None:
        raise InternalError(f"topic {topic.name} has no record", where="bench")
    return topic.record


def _codec(topic: Topic) -> RecordCodec[Any]:
    return RecordCodec(_record(topic), SchemaRegistry.of(settings()), topic.subject)


def _count(reader: Consumer, topic: Topic) -> int:
    ends = [broker.watermarks(reader, TopicPartition(topic.name, n), 20) for n in range(PARTITIONS)]
    return sum(high - low for low, high in ends)


def _rows(topic: Topic) -> dict[tuple[str, str], list[Any]]:
    codec, reader = _codec(topic), broker.consumer(settings(), None)
    found: dict[tuple[str, str], list[Any]] = {}
    try:
        left = _count(reader, topic)
        reader.assign([TopicPartition(topic.name, number, 0) for number in range(PARTITIONS)])
        deadline = time.monotonic() + READY_S
        while left and time.monotonic() < deadline:
            for message in reader.consume(1_000, 0.2):
                row = codec.decode(message.value() or b"")
                found[row.tenant, row.id] = [getattr(row, name) for name in DEMAND.feature_names]
                left -= 1
    finally:
        reader.close()
    return found


def _cpu_s(pid: int) -> float:
    """CPU seconds of a process and those that it started."""
    process = psutil.Process(pid)
    return sum(sum(one.cpu_times()[:2]) for one in (process, *process.children(recursive=True)))


def _ready(agent: "subprocess.Popen[bytes]", port: int) -> bool:
    if agent.poll() is not None:
        raise StackError("the Faust agent ended", where=str(agent.args), mend="see its error above")
    try:
        return httpx.get(f"http://127.0.0.1:{port}/ready", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def _free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        number: int = held.getsockname()[1]
        return number


def _until(done: Callable[[], bool], what: str, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not done():
        if time.monotonic() > deadline:
            raise Unavailable(f"not within {timeout_s:g} s: {what}", where="bench")
        time.sleep(0.2)


if __name__ == "__main__":
    sys.stdout.write(text(bench()))
