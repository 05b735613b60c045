"""The reader: one thread, one consumer without a group, every partition of every feed.

It starts as far back as the horizon (three checkpoint intervals and a margin, at least two minutes), so
that the ring and the filter for repeats know what another gateway, or this one before, pushed lately. At most
`_AHEAD` reads wait for the event loop. A topic that is not there is looked for again and again; without one
that is needed nothing is read.
"""

import hashlib
import threading
import time
from collections.abc import Sequence

from confluent_kafka import OFFSET_END, Consumer, KafkaException, Message, TopicCollection, TopicPartition

from core.clock import Clock, to_millis
from core.errors import MillstreamError, Unavailable
from core.settings import Settings
from core.telemetry.log import logger
from core.telemetry.metrics import counter, gauge
from gateway.push.feed import Feed, Fetched
from gateway.push.handover import Handover
from gateway.push.hub import Hub
from schemas.broker import admin, consumer, spaced, watermarks

_READ = 500
_POLL_S = 0.2
_SPACED_MS = 5
_RETRY_S = 0.5
_AHEAD = 8
_TIMEOUT_S = 5.0
_LOOK_AGAIN_S = 5.0
_log = logger("gateway.push.reader")
_UNREADABLE = counter(
    "gateway_push_unreadable_total", "Messages that could not be decoded for pushing", ["channel"]
)
_LAG = gauge("gateway_push_lag_records", "Messages behind the end of a topic that is pushed", ["channel"])
_LAG_S = 5.0


def horizon_s(settings: Settings) -> float:
    """How far back repeats are looked for, in seconds."""
    return max(120.0, 3 * settings.flink.checkpoint_interval_s + 60.0)


