"""Session: one Kafka session of an answering host, from joining the group to leaving it.

A thread consumes and commits, the event loop works. Offsets are committed only up to the first record that
has not ended, and a record ends when Kafka has its answer: after `kill -9` every request that is not
answered is taken up again, by whoever has its partition then. What goes wrong with Kafka ends the session;
the next one begins at the committed offsets.

A partition that is taken away is given `SETTLE_S` to finish what was begun. What is not finished by then
goes on here and is begun a second time there; the outcome store lets one of the two ends stand.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from core.clock import Clock
from core.errors import MillstreamError, Unavailable
from core.telemetry.log import logger
from core.telemetry.probe import Probe
from jobs.worker.answering.progress import Place, Progress
from jobs.worker.answering.works import Asked, Works
from pipelines.asking.addresses import address_of
from schemas.catalog.asking import Ask
from schemas.codec import RecordCodec
from schemas.dead_letters import dead_letter

_LOG = logger("answering.session")
IDLE_S = 0.2
SETTLE_S = 1.0
LEAVE_S = 10.0
FULL_S = 0.002


class Session:
    """`run` returns when `stop` is set and raises Unavailable when the session must end. Made in the event
    loop of `works`; `run` belongs to a thread of its own."""

    def __init__(
        self,
        *,
        connect: Callable[[], Consumer],
        producer: Producer,
        codec: RecordCodec[Ask],
        source: str,
        replies: str,
        works: Works,
        loop: asyncio.AbstractEventLoop,
        most: int,
        commit_s: float,
        job: str,
        clock: Clock,
        probe: Probe,
        stop: threading.Event,
    ) -> None:
        self._consumer = connect()
        self._producer = producer
        self._codec = codec
        self._source = source
        self._replies = replies
        self._works = works
        self._loop = loop
        self._most = most
        self._commit_s = commit_s
        self._job = job
        self._clock = clock
        self._probe = probe
        self._stop = stop
        self._progress = Progress()
        self._partitions: set[int] = set()
        self._ended: deque[Place] = deque()
        self._failure: str | None = None
        self._committed_at = clock.monotonic()

    def done(self, place: Place) -> None:
        """A record has ended; from any thread."""
        self._ended.append(place)

    def broken(self, reason: str) -> None:
        """Kafka did not take a reply; from the thread of `run`, or the loop."""
        self._failure = self._failure or reason

    def run(self) -> None:
        try:
            self._consumer.subscribe(
                [self._source], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost
            )
            while not self._stop.is_set():
                self._turn()
            self._settle(list(self._partitions), LEAVE_S)
            self._commit()
        except (KafkaException, KafkaError) as error:
            raise Unavailable(f"Kafka: {error}", where=self._job, mend="look at the brokers") from None
        finally:
            self._probe.set_ready(False, "left the group")
            self._consumer.close()

    def _turn(self) -> None:
        self._account()
        room = self._most - self._open()
        if room <= 0:
            self._producer.poll(FULL_S)
        else:
            messages = self._consumer.consume(1, timeout=IDLE_S)
            if messages and room > 1:
                messages += self._consumer.consume(room - 1, timeout=0)
            if messages:
                batch = self._read(messages)
                if batch:
                    self._loop.call_soon_threadsafe(self._works.take, batch)
        if self._clock.monotonic() - self._committed_at >= self._commit_s:
            self._commit()
        self._probe.beat("loop")

    def _read(self, messages: Sequence[Message]) -> list[Asked]:
        """What can be read of it; the rest is dead-lettered, and done with."""
        batch: list[Asked] = []
        for message in messages:
            error = message.error()
            if error is not None:
                if error.fatal():
                    raise KafkaException(error)
                _LOG.warning("consumer event", error=error.str())
                continue
            place = self._progress.begin(message.partition(), message.offset())
            try:
                ask = self._codec.decode(message.value() or b"")
            except Unavailable:
                raise
            except MillstreamError as bad:
                self._dead_letter(message, bad, place)
                continue
            address = address_of(message.headers(), self._replies)
            batch.append(Asked(ask, address, place, message.timestamp()[1]))
        return batch

    def _dead_letter(self, message: Message, bad: MillstreamError, place: Place) -> None:
        def delivered(error: KafkaError | None, _: Any) -> None:
            if error is not None:
                self.broken(error.str())
            else:
                self.done(place)

        dead_letter(
            self._producer, message, bad.code, bad.what, "decode", self._job,
            clock=self._clock, on_delivery=delivered,
        )  # fmt: skip

    def _account(self) -> None:
        """Take note of what has ended since."""
        self._producer.poll(0)
        while self._ended:
            self._progress.end(self._ended.popleft())
        if self._failure is not None:
            raise Unavailable(
                f"Kafka did not take a reply: {self._failure}",
                where=self._job,
                mend="look at the brokers; what was not answered is taken up again",
            )

    def _open(self) -> int:
        return sum(map(self._progress.open, self._partitions))

    def _commit(self) -> None:
        self._committed_at = self._clock.monotonic()
        self._account()
        offsets = [
            TopicPartition(self._source, partition, offset)
            for partition, offset in self._progress.take().items()
            if partition in self._partitions
        ]
        if offsets:
            self._consumer.commit(offsets=offsets, asynchronous=not self._stop.is_set())

    def _settle(self, partitions: Sequence[int], within_s: float) -> None:
        """Wait until what was begun of them has ended, at most so long."""
        until = time.monotonic() + within_s
        while time.monotonic() < until:
            self._account()
            if not any(map(self._progress.open, partitions)):
                return
            self._producer.poll(FULL_S)

    def _assigned(self, consumer: Consumer, partitions: Sequence[TopicPartition]) -> None:
        consumer.incremental_assign(list(partitions))
        self._partitions |= {p.partition for p in partitions}
        self._probe.set_ready(True)
        _LOG.info("partitions taken", partitions=sorted(self._partitions))

    def _revoked(self, consumer: Consumer, partitions: Sequence[TopicPartition]) -> None:
        numbers = [p.partition for p in partitions]
        if not self._stop.is_set() and self._failure is None:
            try:
                self._settle(numbers, SETTLE_S)
            except Unavailable as error:
                _LOG.warning("leaving with replies that Kafka did not take", error=error.what)
            offsets = [
                TopicPartition(self._source, partition, offset)
                for partition, offset in self._progress.take().items()
            ]
            if offsets:
                try:
                    consumer.commit(offsets=offsets, asynchronous=False)
                except KafkaException as error:
                    _LOG.warning("not committed; some requests are taken up again", error=str(error))
        self._forget(numbers)
        consumer.incremental_unassign(list(partitions))

    def _lost(self, consumer: Consumer, partitions: Sequence[TopicPartition]) -> None:
        self._forget([p.partition for p in partitions])
        consumer.incremental_unassign(list(partitions))

    def _forget(self, partitions: Sequence[int]) -> None:
        for partition in partitions:
            self._partitions.discard(partition)
            self._progress.forget(partition)
