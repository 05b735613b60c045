"""Which version answers now, as far as a gateway can see: by the routing, else by what the workers tell."""

import contextlib
from collections.abc import Callable, Mapping

from core.clock import Clock
from core.errors import Unavailable
from pipelines.serving.assignment import route_of
from pipelines.serving.fleet import Fleet
from schemas.catalog.models import Route

LOOK_S = 0.05
"""A change is seen so long after it was read from Kafka; asking the follower costs more than a look-up."""


class ServingVersions:
    """`fleets` as `Follower.fleets`. While Kafka is not read, what was known last holds: nobody can be asked
    then either, and what is kept lives its time."""

    def __init__(self, fleets: Callable[[], Mapping[str, Fleet]], clock: Clock) -> None:
        self._read = fleets
        self._clock = clock
        self._fleets: Mapping[str, Fleet] = {}
        self._next_at = 0.0

    def of(self, model: str, tenant: str, unit: str) -> Route | None:
        """What answers a unit; None where that is not known, or the workers do not agree."""
        now = self._clock.monotonic()
        if now >= self._next_at:
            self._next_at = now + LOOK_S
            with contextlib.suppress(Unavailable):
                self._fleets = self._read()
        fleet = self._fleets.get(model)
        if fleet is None:
            return None
        if fleet.routing is not None:
            return route_of(fleet.routing, tenant, unit)
        active = {state.version for state in fleet.states.values() if state.state == "active"}
        return Route(active.pop()) if len(active) == 1 else None
