"""Dead letters: a message that could not be handled, with the reason, once, out of the way.

Key, value and headers are the original's, byte for byte; `dlq_*` headers say why, at which stage, and from
which topic, partition and offset. The partition of the source moves on.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Protocol

from core.clock import EPOCH, Clock, SystemClock, to_millis
from core.errors import DeclarationError
from schemas.headers import Headers, dead_letter_headers, header, pairs_of

Stage = Literal["decode", "features", "model", "decide", "store"]
STAGES = ("decode", "features", "model", "decide", "store")
REQUEUED = "dlq_requeued"
REASON_LIMIT = 2000  # characters of a reason kept; a stack of text must not outgrow the message


class KafkaMessage(Protocol):
    """The part of confluent_kafka's Message that a dead letter needs."""

    def topic(self) -> str | None: ...
    def partition(self) -> int | None: ...
    def offset(self) -> int | None: ...
    def key(self) -> Any: ...
    def value(self) -> Any: ...
    def headers(self) -> Any: ...


class Produces(Protocol):
    """The part of confluent_kafka's Producer that a dead letter needs."""

    def produce(self, topic: str, *args: Any, **kwargs: Any) -> None: ...


@dataclass(frozen=True)
class DeadLetter:
    """One message of a dead-letter topic: the original and why it is here."""

    key: bytes | None
    value: bytes | None
    headers: Headers
    reason: str
    code: str
    stage: str
    topic: str
    partition: int
    offset: int
    at: str
    job: str

    @classmethod
    def read(cls, message: KafkaMessage) -> "DeadLetter":
        """From a message of a `.dlq` topic. Raises DeclarationError when it carries no `dlq_` headers."""
        given = message.headers()
        found = {
            name: header(given, f"dlq_{name}")
            for name in ("reason", "code", "stage", "topic", "partition", "offset", "at", "job")
        }
        missing = [name for name, value in found.items() if value is None]
        if missing:
            raise DeclarationError(
                f"no dead letter: without {', '.join(f'dlq_{name}' for name in missing)}",
                where=f"{message.topic()}[{message.partition()}]@{message.offset()}",
                mend="read a topic whose name ends in .dlq",
            )
        text = {name: value or "" for name, value in found.items()}
        return cls(
            key=message.key(),
            value=message.value(),
            headers=[pair for pair in pairs_of(given) if not pair[0].startswith("dlq_")],
            reason=text["reason"],
            code=text["code"],
            stage=text["stage"],
            topic=text["topic"],
            partition=int(text["partition"]),
            offset=int(text["offset"]),
            at=text["at"],
            job=text["job"],
        )

    @property
    def timestamp_ms(self) -> int | None:
        """The original's event time, from its header `ce_time`; None when it tells none."""
        told = header(self.headers, "ce_time")
        try:
            at = datetime.fromisoformat(told) if told else None
        except ValueError:
            return None
        return to_millis(at) if at is not None and at.tzinfo is not None and at >= EPOCH else None

    def requeue(
        self, producer: Produces, mark: str, on_delivery: Callable[[Any, Any], None] | None = None
    ) -> None:
        """Send the original to where it came from: bytes, headers and, where they tell it, the event time as
        message timestamp. Of the `dlq_` headers it gets one, `dlq_requeued`, with `mark`."""
        at_ms = self.timestamp_ms
        more: dict[str, Any] = {} if on_delivery is None else {"on_delivery": on_delivery}
        if at_ms is not None:
            more["timestamp"] = at_ms
        headers = [*self.headers, (REQUEUED, mark.encode())]
        producer.produce(self.topic, key=self.key, value=self.value, headers=headers, **more)


def dead_letter(
    producer: Produces,
    message: KafkaMessage,
    code: str,
    reason: str,
    stage: Stage,
    job: str,
    *,
    clock: Clock | None = None,
    on_delivery: Callable[[Any, Any], None] | None = None,
) -> None:
    """Queue the message for `<topic>.dlq`. The caller flushes before it commits the source's offset, so
    that a message is dead-lettered at least once and never lost."""
    at: datetime = (clock or SystemClock()).now()
    topic = message.topic() or ""
    headers: Sequence[tuple[str, bytes]] = dead_letter_headers(
        message.headers(),
        reason=reason[:REASON_LIMIT],
        code=code,
        stage=stage,
        topic=topic,
        partition=-1 if (partition := message.partition()) is None else partition,
        offset=-1 if (offset := message.offset()) is None else offset,
        at=at,
        job=job,
    )
    more = {} if on_delivery is None else {"on_delivery": on_delivery}
    producer.produce(f"{topic}.dlq", key=message.key(), value=message.value(), headers=headers, **more)
