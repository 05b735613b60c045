"""Who waits for an answer, and where: what the headers of a request say.

A correlation id is `EPOCH-NUMBER`: the epoch is made when a gateway starts, so that an answer to one that
died is known to be nobody's. `reply_to` is `TOPIC/PARTITION`, the one partition that the gateway reads.
"""

from dataclasses import dataclass
from typing import Any

from schemas.headers import header


@dataclass(frozen=True, slots=True)
class Address:
    """Where an answer goes. partition: None where nobody waits; then the key decides."""

    correlation_id: str
    topic: str
    partition: int | None

    @property
    def text(self) -> str:
        """The value of the header `reply_to`."""
        return self.topic if self.partition is None else f"{self.topic}/{self.partition}"


def address_of(headers: Any, allowed: str) -> Address | None:
    """The address in the headers of a message; None where they hold none that can be answered to.

    Only the topic `allowed` is answered to, so that no message can have us write elsewhere.
    """
    correlation_id, reply_to = header(headers, "correlation_id"), header(headers, "reply_to")
    if not correlation_id or not reply_to:
        return None
    topic, _, number = reply_to.partition("/")
    if topic != allowed:
        return None
    if not number:
        return Address(correlation_id, topic, None)
    if not number.isascii() or not number.isdigit() or len(number) > 5:
        return None
    return Address(correlation_id, topic, int(number))
