"""Who waits for an answer, and where: what the headers of a request say.

A correlation id is `EPOCH-NUMBER`: the epoch is made when a gateway starts, so that an answer to one that
died is known to be nobody's. `reply_to` is `TOPIC/PARTITION`, the one partition that the gateway reads.
"""

from typing import Any

import msgspec

from schemas.headers import pairs_of

_NAMES = ("correlation_id", "reply_to")


class Address(msgspec.Struct, frozen=True):
    """Where an answer goes. partition: None where nobody waits; then the key decides."""

    correlation_id: str
    topic: str
    partition: int | None


def reply_to(topic: str, partition: int | None = None) -> str:
    """The value of the header `reply_to`."""
    return topic if partition is None else f"{topic}/{partition}"


def address_of(headers: Any, allowed: str) -> Address | None:
    """The address in the headers of a message; None where they hold none that can be answered to.

    Only the topic `allowed` is answered to, so that no message can have us write elsewhere.
    """
    found = {name: value for name, value in pairs_of(headers) if name in _NAMES}
    correlation_id, to = (found.get(name, b"").decode("utf-8", "replace") for name in _NAMES)
    if not correlation_id or not to:
        return None
    topic, _, number = to.partition("/")
    if topic != allowed:
        return None
    if not number:
        return Address(correlation_id, topic, None)
    if not number.isascii() or not number.isdigit() or len(number) > 5:
        return None
    return Address(correlation_id, topic, int(number))
