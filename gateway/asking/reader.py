"""The reader of replies: one partition, by static assignment.

There is no group, so there is no rebalance to wait for. The partition may be another gateway's too: what is
not for this one's epoch is left undecoded. Reading begins at the end that the partition has when the reader
starts; nobody may ask before that is known. A thread reads, and wakes the event loop once for all that a
poll brought.
"""

import asyncio
import random
import threading
from collections.abc import Callable

from confluent_kafka import Consumer, KafkaException, TopicPartition

from core.errors import MillstreamError, Unavailable
from core.settings import Settings
from core.telemetry.log import logger
from gateway.asking.waiters import Waiters
from schemas.broker import consumer, watermarks
from schemas.catalog.asking import REPLIES, Reply
from schemas.codec import RecordCodec
from schemas.headers import header
from schemas.topic import Topic

_LOG = logger("gateway.replies")
_IDLE_S = 0.2
_MOST = 1_000
_FETCH_WAIT_MS = 100
_CALL_S = 2.0
_AGAIN_S = 0.5


class ReplyReader:
    """Feeds `waiters`. Made in their event loop. before: what must have succeeded once before anybody may
    ask, such as looking up the schemas of what is asked; it runs in the reader's thread."""

    def __init__(
        self,
        settings: Settings,
        codec: RecordCodec[Reply],
        waiters: Waiters,
        *,
        topic: Topic = REPLIES,
    ) -> None:
        given = settings.asking.reply_partition
        self.topic = topic.name
        self.partition = random.randrange(topic.partitions) if given is None else given
        self.before: list[Callable[[], None]] = [codec.warm]
        self._settings = settings
        self._codec = codec
        self._waiters = waiters
        self._loop = asyncio.get_running_loop()
        self._ready = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="replies", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Stop reading. Blocks, for two seconds at most."""
        self._stopping.set()
        self._thread.join(timeout=2.0)

    def require(self) -> None:
        """Raises Unavailable while no reply could be read."""
        if not self._ready:
            raise Unavailable("replies are not being read yet", code="replies_unavailable")

    def check(self) -> None:
        """Raises when the thread has ended, which it never should."""
        if not self._thread.is_alive():
            raise Unavailable("the thread that reads replies has ended")

    def _run(self) -> None:
        while not self._stopping.is_set():
            client: Consumer | None = None
            try:
                client = consumer(self._settings, None, fetch_wait_max_ms=_FETCH_WAIT_MS)
                place = TopicPartition(self.topic, self.partition)
                for prepare in self.before:
                    prepare()
                _, place.offset = watermarks(client, place, _CALL_S)
                client.assign([place])
                self._ready = True
                _LOG.info("reading replies", partition=self.partition, offset=place.offset)
                while not self._stopping.is_set():
                    self._turn(client)
            except (KafkaException, MillstreamError) as error:
                self._ready = False
                _LOG.warning("replies cannot be read", error=str(error))
                self._stopping.wait(_AGAIN_S)
            finally:
                if client is not None:
                    client.close()

    def _turn(self, client: Consumer) -> None:
        messages = client.consume(1, timeout=_IDLE_S)
        if not messages:
            return
        messages += client.consume(_MOST, timeout=0)
        epoch, come = self._waiters.epoch, []
        for message in messages:
            error = message.error()
            if error is not None:
                if error.fatal():
                    raise KafkaException(error)
                _LOG.warning("consumer event", error=error.str())
                continue
            correlation_id = header(message.headers(), "correlation_id") or ""
            if not correlation_id.startswith(epoch):
                continue
            try:
                come.append((correlation_id, self._codec.decode(message.value() or b"")))
            except MillstreamError as bad:
                _LOG.warning("a reply that cannot be read", offset=message.offset(), error=bad.what)
        if come:
            try:
                self._loop.call_soon_threadsafe(self._waiters.deliver, come)
            except RuntimeError:
                return  # the loop is closed: nobody waits any more
