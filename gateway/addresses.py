"""Where a request comes from, as far as that can be believed.

The other end of the connection is certain. Where it is one of the trusted proxies, the last address of
`X-Forwarded-For` is what that proxy saw, and so on through further trusted ones; what stands before the first
untrusted address may be invented and is not read. IPv6 clients have whole networks: theirs counts by its /64.
"""

from collections.abc import Sequence
from contextvars import ContextVar
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address
UNKNOWN = "unknown"
PEER: ContextVar[str] = ContextVar("peer", default=UNKNOWN)
"""The client's address of a socket, for what is called over it."""
_HOPS = 16
_KNOWN_LENGTH = 256


class ClientAddress:
    """The address that limits are counted for."""

    def __init__(self, trusted: Sequence[Network]) -> None:
        self._trusted = tuple(trusted)
        self._known = lru_cache(maxsize=4_096)(self._find)

    def of(self, peer: str, forwarded: str | None) -> str:
        """By the connection's other end and the field `X-Forwarded-For`."""
        if forwarded is not None and len(forwarded) > _KNOWN_LENGTH:
            return self._find(peer, forwarded)
        return self._known(peer, forwarded)

    def _find(self, peer: str, forwarded: str | None) -> str:
        nearest = _parse(peer)
        if nearest is None:
            return UNKNOWN
        if forwarded is not None:
            for part in reversed(forwarded.rsplit(",", _HOPS)[-_HOPS:]):
                if not self._is_trusted(nearest):
                    break
                before = _parse(part.strip())
                if before is None:
                    break
                nearest = before
        return _counted(nearest)

    def _is_trusted(self, address: Address) -> bool:
        return any(address in network for network in self._trusted)


def _parse(text: str) -> Address | None:
    try:
        found = ip_address(text.strip("[]"))
    except ValueError:
        return None
    if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
        return found.ipv4_mapped
    return found


def _counted(address: Address) -> str:
    if isinstance(address, IPv6Address):
        return str(IPv6Network((int(address) >> 64 << 64, 64)))
    return str(address)
