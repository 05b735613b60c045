"""The Flink job of a tumbling view against Faust on the same view, per core second.

Faust is there twice: an ordinary program with a tumbling table, which the goal is about, and our own agent,
which keeps no tables. All run on a real local stack, ready and waiting, each on topics of its own. A pass
sends events whose time goes on from the pass before and waits for every feature row of the minutes that they
close; it costs the CPU of the engine's processes in that time: TaskManager and JobManager, or the Python
process, Kafka clients included. The broker's CPU is nobody's. Before anything is measured the rows of the
same events are compared, with each other and with DuckDB.

Topics have one partition: a Faust table tells of closed windows of one partition only, of the one that it
closes first. The stack is started with the JVM's second compiler, as Flink runs by itself; one that runs
already is taken as it is.

What is compared is how both run for weeks. A JVM compiles what it runs for its first two million events, up
to half of the CPU of a pass; Python compiles nothing. So Flink's passes before the measured ones are many,
and Faust's is one.
"""

import math
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
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

SMALL_PASS, FLINK_PASS = 20_000, 400_000
NAMED_PEER = "faust"
WARM_UP = 8  # the second compiler is done after two to three million events
QUIET = timedelta(hours=1)  # no ticks: what closes a window is an event
READY_S, PASS_S = 180.0, 300.0
ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("apache-flink", "faust-streaming", "aiokafka", "confluent-kafka", "duckdb", "pyarrow")


class Engine:
    """One engine at work on its own topics.

    cpu_s: CPU seconds of its processes so far. check: raises when they ended.
    """

    def __init__(
        self, domain: str, cpu_s: Callable[[], float], check: Callable[[], None] = lambda: None
    ) -> None:
        self._given = topics(domain)
        self._cpu_s = cpu_s
        self._check = check
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
        _until(lambda: self._written() >= due, "all rows of a pass", PASS_S)
        cost = (self._cpu_s() - begun) / count * 1e6
        self.per_event_us.append(cost)
        return cost

    def _written(self) -> int:
        self._check()
        return _count(self._reader, self._given["rows"])

    def rows(self) -> dict[tuple[str, str], list[Any]]:
        """The values of the rows so far by (tenant, id)."""
        return _rows(self._given["rows"])

    def close(self) -> None:
        """Ends what reads; the producer ends with the last reference to this."""
        self._reader.close()


def bench() -> BenchResult:
    """Ratio `flink_vs_faust`: CPU an event of an ordinary Faust program over that of the Flink job; our own
    agent is among the figures."""
    given = settings()
    flink = given.flink.model_copy(update={"second_compiler": True})
    stack = Stack(given.model_copy(update={"flink": flink}))
    ran = stack.running()
    stack.up(only={"kafka", "registry", "flink"}, resume_jobs=False)
    try:
        return _with_engines(stack, own_stack=not ran)
    finally:
        if not ran:
            stack.down()


def _with_engines(stack: Stack, *, own_stack: bool) -> BenchResult:
    """A function of its own: the engines' Kafka clients end with it, before the broker does."""
    with ExitStack() as engines:
        return _measured(
            engines.enter_context(flink_engine(stack)),
            {
                NAMED_PEER: engines.enter_context(faust_engine()),
                "our own agent": engines.enter_context(own_agent_engine()),
            },
            own_stack=own_stack,
        )


def _measured(flink: Engine, peers: Mapping[str, Engine], *, own_stack: bool) -> BenchResult:
    engines = {"Flink": flink, **peers}
    for engine in engines.values():
        engine.once(SMALL_PASS)
    _require_equal_rows(engines)
    for _ in range(WARM_UP):
        flink.once(FLINK_PASS)
    for engine in engines.values():
        engine.per_event_us.clear()
    rounds: dict[str, list[float]] = {name: [] for name in peers}
    for _ in range(ROUNDS):
        for name, peer in peers.items():
            a1, b1 = peer.once(SMALL_PASS), flink.once(FLINK_PASS)
            b2, a2 = flink.once(FLINK_PASS), peer.once(SMALL_PASS)
            rounds[name].append((a1 + a2) / (b1 + b2))
    costs = {name: float(np.median(engine.per_event_us)) for name, engine in engines.items()}
    control = [flink.once(FLINK_PASS) / flink.once(FLINK_PASS) for _ in range(ROUNDS)]
    beside = {
        f"Flink over {name}, median of rounds": float(np.median(ratios))
        for name, ratios in rounds.items()
        if name != NAMED_PEER
    }
    return BenchResult(
        bench="features-engines",
        ratios=[
            Ratio(
                "flink_vs_faust",
                tuple(rounds[NAMED_PEER]),
                GOALS["flink_vs_faust"].bound,
                meaning="events per core second of the Flink job over an ordinary Faust program's, same view",
            )
        ],
        versions=versions(PACKAGES),
        sizes={
            "events per pass, Flink": FLINK_PASS,
            "events per pass, Faust": SMALL_PASS,
            "partitions": PARTITIONS,
            "features": len(DEMAND.features),
            "second compiler of the TaskManager": "yes" if own_stack else "as the stack ran",
        },
        figures=beside
        | {f"{name}: CPU us/event": cost for name, cost in costs.items()}
        | {f"{name}: events per core second": 1e6 / cost for name, cost in costs.items()},
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
    """The view as an ordinary Faust program, started; it is ready when the rows of a first pass are there."""
    domain = _prepared()
    worker = subprocess.Popen([sys.executable, "-m", "bench.features_faust", domain], cwd=ROOT)
    try:
        with closing(Engine(domain, lambda: _cpu_s(worker.pid), lambda: _alive(worker))) as engine:
            yield engine
    finally:
        _end(worker)


@contextmanager
def own_agent_engine() -> Iterator[Engine]:
    """Our own Faust agent of the view, running."""
    domain = _prepared()
    port = _free_port()
    command = [sys.executable, "-m", "bench.features_own_agent", domain]
    agent = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "MILLSTREAM_PROBE_PORT": str(port)})
    try:
        _until(lambda: _ready(agent, port), "the Faust agent is ready", READY_S)
        with closing(Engine(domain, lambda: _cpu_s(agent.pid), lambda: _alive(agent))) as engine:
            yield engine
    finally:
        _end(agent)


def closed(count: int) -> int:
    """How many rows the first `count` events close, whole minutes of them: the last minute stays open."""
    return ROWS_PER_MINUTE * (count // PER_MINUTE - 1)


def _require_equal_rows(engines: Mapping[str, Engine]) -> None:
    """The rows of each after the first pass are DuckDB's."""
    wanted = compute(DEMAND, pa.Table.from_batches([events(0, SMALL_PASS)])).to_pylist()
    last = max(row["window_end"] for row in wanted)
    right = {
        (row["tenant"], row_id(row["region"], row["window_end"], 0)): [row[n] for n in DEMAND.feature_names]
        for row in wanted
        if row["window_end"] < last
    }
    require_equal("rows that are due", len(right), closed(SMALL_PASS))
    for name, engine in engines.items():
        found = engine.rows()
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


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _alive(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is not None:
        raise StackError("the Faust process ended", where=str(process.args), mend="see its error above")


def _ready(agent: "subprocess.Popen[bytes]", port: int) -> bool:
    _alive(agent)
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
