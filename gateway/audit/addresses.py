"""Of a client's address what may be kept for years."""

from functools import lru_cache
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Literal

_KEPT_BITS = {4: 24, 6: 48}


@lru_cache(4096)
def kept_address(address: str, how: Literal["network", "whole", "none"]) -> str:
    """`192.0.2.17` as `192.0.2.0/24`, of IPv6 the first 48 bits, whole, or nothing; what is no address is
    nothing."""
    if how == "none":
        return ""
    try:
        given = ip_address(address.partition("%")[0])
    except ValueError:
        return ""
    if isinstance(given, IPv6Address) and given.ipv4_mapped is not None:
        given = given.ipv4_mapped
    if how == "whole":
        return str(given)
    return str(ip_network((given, _KEPT_BITS[given.version]), strict=False))
