"""Assignment: which version of a model answers for a unit. Workers and gateways go by the same rule."""

import hashlib

from schemas.catalog.models import Route, Routing


def route_of(routing: Routing, tenant: str, unit: str) -> Route | None:
    """The live route of a unit, as workers that hold every version of the routing assign it; None where none
    is live. The champion is the first one. It has what the others leave, so that a share that grows keeps
    the units that it has."""
    live = [route for route in routing.routes if route.mode == "live"]
    if len(live) <= 1:
        return live[0] if live else None
    place, low = place_of(routing.salt, unit_key(tenant, unit)), 0.0
    for route in live[1:]:
        if low <= place < low + route.share:
            return route
        low += route.share
    return live[0]


def unit_key(tenant: str, unit: str) -> str:
    """An assignment unit as it is hashed."""
    return f"{tenant}|{unit}"


def place_of(salt: str, unit: str) -> float:
    """BLAKE2b of salt and unit as a number in [0, 1)."""
    hashed = hashlib.blake2b(unit.encode(), digest_size=8, key=hashlib.sha256(salt.encode()).digest())
    return (int.from_bytes(hashed.digest()) >> 11) / 2.0**53
