"""Only the replies topic is answered to, and only at a partition that is a number."""

from typing import Any

import pytest

from pipelines.asking import addresses
from pipelines.asking.addresses import Address, address_of

TOPIC = "millstream.asking.replies.v1"


def headers(correlation_id: bytes | None, reply_to: bytes | None) -> Any:
    pairs = [("correlation_id", correlation_id), ("reply_to", reply_to)]
    return [pair for pair in pairs if pair[1] is not None]


@pytest.mark.parametrize("address", [Address("e-1", TOPIC, 3), Address("e-2", TOPIC, None)])
def test_an_address_comes_back(address: Address) -> None:
    to = addresses.reply_to(address.topic, address.partition)
    assert address_of(headers(address.correlation_id.encode(), to.encode()), TOPIC) == address


@pytest.mark.parametrize(
    "reply_to",
    [None, b"", b"fraud.transactions.results.v1/0", b"/0", f"{TOPIC}/-1".encode(), f"{TOPIC}/1/2".encode(),
     f"{TOPIC}/x".encode(), f"{TOPIC}/999999".encode(), f"{TOPIC}/\u0663".encode(), b"\xff\xff"],
)  # fmt: skip
def test_anything_else_is_none(reply_to: bytes | None) -> None:
    assert address_of(headers(b"e-1", reply_to), TOPIC) is None
    assert address_of(headers(None, f"{TOPIC}/1".encode()), TOPIC) is None
    assert address_of(None, TOPIC) is None
