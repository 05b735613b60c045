"""One sink's thread: read, decode, write until it is durable, commit the offsets.

At least once: an offset is committed only after everything before it is durable, bad messages included.
While something is away the thread holds its one chunk and tries again, 0.1 s to 5 s apart; librdkafka's
queue is bounded, so memory is too, and nothing is read past what is written.
"""

import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

from core.errors import MillstreamError, Unavailable
from core.telemetry.log import logger
from jobs.writer.chunk import Chunk, Rejected, decode
from jobs.writer.errors import BadRecord, Rewind
from jobs.writer.sink import Sink, isolate
from jobs.writer.telemetry import CHUNKS, FAILURES, HOLDING, LAG, RECORDS, REFUSED, WRITE_MS
from pipelines.outbox import Outbox
from schemas.codec import RecordCodec
from schemas.dead_letters import Stage

POLL_S = 0.1  # how soon a stop, a tick or a rebalance is noticed on a quiet topic
COMMIT_S = 0.25
LAG_S = 5.0
BACKOFF_FIRST_S, BACKOFF_LONGEST_S = 0.1, 5.0

T = TypeVar("T")


class Stopped(Exception):
    """The thread was told to stop while it was holding; what it held is read again by the next one."""


@dataclass(frozen=True)
class Surroundings:
    """What a runner needs of the outside, as factories: it makes them anew after a fatal error."""

    consumer: Callable[[], Consumer]
    codecs: Mapping[str, RecordCodec[Any]]
    outbox: Outbox
    job: str


