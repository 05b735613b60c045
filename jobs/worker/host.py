"""Host: the loop of one Kafka session, from joining the group to leaving it.

Delivery promise: at least once, and one result per (tenant, id) within the horizon of `Dedupe`. Offsets are
committed only after every output of the inputs before them was acknowledged. Whatever goes wrong with Kafka
ends the session; the next one begins at the committed offsets and reads back what was answered already, which
is also what happens after `kill -9`, so there is one way of recovery and not two.

Rebalancing is cooperative: partitions that stay are worked on while others move. Before a partition is given
away its outputs are settled and its offsets committed; before one is taken its outcomes are read back.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from core.clock import Clock
from core.errors import MillstreamError, ModelError, Unavailable
from core.telemetry.log import logger
from core.telemetry.probe import Probe
from jobs.worker import metrics
from jobs.worker.batch import BatchWork, Outputs, refusal
from jobs.worker.inputs import Inputs
from jobs.worker.outbox import SessionOutbox
from jobs.worker.readback import Readback
from jobs.worker.serving import Serving
from schemas.codec import RecordCodec

_LOG = logger("worker.host")
IDLE_S = 0.2
SETTLE_S = 30.0
HOLD_FIRST_S, HOLD_LONGEST_S = 0.1, 5.0
# a group takes a member for dead after a session of 6 s without a heartbeat
LEASE_S, ASK_S = 4.0, 1.0
LAG_S = 5.0


@dataclass(frozen=True)
class Limits:
    """Bounds of the loop: records in a batch, wait for it after its first record, time between commits."""

    batch: int = 512
    wait_s: float = 0.005
    commit_s: float = 1.0


@dataclass(frozen=True)
class Route:
    """Where a host reads and writes."""

    pipeline: str
    source: str
    results: str
    dead_letters: str


class KafkaErrors:
    """Makes what the client raises Unavailable. A class, as the client raises `KafkaError` too, which is no
    exception type: `except Exception` lets it through, the end of a `with` block does not."""

    def __init__(self, where: str) -> None:
        self._where = where

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if isinstance(error, KafkaException | KafkaError):
            raise Unavailable(f"Kafka: {error}", where=self._where, mend="look at the brokers")


class Host:
    """One session of one worker. `run` returns when `stop` is set and raises Unavailable when it must end."""

    def __init__(
        self,
        *,
        connect: Callable[[Callable[..., None]], Consumer],
        outbox: SessionOutbox,
        work: BatchWork,
        serving: Serving,
        readback: Readback,
        results_codec: RecordCodec[Any],
        dead: set[tuple[int, int]],
        route: Route,
        limits: Limits,
        clock: Clock,
        probe: Probe,
        stop: threading.Event,
    ) -> None:
        self._consumer = connect(self.committed)
        self._outbox = outbox
        self._work = work
        self._serving = serving
        self._readback = readback
        self._results_codec = results_codec
        self._dead = dead
        self._route = route
        self._limits = limits
        self._clock = clock
        self._probe = probe
        self._stop = stop
        self._done: dict[int, int] = {}
        self._uncommitted = False
        self._broken = False
        self._committed_at = self._asked_at = self._lag_at = clock.monotonic()
        self._holding = False
        self._taken_away: set[int] = set()
        self._late_arrivals: list[Message] = []

    def run(self) -> None:
        """Work until told to stop; then settle, commit and leave. The consumer is closed in any case."""
        finished = False
        try:
            with KafkaErrors(f"worker of {self._route.pipeline}"):
                self._consumer.subscribe(
                    [self._route.source],
                    on_assign=self._assigned,
                    on_revoke=self._revoked,
                    on_lost=self._lost,
                )
                while not self._stop.is_set():
                    self._turn()
                self._outbox.settle(SETTLE_S)
                self._commit(asynchronous=False)
                finished = True
        finally:
            self._broken = not finished
            self._consumer.close()

    def _turn(self) -> None:
        messages = self._consume()
        if messages:
            inputs = Inputs.of(messages)
            self._batch(inputs)
        if self._uncommitted and self._clock.monotonic() - self._committed_at >= self._limits.commit_s:
            self._outbox.settle(SETTLE_S)
            self._commit(asynchronous=True)
        self._tell_lag()
        self._probe.beat("loop")

    def _consume(self) -> list[Message]:
        """Up to a batch: waits long for the first message (not at all for what waited before), briefly for
        the rest."""
        self._taken_away.clear()
        if self._late_arrivals:
            messages, self._late_arrivals = self._late_arrivals, []
        else:
            messages = self._consumer.consume(1, timeout=IDLE_S)
            if not messages:
                return []
        more = self._limits.batch - len(messages)
        if more > 0:
            messages += self._consumer.consume(more, timeout=self._limits.wait_s)
        self._asked_at = self._clock.monotonic()
        messages = self._sound(messages)
        if self._taken_away:  # in between; their next owner starts at what was committed
            messages = [m for m in messages if m.partition() not in self._taken_away]
        return messages

    def _sound(self, messages: list[Message]) -> list[Message]:
        if [message.error() for message in messages].count(None) == len(messages):
            return messages
        for message in messages:
            error = message.error()
            if error is None:
                continue
            if error.fatal():
                raise KafkaException(error)
            _LOG.warning("consumer event", error=error.str())
        return [message for message in messages if message.error() is None]

    def _batch(self, inputs: Inputs) -> None:
        """Work a batch to its end. An error that nobody foresaw is cornered by halving the batch, so that the
        one message that causes it is dead-lettered and the partition moves on."""
        began = self._clock.monotonic()
        try:
            worked = self._try(inputs)
        except (Unavailable, KafkaException):
            raise
        except Exception as error:
            if len(inputs) > 1:
                for half in inputs.halves():
                    self._batch(half)
                return
            _LOG.exception("a message that nothing was prepared for", offset=inputs.offsets[0])
            code = error.code if isinstance(error, MillstreamError) else "internal_error"
            worked = inputs, refusal("decide", code, f"{type(error).__name__}: {error}")
        if worked is not None and self._clock.monotonic() - self._asked_at > LEASE_S:
            worked = self._still_ours(*worked)
        if worked is None:
            return
        inputs, outputs = worked
        self._outbox.send(inputs, outputs)
        self._work.done(outputs)
        self._done.update(inputs.next_offsets())
        self._uncommitted = True
        pipeline = self._route.pipeline
        metrics.BATCH.labels(pipeline).observe(len(inputs))
        metrics.BATCH_MS.labels(pipeline).observe((self._clock.monotonic() - began) * 1000)
        for refused in outputs.refused:
            metrics.DEAD_LETTERS.labels(pipeline, refused.stage, refused.code).inc()

    def _still_ours(self, inputs: Inputs, outputs: Outputs) -> tuple[Inputs, Outputs] | None:
        """Asked after a long silence: a process that was stopped, or a slow model. Lets the client find out
        whether the group went on without this worker, and drops what others answer by now."""
        kept = self._hold(inputs, ASK_S)
        if len(kept) < len(inputs):
            return self._try(kept)
        self._go_on()
        return inputs, outputs

    def _try(self, inputs: Inputs) -> tuple[Inputs, Outputs] | None:
        """The outputs; holds the batch back while the registry or the model is away. None when it was told to
        stop meanwhile, or every partition was taken away: the inputs stay uncommitted."""
        wait_s = HOLD_FIRST_S
        while len(inputs) and not self._stop.is_set():
            try:
                outputs = self._work.work(inputs, self._serving.current)
            except (Unavailable, ModelError) as error:
                self._work.failed(error, len(inputs))
                if isinstance(error, ModelError) and self._serving.broke(error):
                    continue  # another version answers the same batch
                metrics.HELD.labels(self._route.pipeline, error.code).inc()
                _LOG.warning("batch held back", records=len(inputs), error=str(error), retry_in_s=wait_s)
                self._probe.set_ready(False, f"holding back: {error.what}")
                inputs = self._hold(inputs, wait_s)
                wait_s = min(wait_s * 2, HOLD_LONGEST_S)
            else:
                self._go_on()
                return inputs, outputs
        return None

    def _go_on(self) -> None:
        if self._holding:
            self._holding = False
            self._consumer.resume(self._consumer.assignment())
            self._probe.set_ready(True)

    def _hold(self, inputs: Inputs, wait_s: float) -> Inputs:
        """Wait without losing the place in the group: paused, but answering rebalances."""
        if not self._holding:
            self._holding = True
            self._consumer.pause(self._consumer.assignment())
        until = self._clock.monotonic() + wait_s
        while (left := until - self._clock.monotonic()) > 0 and not self._stop.is_set():
            message = self._consumer.poll(min(left, 0.5))
            if message is not None and message.error() is None:
                self._late_arrivals.append(message)
            self._tell_lag()
            self._probe.beat("loop")
        self._asked_at = self._clock.monotonic()
        gone = set(self._taken_away)
        self._late_arrivals = [m for m in self._late_arrivals if m.partition() not in gone]
        return inputs.without(gone)

    def _tell_lag(self) -> None:
        """How far the end of each partition is from what was worked; asks no broker."""
        now = self._clock.monotonic()
        if now - self._lag_at < LAG_S:
            return
        self._lag_at = now
        for partition, following in self._done.items():
            place = TopicPartition(self._route.source, partition)
            _, high = self._consumer.get_watermark_offsets(place, cached=True)
            metrics.LAG.labels(self._route.pipeline, str(partition)).set(max(0, high - following))

    def _commit(self, *, asynchronous: bool) -> None:
        """Commit what is done; call it only after `settle`."""
        self._committed_at = self._clock.monotonic()
        if not self._done:
            return
        self._uncommitted = False
        offsets = [TopicPartition(self._route.source, p, offset) for p, offset in self._done.items()]
        try:
            self._consumer.commit(offsets=offsets, asynchronous=asynchronous)
        except KafkaException as error:
            self.committed(error.args[0], offsets)

    def committed(self, error: KafkaError | None, partitions: Sequence[TopicPartition]) -> None:
        """Called when a commit was answered. An error is no loss: the results stand, the ids are known to
        whoever reads back, and the next commit holds the same offsets again."""
        if error is not None:
            self._uncommitted = True
            _LOG.warning("offsets not committed", error=error.str(), partitions=len(partitions))

    def _assigned(self, consumer: Consumer, partitions: Sequence[TopicPartition]) -> None:
        numbers = sorted(partition.partition for partition in partitions)
        if numbers:
            dedupe = self._work.dedupe
            floor = max(dedupe.horizon.at_least // max(len(numbers), 1), 1)
            self._probe.beat("loop", within_s=90)
            read = self._readback.outcomes(
                self._route.results, numbers, self._results_codec, dedupe, floor=floor
            )
            self._dead |= self._readback.dead_letters(self._route.dead_letters, self._route.source)
            _LOG.info("partitions taken", partitions=numbers, read_back=read, remembered=len(dedupe))
        self._taken_away -= set(numbers)
        consumer.incremental_assign(list(partitions))
        if self._holding:
            consumer.pause(list(partitions))
        else:
            self._probe.set_ready(True)

    def _revoked(self, consumer: Consumer, partitions: Sequence[TopicPartition]) -> None:
        if not self._broken:
            self._outbox.settle(SETTLE_S)
            self._commit(asynchronous=False)
        self._give_up(partitions)
        consumer.incremental_unassign(list(partitions))
        _LOG.info("partitions given back", partitions=sorted(p.partition for p in partitions))

    def _lost(self, consumer: Consumer, partitions: Sequence[TopicPartition]) -> None:
        self._give_up(partitions)
        consumer.incremental_unassign(list(partitions))
        numbers = sorted(p.partition for p in partitions)
        _LOG.warning("partitions lost: the group went on without this worker", partitions=numbers)

    def _give_up(self, partitions: Sequence[TopicPartition]) -> None:
        for partition in partitions:
            self._done.pop(partition.partition, None)
            metrics.LAG.remove(self._route.pipeline, str(partition.partition))
            self._taken_away.add(partition.partition)
