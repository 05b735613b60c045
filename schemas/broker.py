"""Kafka clients with the defaults that were measured to matter.

- `partitioner=murmur2_random` puts a key where the JVM clients put it (librdkafka's own default does not).
- `fetch.queue.backoff.ms` is 1,000 by default and starves a consumer that is faster than its queue
  threshold: 45 us a record against 18 us with 2 ms.
- `fetch.wait.max.ms` of 10 to 50 bounds the latency of a quiet topic.
- `gathering`: at 200 events a second each event on its own wakes every thread on its way, and those wake-ups
  are most of the CPU. A consumer that lets the broker gather for 10 ms works in fewer, larger steps; when
  there is more than `GATHER_BYTES` to read it waits for nothing.
- `spaced`: what is wanted at once cannot wait for that. Here a fetch waits for the first message and answers
  with it; what comes in the next 5 ms is of one fetch. On 4 partitions, medians of one run: at 1,000 events a
  second one is read after 3.5 ms instead of 4.2 with `gathering(5)`, at 64 after 0.7 ms instead of 4.0, and
  where nothing comes a broker spends 0.05 of a core instead of 0.20.
- Producers wait for `acks=all` and are idempotent; nothing is committed behind the caller's back; nobody
  creates a topic by naming it.
"""

import socket
import time
import uuid
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from core.errors import Unavailable
from core.settings import Settings

LINGER_MS = 2
FETCH_WAIT_MS = 20
GATHER_BYTES = 65_536
_AGAIN_S = 0.1
_LEADER_MOVES = frozenset(
    {
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError._UNKNOWN_PARTITION,  # so far to this client
    }
)


def producer_config(settings: Settings, **more: Any) -> dict[str, Any]:
    """The librdkafka settings of a producer. Keyword names have underscores for dots."""
    return {
        **_client(settings),
        "acks": "all",
        "enable.idempotence": True,
        "partitioner": "murmur2_random",
        "linger.ms": LINGER_MS,
        "compression.type": "lz4",
        "delivery.timeout.ms": 30_000,
        "queue.buffering.max.messages": 100_000,
        "queue.buffering.max.kbytes": 262_144,
        **_dotted(more),
    }


def consumer_config(settings: Settings, group: str | None, **more: Any) -> dict[str, Any]:
    """The librdkafka settings of a consumer. Without a group it can only be assigned, and never commits."""
    return {
        **_client(settings),
        # librdkafka wants a name even where no group is joined; a fresh one shares no offsets
        "group.id": group or f"ungrouped-{uuid.uuid4()}",
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "earliest",
        "allow.auto.create.topics": False,
        "isolation.level": "read_committed",
        "fetch.queue.backoff.ms": 2,
        "fetch.wait.max.ms": FETCH_WAIT_MS,
        "queued.max.messages.kbytes": 65_536,
        "session.timeout.ms": 10_000,
        "heartbeat.interval.ms": 2_000,
        "max.poll.interval.ms": 120_000,
        **_dotted(more),
    }


def producer(settings: Settings, **more: Any) -> Producer:
    """A producer: `acks=all`, idempotent, in order per partition, waits 2 ms to fill a request."""
    return Producer(producer_config(settings, **more))


def asking_producer(settings: Settings, **more: Any) -> Producer:
    """A producer of questions and answers. Somebody waits for each, so none waits for a request to fill; a
    request has few of them, each read once and soon, so compressing them costs this process, the broker that
    checks them and the reader more than their bytes do."""
    return producer(settings, linger_ms=0, compression_type="none", **more)


def consumer(settings: Settings, group: str | None, **more: Any) -> Consumer:
    """A consumer that commits only when told. With `group` None use `assign`, not `subscribe`."""
    return Consumer(consumer_config(settings, group, **more))


def watermarks(reader: Consumer, place: TopicPartition, timeout_s: float) -> tuple[int, int]:
    """(oldest offset, next offset) of a partition, asked of its leader.

    A partition that was just made, or whose broker went away, has no leader for a moment: librdkafka
    reports that at once, here it is asked again until `timeout_s`. Raises KafkaException.
    """
    end = time.monotonic() + timeout_s
    while True:
        try:
            low, high = reader.get_watermark_offsets(place, timeout=timeout_s)
            return low, high
        except KafkaException as error:
            if error.args[0].code() not in _LEADER_MOVES or time.monotonic() > end:
                raise
            time.sleep(_AGAIN_S)


def require(settings: Settings, timeout_s: float = 1.0) -> None:
    """Raises Unavailable where no bootstrap address takes a connection, each tried for `timeout_s`; for who
    can go on without Kafka and would wait out a client's timeout."""
    for address in settings.kafka.address.split(","):
        host, _, port = address.strip().rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout_s).close()
            return
        except (OSError, ValueError):
            continue
    raise Unavailable("no broker takes a connection", where=settings.kafka.address)


def gathering(wait_ms: float) -> dict[str, Any]:
    """Keywords for `consumer`: fetches that wait `wait_ms`, or for 64 KiB, whichever is first."""
    return {"fetch_wait_max_ms": max(1, round(wait_ms)), "fetch_min_bytes": GATHER_BYTES}


def spaced(by_ms: float) -> dict[str, Any]:
    """Keywords for `consumer`: a message is fetched when it comes, but `by_ms` after those that are being
    read at that time. librdkafka does not fetch while more than `queued.min.messages` wait for their reader,
    and looks again after the backoff.

    The one fetch that a broker is asked for at a time names the other partitions only, and where nothing
    comes on these, what comes on the left out ones waits for its end: so it may not wait long."""
    return {
        "fetch_wait_max_ms": max(1, round(2 * by_ms)),
        "fetch_min_bytes": 1,
        "queued_min_messages": 1,
        "fetch_queue_backoff_ms": max(1, round(by_ms)),
    }


def admin(settings: Settings, **more: Any) -> AdminClient:
    return AdminClient({**_client(settings), **_dotted(more)})


def _client(settings: Settings) -> dict[str, Any]:
    return {
        "bootstrap.servers": settings.kafka.address,
        # a broker that was restarted is tried again within a second, not ten
        "reconnect.backoff.ms": 50,
        "reconnect.backoff.max.ms": 1_000,
        "log_level": 3,
        **settings.kafka.security,
    }


def _dotted(more: dict[str, Any]) -> dict[str, Any]:
    """`linger_ms=5` as `linger.ms`; callbacks keep their underscores."""
    kept = {"log_level", "on_commit", "on_delivery"}
    return {
        name if name in kept or name.endswith("_cb") else name.replace("_", "."): value
        for name, value in more.items()
    }