class SinkRunner:
    """Runs one sink until `stop` is set. `run` is the thread's body; it does not raise."""

    def __init__(
        self,
        sink: Sink,
        surroundings: Surroundings,
        stop: threading.Event,
        *,
        batch: int,
        beat: Callable[[str], None] = lambda name: None,
    ) -> None:
        self.sink = sink
        self._out = surroundings
        self._stop = stop
        self._batch = batch
        self._beat = beat
        self._topics = {topic.name: topic for topic in sink.topics}
        self._consumer: Consumer | None = None
        self._done: dict[tuple[str, int], int] = {}
        self._uncommitted: dict[tuple[str, int], int] = {}
        self._committed_at = 0.0
        self._lag_at = 0.0
        self._revoked: set[tuple[str, int]] = set()
        self._trouble: Exception | None = None
        self._log = logger("writer", sink=sink.name)
        self.assigned = False
        self.problem: str | None = None

    def check(self) -> None:
        """Raises with the reason while the sink holds back."""
        if self.problem is not None:
            raise Unavailable(self.problem)

    def run(self) -> None:
        while not self._stop.is_set():
            try:
                self._open()
                while not self._stop.is_set():
                    self._turn()
            except Stopped:
                break
            except Exception as problem:  # a fatal client error, or a bug: start over from what is committed
                self._failed(problem, unexpected=True)
                self._leave()
                self._stop.wait(1.0)
        self._close()

    def _open(self) -> None:
        self._beat(self.sink.name)
        self._until_done(self.sink.open)
        consumer = self._out.consumer()
        consumer.subscribe(
            list(self._topics),
            on_assign=partial(self._called_back, self._on_assign),
            on_revoke=partial(self._called_back, self._on_revoke),
            on_lost=partial(self._called_back, self._on_lost),
        )
        self._consumer = consumer

    def _called_back(
        self,
        handle: Callable[[Consumer, list[TopicPartition]], None],
        consumer: Consumer,
        partitions: list[TopicPartition],
    ) -> None:
        """Keep what a rebalance raises until the poll is over: confluent_kafka passes a KafkaException on
        as an object that no `except` catches, and the thread would end."""
        try:
            handle(consumer, partitions)
        except Exception as problem:
            self._trouble = problem

    def _turn(self) -> None:
        self._beat(self.sink.name)
        messages = self._read()
        if messages:
            try:
                self._take(messages)
            except Rewind as reason:
                self._rewind(str(reason))
                return
        try:
            self._until_done(self.sink.tick)
        except Rewind as reason:
            self._rewind(str(reason))
        self._commit()
        self._measure_lag()

    def _read(self) -> list[Any]:
        """What has arrived: waits up to POLL_S for the first message, then `wait_s` for more."""
        consumer = self._opened()
        first = consumer.poll(POLL_S)
        more = [] if first is None else consumer.consume(self._batch, self.sink.wait_s)
        trouble, self._trouble = self._trouble, None
        if trouble is not None:
            raise trouble
        messages = [] if first is None else [one for one in (first, *more) if self._sound(one)]
        if self._revoked:
            messages = self._still_ours(messages)
        return messages

    def _still_ours(self, messages: list[Any]) -> list[Any]:
        """Without the partitions that went away while reading: they are another's now. One that went and
        came back may have been read past what is stored; starting over is the safe answer to that."""
        gone, self._revoked = self._revoked, set()
        if gone & {(one.topic, one.partition) for one in self._opened().assignment()}:
            raise Unavailable("a partition was taken and given back while reading", code="rebalanced")
        return [one for one in messages if (one.topic(), one.partition()) not in gone]

    def _sound(self, message: Any) -> bool:
        error = message.error()
        if error is None:
            return True
        if error.fatal():
            raise KafkaException(error)
        if error.code() != KafkaError._PARTITION_EOF:
            self._log.warning("the consumer reports", error=str(error))
        return False

    def _take(self, messages: list[Any]) -> None:
        by_topic: dict[str, list[Any]] = {}
        for message in messages:
            by_topic.setdefault(message.topic(), []).append(message)
        refused = False
        for name, some in by_topic.items():
            topic = self._topics[name]
            chunk = self._until_done(partial(decode, topic, self._out.codecs[name], some))
            refused |= bool(chunk.rejected)
            for one in chunk.rejected:
                self._refuse(one, "decode")
            started = time.perf_counter()
            refused |= self._write(chunk)
            WRITE_MS.labels(self.sink.name).observe((time.perf_counter() - started) * 1000)
            RECORDS.labels(self.sink.name, name).inc(len(chunk))
            CHUNKS.labels(self.sink.name).inc()
        if refused:
            self._until_done(self._out.outbox.settle)
        for message in messages:
            at = message.topic(), message.partition()
            self._done[at] = message.offset() + 1
            self._uncommitted[at] = message.offset() + 1
        if refused:
            self._commit(now=True)

    def _write(self, chunk: Chunk) -> bool:
        """Write all but the bad records; whether there were any."""
        bad: list[Rejected] = []
        isolate(
            chunk,
            lambda part: self._until_done(lambda: self.sink.write(part)),
            lambda part, reason: bad.append(Rejected(part.messages[0], reason.code, reason.what)),
        )
        for one in bad:
            self._refuse(one, "store")
        return bool(bad)

    def _refuse(self, one: Rejected, stage: Stage) -> None:
        REFUSED.labels(self.sink.name, one.code).inc()
        where = f"{one.message.topic()}[{one.message.partition()}]@{one.message.offset()}"
        if stage == "decode" and not self.sink.dead_letters:
            self._log.info("left to the topic's dead-letter reader", message=where, code=one.code)
            return
        self._log.warning("dead letter", message=where, stage=stage, code=one.code, reason=one.reason)
        self._until_done(
            lambda: self._out.outbox.dead_letter(
                one.message, code=one.code, reason=one.reason, stage=stage, job=self._out.job
            )
        )

    def _until_done(self, attempt: Callable[[], T]) -> T:
        """Call until it succeeds. `BadRecord` and `Rewind` pass; a stop ends the wait with `Stopped`."""
        delay = BACKOFF_FIRST_S
        while True:
            try:
                result = attempt()
            except (BadRecord, Rewind):
                raise
            except Exception as problem:
                self._failed(problem, unexpected=not isinstance(problem, MillstreamError))
                self._beat(self.sink.name)
                if self._stop.wait(delay):
                    raise Stopped from problem
                delay = min(delay * 2, BACKOFF_LONGEST_S)
                continue
            if self.problem is not None:
                self._log.info("goes on", after=self.problem)
                self.problem = None
                HOLDING.labels(self.sink.name).set(0)
            return result

    def _failed(self, problem: Exception, *, unexpected: bool) -> None:
        code = problem.code if isinstance(problem, MillstreamError) else type(problem).__name__
        FAILURES.labels(self.sink.name, code).inc()
        HOLDING.labels(self.sink.name).set(1)
        self.problem = (str(problem).splitlines() or [code])[0]
        if unexpected:
            # confluent_kafka's errors have no __traceback__, and rendering them as a cause raises
            trace = "".join(traceback.format_tb(problem.__traceback__))
            self._log.error("unexpected failure; tries again", error=self.problem, traceback=trace)
        else:
            self._log.warning("holds back", error=self.problem, code=code)

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        if not self.sink.commits:
            self._place(partitions)
        consumer.incremental_assign(partitions)
        self.assigned = True
        self._log.info("assigned", partitions=[f"{p.topic}[{p.partition}]" for p in partitions])

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._commit(now=True)
        self._on_lost(consumer, partitions)

    def _on_lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        gone = [(partition.topic, partition.partition) for partition in partitions]
        for at in gone:
            self._done.pop(at, None)
            self._uncommitted.pop(at, None)
        self._revoked.update(gone)
        self.sink.revoked(gone)
        consumer.incremental_unassign(partitions)

    def _rewind(self, reason: str) -> None:
        """Read again from what the sink's store has."""
        self._log.warning("reads again", reason=reason)
        consumer = self._opened()
        assigned = consumer.assignment()
        self._place(assigned)
        for partition in assigned:
            consumer.seek(partition)

    def _place(self, partitions: list[TopicPartition]) -> None:
        """Set each partition's offset to where the sink's store ends, or to the beginning."""
        names = [(one.topic, one.partition) for one in partitions]
        starts = self._until_done(partial(self.sink.positions, names))
        for name, one in zip(names, partitions, strict=True):
            one.offset = starts.get(name, OFFSET_BEGINNING)

    def _commit(self, *, now: bool = False) -> None:
        """Commit what is durable: each 0.25 s, at once after a dead letter and before giving partitions
        up. A failed commit only means reading again."""
        if not self.sink.commits or not self._uncommitted:
            return
        at = time.monotonic()
        if not now and at - self._committed_at < COMMIT_S:
            return
        offsets = [TopicPartition(*key, offset) for key, offset in self._uncommitted.items()]
        try:
            self._opened().commit(offsets=offsets, asynchronous=not now)
        except KafkaException as problem:
            self._log.warning("offsets not committed", error=str(problem))
        self._uncommitted.clear()
        self._committed_at = at

    def _measure_lag(self) -> None:
        at = time.monotonic()
        if at - self._lag_at < LAG_S:
            return
        self._lag_at = at
        consumer = self._opened()
        for (topic, partition), following in self._done.items():
            _, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), cached=True)
            LAG.labels(self.sink.name, topic, str(partition)).set(max(0, high - following))

    def _opened(self) -> Consumer:
        if self._consumer is None:
            raise RuntimeError("no consumer yet")
        return self._consumer

    def _leave(self) -> None:
        consumer, self._consumer = self._consumer, None
        self.sink.revoked(list(self._done))
        self._uncommitted.clear()
        self._done.clear()
        if consumer is not None:
            consumer.close()
        self._revoked.clear()

    def _close(self) -> None:
        """The graceful end: what is held becomes durable in one try, then the group is left."""
        try:
            self.sink.close()
            if self._consumer is not None:
                self._commit(now=True)
        except Exception as problem:
            self._log.warning("not all was written at the stop; it is read again", error=str(problem))
        self._leave()
