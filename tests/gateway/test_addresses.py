"""Whose address counts: what a proxy that is trusted saw, and nothing that a client can invent."""

from ipaddress import ip_network

import pytest

from core.settings import Limits
from gateway.addresses import UNKNOWN, ClientAddress

ADDRESSES = ClientAddress([ip_network("127.0.0.0/8"), ip_network("10.0.0.0/24"), ip_network("fd00::/16")])


@pytest.mark.parametrize(
    ("peer", "forwarded", "counted"),
    [
        ("192.0.2.1", None, "192.0.2.1"),
        ("192.0.2.1", "198.51.100.7", "192.0.2.1"),
        ("10.0.0.9", "198.51.100.7", "198.51.100.7"),
        ("10.0.0.9", "1.1.1.1, 198.51.100.7", "198.51.100.7"),
        ("10.0.0.9", "1.1.1.1, 198.51.100.7, 127.0.0.1,10.0.0.3", "198.51.100.7"),
        ("10.0.0.9", "10.0.0.4, 10.0.0.3", "10.0.0.4"),
        ("10.0.0.9", "198.51.100.7, nonsense", "10.0.0.9"),
        ("10.0.0.9", "", "10.0.0.9"),
        ("10.0.0.9", "x, " * 10_000 + "198.51.100.7", "198.51.100.7"),
        ("10.0.0.9", ", ".join(["10.0.0.3"] * 10_000), "10.0.0.3"),
        ("10.0.0.9", "[2001:db8::1]", "2001:db8::/64"),
        ("2001:db8:0:1:aaaa::1", None, "2001:db8:0:1::/64"),
        ("2001:db8:0:1:bbbb::2", None, "2001:db8:0:1::/64"),
        ("::ffff:192.0.2.1", None, "192.0.2.1"),
        ("::ffff:10.0.0.9", "198.51.100.7", "198.51.100.7"),
        ("fd00::1", "198.51.100.7", "198.51.100.7"),
        ("", None, UNKNOWN),
        ("socket", "198.51.100.7", UNKNOWN),
    ],
)
def test_the_address_that_counts(peer: str, forwarded: str | None, counted: str) -> None:
    assert ADDRESSES.of(peer, forwarded) == counted


@pytest.mark.parametrize("peer", ["127.0.0.1", "::1"])
def test_a_local_balancer_is_believed_and_nobody_else(peer: str) -> None:
    addresses = ClientAddress(Limits().trusted_proxies)
    assert addresses.of(peer, "198.51.100.7") == "198.51.100.7"
    assert addresses.of("10.0.0.9", "198.51.100.7") == "10.0.0.9"
