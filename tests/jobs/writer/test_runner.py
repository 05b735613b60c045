"""The runner with a consumer in memory: what it commits, when it holds, and that bad messages pass by."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from confluent_kafka import TopicPartition

from core.errors import Unavailable
from jobs.writer import runner as runner_module
from jobs.writer.chunk import Chunk
from jobs.writer.errors import BadRecord
from jobs.writer.runner import SinkRunner, Surroundings
from schemas.catalog.decisions import Verdict
from schemas.codec.wire import BadMessage, DecodedBatch
from schemas.topic import Topic
from tests.jobs.writer.samples import FakeMessage

TOPIC = Topic("fraud.transactions.labels.v1", Verdict)


class FakeConsumer:
    """Hands out messages, records commits; stops the runner when all is handed out and committed."""

    def __init__(self, values: Sequence[bytes], stop: threading.Event) -> None:
        self.left = [FakeMessage(n, value, on_topic=TOPIC.name) for n, value in enumerate(values)]
        self.stop = stop
        self.commits: list[int] = []
        self.closed = False

    def subscribe(self, topics: list[str], *, on_assign: Callable[..., None], **_: Any) -> None:
        on_assign(self, [TopicPartition(TOPIC.name, 0)])

    def incremental_assign(self, partitions: list[TopicPartition]) -> None:
        self.placed = {one.partition: one.offset for one in partitions}

    def poll(self, timeout: float) -> FakeMessage | None:
        if not self.left:
            self.stop.set()
            return None
        return self.left.pop(0)

    def consume(self, count: int, timeout: float) -> list[FakeMessage]:
        taken, self.left = self.left[:count], self.left[count:]
        return taken

    def commit(self, *, offsets: list[TopicPartition], asynchronous: bool) -> None:
        self.commits.append(offsets[0].offset)

    def get_watermark_offsets(self, _: Any, cached: bool) -> tuple[int, int]:
        return 0, 99

    def close(self) -> None:
        self.closed = True


class Digits:
    """Decodes `b"7"` to 7; anything that is no number is bad."""

    def decode_batch(self, values: Sequence[bytes]) -> DecodedBatch:
        kept = [n for n, value in enumerate(values) if value.isdigit()]
        bad = [BadMessage(n, "not_avro", "no number") for n, v in enumerate(values) if not v.isdigit()]
        rows = pa.RecordBatch.from_pydict({"n": pa.array([int(values[n]) for n in kept], pa.int64())})
        return DecodedBatch(rows, np.array(kept, np.int64), bad)


class Letters:
    """An outbox that keeps dead letters apart until they are settled."""

    def __init__(self) -> None:
        self.queued: list[tuple[int, str]] = []
        self.settled: list[tuple[int, str]] = []

    def dead_letter(self, message: Any, *, code: str, reason: str, stage: str, job: str) -> None:
        self.queued.append((message.offset(), stage))

    def settle(self) -> None:
        self.settled += self.queued
        self.queued = []


class Sheet:
    """A sink in memory: refuses 13 for good, and is away for the first `away` writes."""

    name = "sheet"
    wait_s = 0.0
    topics: Sequence[Topic] = (TOPIC,)
    dead_letters = True
    commits = True

    def __init__(self, away: int = 0) -> None:
        self.written: list[int] = []
        self.away = away
        self.opened = 0

    def open(self) -> None:
        self.opened += 1

    def positions(self, partitions: Sequence[tuple[str, int]]) -> dict[tuple[str, int], int]:
        return {}

    def revoked(self, partitions: Sequence[tuple[str, int]]) -> None:
        return

    def write(self, chunk: Chunk) -> None:
        if self.away:
            self.away -= 1
            raise Unavailable("the sheet is away")
        rows = chunk.batch.column("n").to_pylist()
        if 13 in rows:
            raise BadRecord("thirteen")
        self.written += rows

    def tick(self) -> None:
        return

    def close(self) -> None:
        return


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_module, "BACKOFF_FIRST_S", 0.001)
    monkeypatch.setattr(runner_module, "BACKOFF_LONGEST_S", 0.002)


def run(sink: Any, values: Sequence[bytes], batch: int = 4) -> tuple[FakeConsumer, Letters, SinkRunner]:
    stop = threading.Event()
    consumer, letters = FakeConsumer(values, stop), Letters()
    codecs: Any = {TOPIC.name: Digits()}
    out = Surroundings(lambda: consumer, codecs, letters, "test")  # type: ignore[arg-type]
    runner = SinkRunner(sink, out, stop, batch=batch)
    runner.run()
    return consumer, letters, runner


def test_everything_is_written_in_order_and_committed_to_the_end() -> None:
    sink = Sheet()
    consumer, letters, _ = run(sink, [str(n).encode() for n in range(10)])
    assert sink.written == list(range(10))
    assert consumer.commits[-1] == 10
    assert consumer.commits == sorted(consumer.commits)
    assert consumer.closed
    assert letters.settled == []


def test_bad_messages_are_dead_lettered_and_committed_past() -> None:
    sink = Sheet()
    consumer, letters, _ = run(sink, [b"1", b"x", b"2", b"13", b"3", b"y"])
    assert sink.written == [1, 2, 3]
    assert letters.settled == [(1, "decode"), (3, "store"), (5, "decode")]
    assert letters.queued == []
    assert consumer.commits[-1] == 6


def test_a_sink_that_leaves_undecodable_messages_to_another_does_not_dead_letter_them() -> None:
    sink = Sheet()
    sink.dead_letters = False
    consumer, letters, _ = run(sink, [b"1", b"x", b"13"])
    assert letters.settled == [(2, "store")]
    assert consumer.commits[-1] == 3


def test_while_the_store_is_away_nothing_is_committed_and_then_all_is_written() -> None:
    sink = Sheet(away=3)
    seen: list[tuple[int, int]] = []
    write = sink.write

    def watched(chunk: Chunk) -> None:
        seen.append((sink.away, len(sink.written)))
        write(chunk)

    sink.write = watched  # type: ignore[method-assign]
    consumer, _, runner = run(sink, [b"1", b"2", b"3"])
    assert seen[:4] == [(3, 0), (2, 0), (1, 0), (0, 0)]
    assert sink.written == [1, 2, 3]
    assert consumer.commits == [3]
    assert runner.problem is None


def test_a_stop_while_holding_commits_nothing_of_what_is_held() -> None:
    stop = threading.Event()
    sink = Sheet(away=10**9)
    consumer = FakeConsumer([b"1"], stop)
    write = sink.write

    def stopped(chunk: Chunk) -> None:
        stop.set()
        write(chunk)

    sink.write = stopped  # type: ignore[method-assign]
    codecs: Any = {TOPIC.name: Digits()}
    out = Surroundings(lambda: consumer, codecs, Letters(), "test")  # type: ignore[arg-type]
    runner = SinkRunner(sink, out, stop, batch=4)
    runner.run()
    assert consumer.commits == []
    assert consumer.closed
    with pytest.raises(Unavailable, match="away"):
        runner.check()


def test_a_failure_nobody_foresaw_starts_over_with_a_new_consumer(monkeypatch: pytest.MonkeyPatch) -> None:
    stop = threading.Event()
    monkeypatch.setattr(stop, "wait", lambda timeout=None: stop.is_set())
    broken = FakeConsumer([], stop)

    def fails(timeout: float) -> None:
        raise RuntimeError("broken client")

    broken.poll = fails  # type: ignore[method-assign]
    good = FakeConsumer([b"1"], stop)
    waiting = [broken, good]
    sink = Sheet()
    codecs: Any = {TOPIC.name: Digits()}
    out = Surroundings(lambda: waiting.pop(0), codecs, Letters(), "test")  # type: ignore[arg-type]
    SinkRunner(sink, out, stop, batch=4).run()
    assert broken.closed
    assert sink.written == [1]
    assert good.commits == [1]


def test_a_sink_with_its_own_offsets_is_placed_by_them_and_commits_none() -> None:
    class Own(Sheet):
        commits = False

        def positions(self, partitions: Sequence[tuple[str, int]]) -> dict[tuple[str, int], int]:
            return {(TOPIC.name, 0): 42}

    sink = Own()
    consumer, _, _ = run(sink, [b"1"])
    assert consumer.placed == {0: 42}
    assert consumer.commits == []