class PushReader:
    """Runs from `start` to `close`. `check` raises what a health probe should tell."""

    def __init__(self, settings: Settings, feeds: Sequence[Feed], hub: Hub, clock: Clock) -> None:
        self._settings = settings
        self._feeds = {feed.topic.name: feed for feed in feeds}
        self._clock = clock
        self._stopping = threading.Event()
        self._handover = Handover(hub, ahead=_AHEAD)
        self._beat = time.monotonic()
        self._lag_at = self._beat
        self._starts: dict[tuple[str, int], int] = {}
        self._thread = threading.Thread(target=self._run, name="push-reader", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Stop reading; blocks for at most a few seconds."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=_TIMEOUT_S)

    def check(self) -> None:
        """Raises when the thread is dead or stuck."""
        if not self._thread.is_alive():
            raise Unavailable("the push reader is dead")
        silent = time.monotonic() - self._beat
        if silent > 30.0:
            raise Unavailable(f"the push reader has not moved for {silent:.0f} s")

    def _run(self) -> None:
        while not self._stopping.is_set():
            client = consumer(self._settings, None, **spaced(_SPACED_MS))
            try:
                self._starts.clear()
                missing = self._open(client, list(self._feeds.values()))
                while not self._stopping.is_set():
                    self._read(client, _LOOK_AGAIN_S if missing else float("inf"))
                    missing = self._open(client, missing)
            except (KafkaException, MillstreamError) as error:
                _log.warning("push is not being read", reason=str(error).splitlines()[0])
                self._beat = time.monotonic()
                self._stopping.wait(_RETRY_S)
            except Exception:
                _log.exception("the push reader failed; it starts again")
                self._stopping.wait(_RETRY_S)
            finally:
                client.close()

    def _open(self, client: Consumer, feeds: Sequence[Feed]) -> list[Feed]:
        """Find where every partition starts, tell the hub, and assign, beside what is read already. Returns
        the feeds whose topics are not there; raises Unavailable for one that is needed."""
        since_ms = to_millis(self._clock.now()) - int(horizon_s(self._settings) * 1000)
        there, missing = {}, []
        for feed in feeds:
            self._beat = time.monotonic()
            topic = feed.topic.name
            known = client.list_topics(topic, timeout=_TIMEOUT_S).topics[topic]
            if known.error is None and known.partitions:
                there[topic] = (feed, list(known.partitions))
            elif feed.needed:
                raise Unavailable(f"topic {topic} is not there", mend="run `millstream apply`")
            else:
                missing.append(feed)
        if not there:
            return missing
        epochs = topic_epochs(self._settings, list(there))
        for place in client.position(client.assignment()):
            if place.offset >= 0:  # something was read
                self._starts[place.topic, place.partition] = place.offset
        for topic, (feed, partitions) in there.items():
            asked = [TopicPartition(topic, partition, since_ms) for partition in partitions]
            floors = {}
            for found in client.offsets_for_times(asked, timeout=_TIMEOUT_S):
                low, high = watermarks(client, found, _TIMEOUT_S)
                offset = high if found.offset in (OFFSET_END, -1) else max(low, found.offset)
                floors[found.partition] = offset
                self._starts[topic, found.partition] = offset
            self._handover.opened(feed.name, epochs[topic], floors)
        client.assign([TopicPartition(*place, offset) for place, offset in self._starts.items()])
        return missing

    def _read(self, client: Consumer, within_s: float) -> None:
        until = time.monotonic() + within_s
        while not self._stopping.is_set() and time.monotonic() < until:
            self._beat = time.monotonic()
            self._tell_lag(client)
            first = client.poll(_POLL_S)
            if first is None:
                continue
            messages = [first, *client.consume(_READ - 1, timeout=0)]
            by_topic: dict[str, list[Message]] = {}
            for message in messages:
                error = message.error()
                if error is None:
                    by_topic.setdefault(str(message.topic()), []).append(message)
                elif error.fatal() or not error.retriable():
                    _log.warning("reading for push", reason=error.str())
            for topic, found in by_topic.items():
                self._decode(self._feeds[topic], found)

    def _tell_lag(self, client: Consumer) -> None:
        """Asks no broker."""
        if self._beat - self._lag_at < _LAG_S:
            return
        self._lag_at = self._beat
        behind: dict[str, int] = {}
        for place in client.position(client.assignment()):
            _, high = client.get_watermark_offsets(place, cached=True)
            if place.offset >= 0:  # something was read
                behind[place.topic] = behind.get(place.topic, 0) + max(0, high - place.offset)
        for topic, feed in self._feeds.items():
            _LAG.labels(feed.name).set(behind.get(topic, 0))

    def _decode(self, feed: Feed, messages: Sequence[Message]) -> None:
        fetched = [fetched_of(message) for message in messages]
        while True:
            try:
                entries = feed.entries(fetched)
                break
            except Unavailable as error:  # a new schema, and the registry is away
                self._beat = time.monotonic()
                _log.warning("push waits for the registry", reason=error.what)
                if self._stopping.wait(_RETRY_S):
                    return
        if len(entries) < len(fetched):
            _UNREADABLE.labels(feed.name).inc(len(fetched) - len(entries))
        reached = {message.partition: message.offset for message in fetched}
        self._handover.read(feed.name, entries, reached, unless=self._stopping)


def fetched_of(message: Message) -> Fetched:
    """A Kafka message as the feeds take it."""
    return Fetched(
        partition=message.partition() or 0,
        offset=message.offset() or 0,
        at_ms=message.timestamp()[1],
        value=message.value(),
    )


def topic_epochs(settings: Settings, topics: Sequence[str]) -> dict[str, int]:
    """A number that changes when a topic is deleted and made again: 63 bits of the digest of its id."""
    client = admin(settings)  # the futures fail when it is let go before they are done
    described = client.describe_topics(TopicCollection(list(topics)), request_timeout=_TIMEOUT_S)
    epochs = {}
    for topic, future in described.items():
        identity = str(future.result().topic_id)
        epochs[topic] = int.from_bytes(hashlib.sha256(identity.encode()).digest()[:8]) >> 1
    return epochs
