"""The stream's clock: ticks, so that a quiet partition holds nobody up and the last rows get out.

Event time moves only with events, and a job's clock is that of its slowest partition. So the tail of the
source topic is watched, and a partition that has fallen silent is sent a tick: a message without key and
value whose timestamp is the watermark it stands for (the job adds its own disorder bound to it, so a tick
means the same to a job with another bound). It lies behind the partition's events, so it can never overtake
one, however far behind the job is.

- While others go on, a silent partition is ticked with the newest event time seen less the disorder bound,
  every `lag`: what was sent at the same time to several partitions must have arrived in all of them by then.
  A replay, where a moment of sending is an hour of events, gives more time.
- When all are silent for `quiet`, each is ticked once with that time itself: the clock reaches the last
  event, so that nothing newer than it can become late by a tick.
- Where windows wait to be closed, the clock goes on from there with the wall clock, the disorder bound behind
  it, from one end of a window to the next, for at most `advance`. An event that then comes is late when its
  own delay exceeds that of the newest event by more than the bound: as it would be among others. Not for
  replays, which have another pace.

Delivery: ticks are at-least-once and harmless to repeat; none is sent before the first event.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from confluent_kafka import (
    TIMESTAMP_NOT_AVAILABLE,
    Consumer,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)

from core.clock import Clock, SystemClock, from_millis
from core.settings import Settings
from core.telemetry.log import logger
from core.telemetry.metrics import counter
from features.view import FeatureView
from features.windows import Rolling
from schemas.broker import consumer, gathering, producer, watermarks
from schemas.headers import TICK, header, rfc3339

log = logger("jobs.on_flink.clock")
TICKS = counter("flink_ticks", "Ticks published to source topics", ("topic",))

NEWEST = "tick_newest"
"""Header of a tick: the newest event time behind it, in epoch milliseconds."""

QUIET = timedelta(milliseconds=100)
LAG = timedelta(milliseconds=250)
"""How far a silent partition's clock may be behind the others: so much later its windows come out."""

_MS = timedelta(milliseconds=1)
_LOOK_BACK = 200
_LOOK_EVERY_S = 30.0
_BATCH = 1_000
_POLL_S = 0.02
_RETRY_S = 1.0
_TIMEOUT_S = 5.0


