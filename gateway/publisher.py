"""Producing from an event loop: many messages, one acknowledgement per request, one wake-up per batch.

librdkafka calls back per message, in the thread that polls, which takes the interpreter's lock for each. A
thread of the publisher's own polls while little is in flight: it is woken as soon as something is
acknowledged, and wakes the loop once for all that came. While much is in flight the loop itself looks, each
millisecond: it has the lock, and a thread that wants it for every message costs both more than the message.
What is in flight is counted and bounded; above the bound, and while the broker is known to be away,
publishing is refused at once instead of waiting for a timeout.

Promise: a result of None means that Kafka acknowledged with acks=all. An error means that it did not in
time; the message may have been written all the same, and consumers drop repeats by (tenant, id).
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

import msgspec
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from core.errors import MillstreamError, QueueFull, TooLarge, Unavailable
from core.telemetry.log import logger
from core.turns import MOST
from schemas.headers import Headers

_POLL_S = 0.1
_MUCH, _LOOK_S = 16, 0.001
_CHECK_TIMEOUT_S = 1.0
_AWAY_AFTER = 2
_log = logger("gateway.publisher")

Outcome = MillstreamError | None


class Outgoing(msgspec.Struct, frozen=True):
    """One message. `at_ms` is its event time, the timestamp it has on Kafka."""

    topic: str
    key: str
    value: bytes
    headers: Headers
    at_ms: int


class _Batch:
    __slots__ = ("future", "left", "outcomes")

    def __init__(self, size: int, future: "asyncio.Future[list[Outcome]]") -> None:
        self.left = size
        self.outcomes: list[Outcome] = [None] * size
        self.future = future


_Delivered = tuple[_Batch, int, KafkaError | None]


class Publisher:
    """`publish` is for the event loop that made it; `check` is for a background thread."""

    def __init__(self, make: Callable[[], Producer], *, max_in_flight: int) -> None:
        self._make = make
        self._producer = make()
        self._loop = asyncio.get_running_loop()
        self._max = max_in_flight
        self._in_flight = 0
        self._failures = 0
        self._done: deque[_Delivered] = deque()  # of whichever thread polls
        self._little = threading.Event()
        self._little.set()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)
        self._thread.start()

    @property
    def in_flight(self) -> int:
        """Messages that wait for their acknowledgement."""
        return self._in_flight

    @property
    def alive(self) -> bool:
        """Whether the thread that takes acknowledgements runs."""
        return self._thread.is_alive()

    def require(self, count: int) -> None:
        """Raise QueueFull when `count` more would not fit in flight, Unavailable when no broker answers."""
        if self._failures >= _AWAY_AFTER:
            raise kafka_away("no broker answers")
        if self._in_flight + count > self._max:
            raise QueueFull(f"{self._in_flight} events await Kafka's acknowledgement", retry_after_s=1.0)

    async def publish(self, messages: Sequence[Outgoing]) -> list[Outcome]:
        """Produce all and wait for every acknowledgement; one outcome per message, in order.

        Raises what `require` raises, before anything is produced.
        """
        self.require(len(messages))
        if not messages:
            return []
        batch = _Batch(len(messages), self._loop.create_future())
        self._in_flight += len(messages)
        producer = self._producer
        for index, message in enumerate(messages):
            try:
                producer.produce(
                    message.topic,
                    value=message.value,
                    key=message.key,
                    headers=message.headers,
                    timestamp=message.at_ms,
                    on_delivery=partial(self._delivered, batch, index),
                )
            except BufferError:
                self._settle_one(batch, index, QueueFull("the producer's buffer is full"))
            except KafkaException as error:
                self._settle_one(batch, index, _error_of(error.args[0]))
        if self._in_flight > _MUCH and self._little.is_set():
            self._little.clear()
            self._loop.call_later(_LOOK_S, self._look)
        return await batch.future

    def check(self) -> None:
        """Ask the broker whether it is there; raises Unavailable. Two failures in a row refuse publishing."""
        try:
            self._producer.list_topics(timeout=_CHECK_TIMEOUT_S)
        except KafkaException as error:
            self._failures += 1
            raise kafka_away(str(error.args[0].str())) from error
        self._failures = 0

    def close(self, timeout_s: float) -> None:
        """Wait, at most `timeout_s`, for what is in flight; then stop the thread. Blocks."""
        self._producer.flush(timeout_s)
        self._stopping.set()
        self._thread.join(timeout=2.0)

    def _delivered(self, batch: _Batch, index: int, error: KafkaError | None, _: Message) -> None:
        self._done.append((batch, index, error))

    def _look(self) -> None:
        """While much is in flight, until nothing is."""
        try:
            self._producer.poll(0)
        finally:
            if done := self._taken():
                self._settle(done)
            if self._in_flight:
                self._loop.call_later(_LOOK_S, self._look)
            else:
                self._little.set()

    def _run(self) -> None:
        while not self._stopping.is_set():
            producer = self._producer
            if self._little.wait(_POLL_S):
                producer.poll(_POLL_S)
                self._hand_over()
            if self._fatal:
                _log.error("the producer failed for good; a new one takes over", reason=str(self._fatal))
                self._fatal = None
                self._producer = self._make()
                producer.purge()
                producer.flush(1.0)
                self._hand_over()
        self._hand_over()

    _fatal: KafkaError | None = None

    def _taken(self) -> list[_Delivered]:
        done: list[_Delivered] = []
        with suppress(IndexError):
            while True:
                done.append(self._done.popleft())
        for _, _, error in done:
            if error is not None and error.fatal():
                self._fatal = error
        return done

    def _hand_over(self) -> None:
        """One wake-up of the loop for everything that the last poll brought."""
        if done := self._taken():
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._settle, done)

    def _settle(self, done: list[_Delivered]) -> None:
        if len(done) > MOST:
            self._loop.call_soon(self._settle, done[MOST:])
        for batch, index, error in done[:MOST]:
            self._settle_one(batch, index, None if error is None else _error_of(error))

    def _settle_one(self, batch: _Batch, index: int, outcome: Outcome) -> None:
        batch.outcomes[index] = outcome
        batch.left -= 1
        self._in_flight -= 1
        if batch.left == 0 and not batch.future.done():
            batch.future.set_result(batch.outcomes)


def kafka_away(reason: str) -> Unavailable:
    return Unavailable(
        f"Kafka did not acknowledge: {reason}",
        code="kafka_unavailable",
        mend="send it again; the same id is taken once",
        retry_after_s=1.0,
    )


def _error_of(error: KafkaError) -> MillstreamError:
    if error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
        return TooLarge("the event is larger than its topic takes")
    if error.code() == KafkaError._QUEUE_FULL:
        return QueueFull("the producer's buffer is full")
    return kafka_away(error.str())
