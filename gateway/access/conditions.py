"""The attributes that a policy can look at, and what it can say of each.

    time            "22:00-06:00": from the first minute on, up to the second, which is not in it
    weekday         ["sat", "sun"]: of the day that it is at that moment
    timezone        where the clock stands that `time` and `weekday` mean; UTC without
    network         ["10.0.0.0/8"]: the client's address lies in one of them
    outside_network the same, and lies in none of them; an address that is not known lies in none
    amount_above    1000000: the record's `amount_cents` is more; a record without one is not
    data_class      ["restricted"]: of the topic that the request is about, with its record's fields

All that are named must hold. What a request does not have does not hold.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, tzinfo
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from core.errors import DeclarationError, UnknownName
from schemas.classes import DATA_CLASSES

ATTRIBUTES = (
    "time", "weekday", "timezone", "network", "outside_network", "amount_above", "data_class"
)  # fmt: skip
WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_MOST = 64
_NARROWEST_IPV6 = 64

Network = IPv4Network | IPv6Network


@dataclass(frozen=True)
class Circumstances:
    """What is known of a request. `address` is that of `gateway.addresses`; `amount` is None until the record
    was read, or where it has none."""

    at: datetime
    address: str = ""
    data_class: str | None = None
    amount: int | None = None


@dataclass(frozen=True)
class Conditions:
    """Those of one policy; None where it says nothing."""

    time: tuple[time, time] | None = None
    weekday: frozenset[int] | None = None
    timezone: tzinfo = UTC
    network: tuple[Network, ...] | None = None
    outside_network: tuple[Network, ...] | None = None
    amount_above: int | None = None
    data_class: frozenset[str] | None = None
    given: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def hold(self, of: Circumstances) -> bool:
        """Whether all hold, but for the amount."""
        if self.data_class is not None and of.data_class not in self.data_class:
            return False
        if self.network is not None and not _within(of.address, self.network):
            return False
        if self.outside_network is not None and _within(of.address, self.outside_network):
            return False
        if self.time is None and self.weekday is None:
            return True
        there = of.at.astimezone(self.timezone)
        if self.weekday is not None and there.weekday() not in self.weekday:
            return False
        return self.time is None or _between(there.time(), *self.time)


def conditions(given: Mapping[str, Any], *, where: str) -> Conditions:
    """Raises UnknownName for an attribute that there is not, DeclarationError for a value that makes no
    sense."""
    found: dict[str, Any] = {}
    for name, value in given.items():
        if name not in ATTRIBUTES:
            raise UnknownName("policy attribute", name, ATTRIBUTES, where=where)
        try:
            found[name] = _READ[name](value)
        except (ValueError, TypeError, ZoneInfoNotFoundError, OSError) as error:
            raise DeclarationError(
                f"{name} = {str(value)[:100]!r} makes no sense: {error}", where=where, mend=_MEND[name]
            ) from None
    return Conditions(**found, given=dict(given))


def _read_time(value: Any) -> tuple[time, time]:
    begins, _, ends = str(value).partition("-")
    found = time.fromisoformat(begins.strip()), time.fromisoformat(ends.strip())
    if found[0] == found[1] or any(one.tzinfo is not None or one.second for one in found):
        raise ValueError("no span of minutes")
    return found


def _read_weekdays(value: Any) -> frozenset[int]:
    return frozenset(WEEKDAYS.index(day) for day in _texts(value))


def _read_networks(value: Any) -> tuple[Network, ...]:
    found = tuple(ip_network(text) for text in _texts(value))
    if any(isinstance(one, IPv6Network) and one.prefixlen > _NARROWEST_IPV6 for one in found):
        raise ValueError(f"IPv6 addresses are told apart up to /{_NARROWEST_IPV6}")
    return found


def _read_amount(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError("no amount")
    return value


def _read_classes(value: Any) -> frozenset[str]:
    found = frozenset(_texts(value))
    if not found <= set(DATA_CLASSES):
        raise ValueError(f"known: {', '.join(DATA_CLASSES)}")
    return found


def _texts(value: Any) -> list[str]:
    """A list of 1 to 64 texts, or one text."""
    texts = [value] if isinstance(value, str) else value
    good = isinstance(texts, Sequence) and all(isinstance(text, str) for text in texts)
    if not good or not 0 < len(texts) <= _MOST:
        raise ValueError(f"no list of 1 to {_MOST} texts")
    return list(texts)


_READ: Mapping[str, Callable[[Any], Any]] = {
    "time": _read_time,
    "weekday": _read_weekdays,
    "timezone": lambda value: ZoneInfo(str(value)),
    "network": _read_networks,
    "outside_network": _read_networks,
    "amount_above": _read_amount,
    "data_class": _read_classes,
}
_MEND: Mapping[str, str] = {
    "time": 'write it as "22:00-06:00"',
    "weekday": f"write it as {list(WEEKDAYS)}",
    "timezone": 'write it as "Europe/Berlin"',
    "network": 'write it as ["10.0.0.0/8"]',
    "outside_network": 'write it as ["10.0.0.0/8"]',
    "amount_above": "write a whole number, in the smallest unit of the currency",
    "data_class": f"write it as {list(DATA_CLASSES)}",
}


def _between(now: time, begins: time, ends: time) -> bool:
    """Also over midnight."""
    return begins <= now < ends if begins < ends else now >= begins or now < ends


def _within(address: str, networks: tuple[Network, ...]) -> bool:
    """An IPv6 address is that of its /64 (see `gateway.addresses`)."""
    try:
        found: IPv4Address | IPv6Address = ip_address(address.partition("/")[0])
    except ValueError:
        return False
    return any(found in network for network in networks)
