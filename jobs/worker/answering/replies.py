"""Replies: pieces and ends of answers, on their way to those who wait for them."""

import asyncio
import functools
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from core.clock import Clock, to_millis
from core.errors import TooLarge
from core.telemetry.log import logger
from pipelines.asking.addresses import Address
from pipelines.asking.failures import failure_of
from pipelines.asking.outcomes import FAILED, End
from schemas.catalog.asking import Reply
from schemas.codec import RecordCodec
from schemas.headers import event_headers
from schemas.keys import key_of

_LOG = logger("answering.replies")
_FULL_WAIT_S = 0.005

Acknowledged = Callable[[], None]


class Replies:
    """Produces from the event loop. What Kafka does not take in the end is told to `broken`, from the thread
    that polls the producer; so is what it acknowledged to the `Acknowledged` of a message."""

    def __init__(
        self,
        producer: Producer,
        codec: RecordCodec[Reply],
        *,
        pipeline: str,
        clock: Clock,
        broken: Callable[[str], None],
    ) -> None:
        self._producer = producer
        self._codec = codec
        self._pipeline = pipeline
        self._clock = clock
        self._broken = broken

    def pieces(
        self, to: Iterable[Address], tenant: str, id: str, attempt: str, number: int, pieces: list[bytes]
    ) -> None:
        """A frame, best effort: it is left out where the producer's queue is full, and the end tells how many
        pieces there were."""
        reply = Reply(
            tenant=tenant, id=id, pipeline=self._pipeline, replied_at=self._clock.now(),
            attempt=attempt, number=number, pieces=pieces,
        )  # fmt: skip
        try:
            value = self._codec.encode(reply)
            for address in to:
                self._produce(reply, value, address, None)
        except (BufferError, TooLarge) as error:
            _LOG.warning("a frame was left out", id=id, pieces=len(pieces), error=repr(error))

    async def end(self, to: Address, tenant: str, id: str, end: End, acknowledged: Acknowledged) -> None:
        """The end of an answer; waits while the producer's queue is full."""
        reply = Reply(
            tenant=tenant, id=id, pipeline=self._pipeline, replied_at=self._clock.now(),
            attempt=end.attempt, number=end.pieces, last=True, state=end.state, status=end.status,
            body=end.body, failure=end.failure,
        )  # fmt: skip
        try:
            value = self._codec.encode(reply)
        except TooLarge as error:
            value = self._codec.encode(_instead(reply, error))
        while True:
            try:
                self._produce(reply, value, to, acknowledged)
                return
            except BufferError:
                await asyncio.sleep(_FULL_WAIT_S)

    def _produce(self, reply: Reply, value: bytes, to: Address, acknowledged: Acknowledged | None) -> None:
        more: dict[str, Any] = {} if to.partition is None else {"partition": to.partition}
        try:
            self._producer.produce(
                to.topic,
                value=value,
                key=key_of(reply.tenant, reply.id),
                headers=event_headers(
                    id=reply.id,
                    source=self._pipeline,
                    type=self._codec.spec.full_name,
                    time=reply.replied_at,
                    tenant=reply.tenant,
                    received_at=reply.replied_at,
                    correlation_id=to.correlation_id,
                ),
                timestamp=to_millis(reply.replied_at),
                on_delivery=functools.partial(self._delivered, acknowledged),
                **more,
            )
        except KafkaException as error:
            self._failed(error.args[0], acknowledged)

    def _delivered(self, acknowledged: Acknowledged | None, error: KafkaError | None, _: Message) -> None:
        if error is not None:
            self._failed(error, acknowledged)
        elif acknowledged is not None:
            acknowledged()

    def _failed(self, error: KafkaError, acknowledged: Acknowledged | None) -> None:
        if error.code() in (KafkaError._UNKNOWN_PARTITION, KafkaError._UNKNOWN_TOPIC):
            _LOG.warning("nobody can be answered there", error=error.str())
            if acknowledged is not None:
                acknowledged()
            return
        self._broken(error.str())


def _instead(reply: Reply, error: TooLarge) -> Reply:
    return msgspec.structs.replace(
        reply, state=FAILED, status=0, body=b"", failure=failure_of(error), pieces=[]
    )