@dataclass
class Ticker:
    """When which partition is due a tick. Times in epoch milliseconds, `now` in monotonic seconds.

    `_reached`: the watermark that a partition's last message stands for.
    """

    disorder_ms: int
    quiet_s: float
    lag_s: float
    advance_ms: int = 0
    every_ms: int = 1
    newest: int | None = None
    _reached: dict[int, int | None] = field(default_factory=dict)
    _touched: dict[int, float] = field(default_factory=dict)
    _event_at: float = 0.0

    def partitions(self, numbers: list[int], now: float) -> None:
        """All partitions of the topic; new ones join."""
        for number in numbers:
            self._reached.setdefault(number, None)
            self._touched.setdefault(number, now)

    def event(self, partition: int, at_ms: int, now: float) -> None:
        self.newest = at_ms if self.newest is None else max(self.newest, at_ms)
        self._event_at = now
        self._moved(partition, at_ms - self.disorder_ms, now)

    def tick(self, partition: int, at_ms: int, newest_ms: int | None, now: float) -> None:
        """A tick lies in the partition, ours or that of a clock before us."""
        if newest_ms is not None and (self.newest is None or newest_ms > self.newest):
            self.newest, self._event_at = newest_ms, now
        self._moved(partition, at_ms, now)

    def due(self, now: float) -> list[tuple[int, int]]:
        """(partition, watermark) for every partition that is to be ticked now."""
        if self.newest is None:
            return []
        silent_s = now - self._event_at
        if silent_s < self.quiet_s:
            target = self.newest - self.disorder_ms
        else:
            passed = min(max(int(silent_s * 1000) - self.disorder_ms, 0), self.advance_ms)
            target = max(self.newest, (self.newest + passed) // self.every_ms * self.every_ms)
        return [
            (partition, target)
            for partition, reached in sorted(self._reached.items())
            if (reached is None or reached < target) and now - self._touched[partition] >= self.lag_s
        ]

    def _moved(self, partition: int, at_ms: int, now: float) -> None:
        reached = self._reached.get(partition)
        self._reached[partition] = at_ms if reached is None else max(reached, at_ms)
        self._touched[partition] = now


@dataclass(frozen=True)
class Pace:
    """quiet: how long, by the wall clock, all partitions are silent before the last rows are let out. lag:
    how long one is silent before it is ticked. advance: how far the clock goes on by itself after the last
    event. every: how far apart the times are that matter then, the ends of windows."""

    quiet: timedelta
    lag: timedelta
    advance: timedelta
    every: timedelta

    @classmethod
    def of(cls, view: FeatureView, quiet: timedelta | None) -> "Pace":
        """Of a view whose events come as they happen; with `quiet` given, of a replay of recorded time."""
        if quiet is not None:
            return cls(quiet, quiet / 2, timedelta(0), _MS)
        quiet = max(QUIET, 2 * view.disorder)
        lag = min(quiet / 2, LAG)
        if isinstance(view.window, Rolling):
            return cls(quiet, lag, timedelta(0), _MS)
        return cls(quiet, lag, view.window.size, view.window.every)


class StreamClock:
    """Watches one topic and ticks it; `run` until `stop` is set.

    Nothing before the offsets of `since` is looked at. `beat` is called on every round, for the health of
    the process. Kafka being away is waited out.
    """

    def __init__(
        self,
        settings: Settings,
        topic: str,
        *,
        disorder: timedelta,
        pace: Pace,
        since: Mapping[int, int] | None = None,
        beat: Callable[[], None] = lambda: None,
        clock: Clock | None = None,
    ) -> None:
        self._settings = settings
        self._topic = topic
        self._since = since or {}
        self._beat = beat
        self._clock = clock or SystemClock()
        self._ticker = Ticker(
            disorder_ms=disorder // _MS,
            quiet_s=pace.quiet.total_seconds(),
            lag_s=pace.lag.total_seconds(),
            advance_ms=pace.advance // _MS,
            every_ms=pace.every // _MS,
        )

    def run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                self._watch(stop)
            except KafkaException as error:
                log.warning("the clock cannot reach Kafka", topic=self._topic, error=str(error))
                self._beat()
                stop.wait(_RETRY_S)

    def _watch(self, stop: threading.Event) -> None:
        # A tick that is published twice costs nothing, and a client without idempotence starts faster.
        ticks = producer(self._settings, linger_ms=0, enable_idempotence=False, delivery_timeout_ms=5_000)
        watcher = consumer(self._settings, None, queued_max_messages_kbytes=8_192, **gathering(20))
        try:
            partitions = self._assign(watcher)
            looked_at = self._clock.monotonic()
            while not stop.is_set():
                self._beat()
                messages = watcher.consume(_BATCH, _POLL_S)
                now = self._clock.monotonic()
                for message in messages:
                    self._see(message, now)
                if len(messages) < _BATCH:
                    for partition, at_ms in self._ticker.due(now):
                        self._publish(ticks, partition, at_ms, now)
                ticks.poll(0)
                if now - looked_at >= _LOOK_EVERY_S:
                    looked_at = now
                    if self._partitions(watcher) != partitions:
                        return
        finally:
            ticks.flush(1.0)
            watcher.close()

    def _assign(self, watcher: Consumer) -> list[int]:
        """Read from a little before the end of each partition: enough to know how far time has come."""
        partitions = self._partitions(watcher)
        starts = []
        for number in partitions:
            low, high = watermarks(watcher, TopicPartition(self._topic, number), _TIMEOUT_S)
            first = max(low, high - _LOOK_BACK, self._since.get(number, low))
            starts.append(TopicPartition(self._topic, number, first))
        watcher.assign(starts)
        self._ticker.partitions(partitions, self._clock.monotonic())
        return partitions

    def _partitions(self, watcher: Consumer) -> list[int]:
        found = watcher.list_topics(self._topic, timeout=_TIMEOUT_S).topics[self._topic]
        if found.error is not None:
            raise KafkaException(found.error)
        return sorted(found.partitions)

    def _see(self, message: Message, now: float) -> None:
        error = message.error()
        if error is not None:
            raise KafkaException(error)
        partition, headers = message.partition(), message.headers()
        kind, at_ms = message.timestamp()
        if partition is None or kind == TIMESTAMP_NOT_AVAILABLE:
            return
        if message.value() is None:
            newest = header(headers, NEWEST)
            known = int(newest) if newest is not None and newest.isdecimal() else None
            self._ticker.tick(partition, at_ms, known, now)
        else:
            self._ticker.event(partition, at_ms, now)

    def _publish(self, ticks: Producer, partition: int, at_ms: int, now: float) -> None:
        newest = self._ticker.newest or at_ms
        ticks.produce(
            self._topic,
            value=None,
            partition=partition,
            timestamp=at_ms,
            headers=[
                ("ce_type", TICK.encode()),
                ("ce_time", rfc3339(from_millis(at_ms)).encode()),
                (NEWEST, str(newest).encode()),
            ],
        )
        self._ticker.tick(partition, at_ms, newest, now)
        TICKS.labels(topic=self._topic).inc()
