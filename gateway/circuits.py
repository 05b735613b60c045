"""A breaker before the routes that wait for an answer of somebody else: what fails again and again is left
alone.

There is a circuit for each route, its path's values and tenant, so that what one tenant asks closes no door
to another. Failures are what the answering side is at fault for: no answer in time, a model or its server
that failed. A time that the caller chose itself, shorter than `patience_s`, says nothing.
"""

from collections import OrderedDict
from datetime import timedelta

from core.clock import Clock
from core.errors import DeadlineExceeded, ModelError, ModelUnavailable, ServerFailed
from gateway.exchange import Request, Response
from gateway.routing import Route
from operators.breaker import Breaker, Breaking
from schemas.keys import entity_of

BREAKING = Breaking(failures=5, open_for=timedelta(seconds=5))
CLIENT_GONE = 499
_KEPT = 10_000


class Circuits:
    """The circuits of one gateway; of those that never failed nothing is kept."""

    def __init__(self, clock: Clock, *, patience_s: float, breaking: Breaking = BREAKING) -> None:
        self._clock = clock
        self._breaking = breaking
        self._patience_s = patience_s
        self._failed: OrderedDict[str, Breaker] = OrderedDict()

    def enter(self, route: Route, request: Request) -> "Passage":
        """A request begins; the passage is told how it ended. Raises CircuitOpen."""
        key = entity_of((request.principal.tenant, route.name, *request.parameters.values()))
        breaker = self._failed.get(key)
        ticket = breaker.admit() if breaker else 0
        return Passage(self, key, " ".join((route.name, *request.parameters.values())), breaker, ticket)

    def now(self) -> float:
        return self._clock.monotonic()

    def patient(self, begun: float) -> bool:
        """Whether a request that began then has waited as long as one should."""
        return self.now() - begun >= self._patience_s

    def of(self, key: str, name: str) -> Breaker:
        """The breaker of what has failed."""
        found = self._failed.get(key)
        if found is None:
            found = self._failed[key] = Breaker(self._clock, self._breaking, name=name)
            if len(self._failed) > _KEPT:
                self._failed.popitem(last=False)
        return found


class Passage:
    """One request through its circuit."""

    def __init__(self, circuits: Circuits, key: str, name: str, breaker: Breaker | None, ticket: int) -> None:
        self._circuits = circuits
        self._key = key
        self._name = name
        self._breaker = breaker
        self._ticket = ticket
        self._begun = circuits.now()

    def ended(self, response: Response | None) -> None:
        """With this answer; None where it was cancelled."""
        if response is None or response.status == CLIENT_GONE:
            if self._breaker is not None:
                self._breaker.abandoned(self._ticket)
        elif self._is_failure(response.error):
            (self._breaker or self._circuits.of(self._key, self._name)).failed(self._ticket)
        elif self._breaker is not None:
            self._breaker.succeeded(self._ticket)

    def _is_failure(self, error: BaseException | None) -> bool:
        if isinstance(error, DeadlineExceeded):
            return self._circuits.patient(self._begun)
        return isinstance(error, (ServerFailed, ModelUnavailable, ModelError))
